"""Deduplicates requests: identical concurrent requests share one run, and a retry resumes it.

A client that times out and tries again, as OpenAI's SDK does by itself, must not double the work.
So a run is identified by content, parameters and client. An identical request joins it while it is
alive. When its last watcher leaves, it is cancelled at once, which frees the device; its checkpoint
is kept for a while, so that a retry resumes from the finished windows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce

from ..audio.uploads import BlobStore
from ..domain import Transcript, TranscriptionRequest, Upload
from ..logging_setup import note_audio
from ..pipeline.events import Event, Finished, Progress
from ..pipeline.runner import Checkpoint, Runner
from ..scheduling.tracebacks import released

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 200
"""Maximum number of remembered runs; the oldest are forgotten first."""

MAX_REMEMBERED_SECONDS = 48 * 3600.0
"""Maximum audio seconds of all remembered runs: the words of an hour take some megabytes."""


class Run:
    """One request under way: its events so far, watched by any number of clients.

    It retains its uploads, because the request that sent them may leave before the others.
    `events` are given for an ended run that is replayed.
    """

    def __init__(
        self,
        request: TranscriptionRequest,
        checkpoint: Checkpoint,
        events: Iterable[Event] = (),
    ) -> None:
        self.request = request
        self.checkpoint = checkpoint
        self.so_far: list[Event] = list(events)
        self.progress = reduce(Progress.after, self.so_far, Progress())
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None
        self._held: list[Upload] = []
        self._changed = asyncio.Event()

    def begin(self, runner: Runner, blobs: BlobStore) -> None:
        """Start the work; an error is logged here, once for all watchers."""
        for upload in self.request.uploads:
            blobs.retain(upload)
            self._held.append(upload)
        work = partial(self._work, runner, blobs)
        self.task = asyncio.create_task(released(work, logger, f"run {self.request.id} failed"))
        self.task.add_done_callback(lambda _: self._ended())

    async def _work(self, runner: Runner, blobs: BlobStore) -> None:
        try:
            transcript = await runner.run(self.request, self.emit, self.checkpoint)
        finally:
            await self.release(blobs)
        await self.emit(Finished(transcript=transcript))

    async def release(self, blobs: BlobStore) -> None:
        """Release the uploads; may be called twice."""
        while self._held:
            await blobs.release(self._held.pop())

    async def emit(self, event: Event) -> None:
        """Record an event, and wake the watchers."""
        self.so_far.append(event)
        self.progress = self.progress.after(event)
        self.wake()

    @property
    def transcript(self) -> Transcript | None:
        """The transcript; None before the end."""
        last = self.so_far[-1] if self.so_far else None
        return last.transcript if isinstance(last, Finished) else None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.task is None or self.task.done()

    @property
    def failed(self) -> bool:
        """Whether it ended without a transcript, or is being cancelled."""
        ending = self.done or (self.task is not None and self.task.cancelling() > 0)
        return ending and self.transcript is None

    async def result(self) -> Transcript:
        """Wait for the transcript; cancelling the wait does not cancel the run."""
        if self.task is not None:
            await asyncio.shield(self.task)
        assert self.transcript is not None
        return self.transcript

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield all events from the first; `Finished` is the last."""
        seen = 0
        while True:
            changed, done = self._changed, self.done
            while seen < len(self.so_far):
                yield self.so_far[seen]
                seen += 1
            if done:
                break
            await changed.wait()
        await self.result()  # raises the error of the run

    async def changes(self) -> AsyncGenerator[Progress, None]:
        """Yield the progress, now and after each event, until the run ends."""
        while True:
            changed, done = self._changed, self.done
            yield self.progress
            if done:
                return
            await changed.wait()

    def _ended(self) -> None:
        assert self.task is not None
        if not self.task.cancelled():
            self.task.exception()  # marks it as retrieved, even without watchers
        self.wake()

    def wake(self) -> None:
        """Wake the watchers."""
        # A new event per change: a watcher waits for the change after the last that it saw.
        self._changed, changed = asyncio.Event(), self._changed
        changed.set()


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """The results of an ended run, kept until the clock shows `until`.

    Values only: a run's task or error would keep the recording in memory.
    """

    checkpoint: Checkpoint
    events: tuple[Event, ...]
    reached: float
    until: float

    @property
    def finished(self) -> bool:
        """Whether the run ended with a transcript."""
        return bool(self.events) and isinstance(self.events[-1], Finished)


