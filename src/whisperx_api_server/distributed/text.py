"""Translation and text generation by workers."""

from __future__ import annotations

from ..active_requests import ActiveRequests
from ..text_service import TextRequest
from .kafka_runner import KafkaRunner


class ClusterText:
    """The Texts of an API replica."""

    def __init__(self, runner: KafkaRunner, active: ActiveRequests) -> None:
        self._runner = runner
        self._active = active

    async def translate(self, request: TextRequest) -> str:
        with self._active.track():
            return await self._runner.text(request, "translate")

    async def generate(self, request: TextRequest) -> str:
        with self._active.track():
            return await self._runner.text(request, "generate")
