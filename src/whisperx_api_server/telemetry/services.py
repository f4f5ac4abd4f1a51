"""Counts what webhooks and live sessions do: the same services, observed from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import logging_setup
from ..jobs.webhooks import Webhooks
from ..live.events import Committed, Completed, Failed, ServerEvent
from ..live.messages import SessionConfig
from ..live.registry import LiveSessions
from ..live.session import Session
from ..live.transcriber import Send
from .metrics import Metrics
from .telemetry import Telemetry


class MeasuredWebhooks(Webhooks):
    """Webhooks whose deliveries are counted."""

    def __init__(self, metrics: Metrics, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = metrics

    async def deliver(self, url: str, event_id: str, event: Mapping[str, Any]) -> bool:
        delivered = await super().deliver(url, event_id, event)
        self._metrics.webhooks.labels("delivered" if delivered else "failed").inc()
        return delivered


class MeasuredLiveSessions(LiveSessions):
    """Live sessions whose delay, from a commit to the whole transcript, and audio are counted.

    Their batches are linked to the span of the session.
    """

    def __init__(self, telemetry: Telemetry, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._metrics = telemetry.metrics
        self._tracing = telemetry.tracing

    @contextmanager
    def open(
        self, client: str, config: SessionConfig, send: Send, *, beta: bool
    ) -> Iterator[Session]:
        committed: dict[str, float] = {}
        heard = 0.0

        async def measured(event: ServerEvent) -> None:
            nonlocal heard
            await send(event)
            if isinstance(event, Committed):
                committed[event.item_id] = time.monotonic()
            elif isinstance(event, Completed | Failed):
                since = committed.pop(event.item_id)
                if isinstance(event, Completed):
                    self._metrics.live_delay.observe(time.monotonic() - since)
                    self._metrics.audio_accepted.inc(event.usage.seconds)
                    self._metrics.audio_transcribed.inc(event.usage.seconds)
                    heard += event.usage.seconds
                    logging_setup.note_audio(heard)

        with super().open(client, config, measured, beta=beta) as session:
            if self._tracing is not None:
                self._tracing.link(session.id)
            yield session
