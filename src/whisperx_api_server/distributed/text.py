"""Translation and text generation by workers."""

from __future__ import annotations

from collections.abc import Mapping

from ..active_requests import ActiveRequests
from .runner import KafkaRunner
from .wire import TextRequest


class WorkersText:
    """The Texts of an API replica."""

    def __init__(self, runner: KafkaRunner, active: ActiveRequests) -> None:
        self._runner = runner
        self._active = active

    async def translate(
        self, text: str, source: str, target: str, *, request_id: str, client: str
    ) -> str:
        """See `Texts.translate`."""
        request = TextRequest(id=request_id, client=client, text=text, source=source, target=target)
        with self._active.track():
            return await self._runner.text(request, "translate")

    async def generate(
        self,
        prompt: str,
        *,
        config: Mapping[str, object],
        schema: Mapping[str, object] | None,
        request_id: str,
        client: str,
    ) -> str:
        """See `Texts.generate`."""
        request = TextRequest(
            id=request_id, client=client, text=prompt, config=config, schema=schema
        )
        with self._active.track():
            return await self._runner.text(request, "generate")
