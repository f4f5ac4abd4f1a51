"""Counts runs and their audio: a runner around another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..domain import TranscriptionRequest
from ..errors import Cancelled, Overloaded, ServiceError
from ..pipeline.events import Emit, Event, Opened, StageBegan, WindowDone
from ..pipeline.runner import Checkpoint, RunKind, Runner, RunnerAround
from .metrics import Metrics, RunResult


class MeasuredRunner(RunnerAround):
    """A runner whose runs, and their seconds of audio, are counted.

    The audio of a run is accepted once a stage begins after it was opened, and refused if the run
    is refused before.
    """

    def __init__(
        self, runner: Runner, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(runner)
        self._metrics = metrics
        self._clock = clock

    @asynccontextmanager
    async def around(
        self, kind: RunKind, _request: TranscriptionRequest, emit: Emit, _checkpoint: Checkpoint
    ) -> AsyncIterator[Emit]:
        """Count the run, and wrap `emit` to count its audio."""
        metrics, begun = self._metrics, self._clock()
        duration = reached = 0.0
        admitted: float | None = None

        def left() -> float:
            return max(0.0, duration - reached)  # a counter raises an error for less

        def accept() -> None:
            nonlocal admitted
            if admitted is None:
                admitted = self._clock()
                metrics.audio_accepted.inc(duration)

        async def measured(event: Event) -> None:
            nonlocal duration, reached
            await emit(event)
            if isinstance(event, Opened):
                duration = event.duration
            elif not isinstance(event, StageBegan) or event.stage not in ("open", "wait"):
                accept()
            if isinstance(event, WindowDone):
                metrics.audio_transcribed.inc(max(0.0, event.until - reached))
                reached = event.until

        result: RunResult = "failed"
        try:
            yield measured
            accept()
            result = "completed"
        except Overloaded:
            result = "refused"
            metrics.audio_refused.inc(duration)
            raise
        except ServiceError as error:
            result = "invalid" if error.status < 500 else "failed"
            raise
        except (asyncio.CancelledError, Cancelled):
            result = "cancelled"
            metrics.audio_dropped.inc(left() if admitted is not None else 0.0)
            raise
        finally:
            now = self._clock()
            metrics.runs.labels(kind, result).inc()
            metrics.run_seconds.labels(kind).observe(now - begun)
            if result == "completed" and duration and admitted is not None:
                metrics.audio_transcribed.inc(left() if kind == "transcription" else 0.0)
                metrics.real_time_factor.labels(kind).observe((now - admitted) / duration)