class RunRegistry:
    """The runs that are alive, and the results of ended ones for retries.

    `retry_window` is how many seconds an ended run is remembered; 0 disables sharing. Only uploads
    are shared: a URL may return another recording the next time.
    """

    def __init__(
        self,
        runner: Runner,
        blobs: BlobStore,
        *,
        retry_window: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._blobs = blobs
        self._retry_window = retry_window
        self._clock = clock
        self._shared: dict[Hashable, Run] = {}  # each has watchers
        self._remembered: OrderedDict[Hashable, Remembered] = OrderedDict()  # the oldest first
        self._alive: list[Run] = []

    def position(self, run: Run) -> int:
        """Number of earlier runs that are still under way."""
        return self._alive.index(run) if run in self._alive else 0

    def identity(self, request: TranscriptionRequest) -> Hashable | None:
        """Return a key that is equal for identical requests of one client; None if not shared."""
        source = request.source
        if not self._retry_window or not isinstance(source, Upload) or not source.digest:
            return None
        return replace(request, id="")

    @asynccontextmanager
    async def join(
        self, request: TranscriptionRequest, *, retry: bool = False
    ) -> AsyncIterator[Run]:
        """Watch the run of a request, which begins if there is none; the last to leave cancels it.

        Only a `retry` gets the transcript of an ended run.
        """
        identity = self.identity(request)
        run = self._shared.get(identity) if identity is not None else None
        if run is None or run.failed:
            run = self._begin(request, identity, retry=retry)
        run.watchers += 1
        try:
            yield run
        finally:
            if run.progress.duration is not None:
                note_audio(run.progress.duration)
            run.watchers -= 1
            if not run.watchers:
                await self._leave(run, identity)

    def _begin(
        self, request: TranscriptionRequest, identity: Hashable | None, *, retry: bool
    ) -> Run:
        known = self._recall(identity, retry=retry)
        if known is not None and known.finished:
            run = Run(request, known.checkpoint, known.events)
        else:
            run = Run(request, known.checkpoint if known is not None else Checkpoint())
            run.begin(self._runner, self._blobs)
            self._alive.append(run)
            assert run.task is not None
            run.task.add_done_callback(lambda _: self._left(run))
        if identity is not None:
            self._shared[identity] = run
        return run

    def _recall(self, identity: Hashable | None, *, retry: bool) -> Remembered | None:
        """Return the results of an earlier run; those of a finished one for retries only."""
        self.forget_old()
        if identity is None:
            return None
        failed = self._shared.get(identity)
        known = self._remembered.get(identity) if failed is None else self._results(failed)
        return known if known is not None and (retry or not known.finished) else None

    def _left(self, run: Run) -> None:
        self._alive.remove(run)
        for behind in self._alive:
            behind.wake()  # its position has changed

    async def _leave(self, run: Run, identity: Hashable | None) -> None:
        if run.task is not None and not run.task.done():
            run.task.cancel()
            await asyncio.wait([run.task])
            await run.release(self._blobs)  # it may have been cancelled before it began
        if identity is not None and self._shared.get(identity) is run and not run.watchers:
            del self._shared[identity]
            self._remembered.pop(identity, None)
            self._remembered[identity] = self._results(run)

    def _results(self, run: Run) -> Remembered:
        return Remembered(
            checkpoint=run.checkpoint,
            events=tuple(run.so_far),
            reached=run.progress.reached,
            until=self._clock() + self._retry_window,
        )

    def forget_old(self) -> None:
        """Forget runs after the retry window, and the oldest ones above the limits."""
        now = self._clock()
        seconds = sum(each.reached for each in self._remembered.values())
        for key, each in list(self._remembered.items()):
            full = len(self._remembered) > MAX_REMEMBERED or seconds > MAX_REMEMBERED_SECONDS
            if full or each.until < now:
                seconds -= each.reached
                del self._remembered[key]
