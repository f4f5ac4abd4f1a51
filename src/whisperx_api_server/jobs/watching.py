"""Jobs as their watchers see them: after each change, and the windows that are done meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from ..domain import Job, Transcript, WindowTranscript
from ..pipeline.events import WindowDone
from .records import JobRecord
from .store import SharedJobStore

POLL_INTERVAL = 1.0
"""Seconds between two reads of a job that another process has."""

Watched = AsyncGenerator[Job | WindowDone, None]


class JobWatch:
    """What one watcher sees of a job, which may go from process to process meanwhile.

    `with_windows`: also the windows, in order, from the first on.
    """

    def __init__(self, *, with_windows: bool) -> None:
        self._with_windows = with_windows
        self._windows = 0
        self._until = 0.0

    async def of_record(self, record: JobRecord) -> Watched:
        """Yield a job of this process until it ends or another process has it."""
        run, passed = None, 0
        while not record.taken_over:
            changed, job = record.changed, record.job
            if record.run not in (None, run):
                run, passed = record.run, 0
            for event in run.so_far[passed:] if run is not None else ():
                passed += 1
                if isinstance(event, WindowDone) and self._is_new(event):
                    yield event
            yield job
            if job.ended:
                return
            await changed.wait()

    async def of_stored(
        self, find: Callable[[], Awaitable[Job | None]], shared: SharedJobStore
    ) -> Watched:
        """Yield a job of another process until it ends or `find` returns None.

        When a job ends, its windows are deleted. Those that were not sent by then come as one
        window, made from the transcript.
        """
        seen: Job | None = None
        read = None
        while (job := await find()) is not None:
            if self._with_windows and not job.ended:
                read = read or shared.windows(job.id)
                for window in filter(self._is_new, await read()):
                    yield window
            elif self._with_windows and seen is not None and job.state == "completed":
                transcript = await shared.transcript(job.id)
                if transcript is not None:
                    yield self._rest(transcript)
            if job != seen:
                yield job
            if job.ended:
                return
            seen = job
            await asyncio.sleep(POLL_INTERVAL)

    def _is_new(self, window: WindowDone) -> bool:
        if not self._with_windows or window.transcript.window_index < self._windows:
            return False
        self._windows = window.transcript.window_index + 1
        self._until = window.until
        return True

    def _rest(self, transcript: Transcript) -> WindowDone:
        """What comes after the windows that were seen."""
        rest = WindowTranscript(
            window_index=self._windows,
            language=transcript.language,
            language_probability=1.0,
            segments=tuple(each for each in transcript.segments if each.start >= self._until),
        )
        return WindowDone(transcript=rest, until=transcript.duration)
