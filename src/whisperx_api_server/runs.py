"""Deduplicates requests: identical concurrent requests share one run, and a retry resumes it.

A client that times out and tries again, as OpenAI's SDK does by itself, must not double the work.
So a run is identified by what was asked (content, parameters, client). While it is alive, the same
request joins it. When its last watcher leaves, it is cancelled at once, which frees the device, and
its checkpoint is kept for a while, so that a retry resumes from the windows that were done.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .domain import (
    Segment,
    StageTimes,
    Transcript,
    TranscriptionRequest,
    UploadedFile,
    WindowTranscript,
)
from .pipeline import Pipeline
from .stages import Checkpoint, Observer
from .tracebacks import released

logger = logging.getLogger(__name__)

MAX_REMEMBERED = 200
"""Maximum number of ended runs that are remembered; the oldest are forgotten first."""

MAX_REMEMBERED_SECONDS = 48 * 3600.0
"""Maximum seconds of audio that the remembered runs have transcribed together: the words of an hour
take some megabytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """The next window of a run, in order; all is transcribed up to `until` seconds."""

    transcript: WindowTranscript
    until: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """The next segments of a diarized run, in order, with their speakers."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of a run: everything, speakers included."""

    transcript: Transcript


RunEvent = Heard | Spoken | Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is; `reached` and `duration` in seconds of the recording."""

    stages: tuple[StageTimes, ...] = ()
    duration: float | None = None
    reached: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether nothing happens yet: it has not begun, or there is no room for it."""
        return not self.stages or self.stages[-1].name == "wait"

    @property
    def part(self) -> float:
        """The part in [0, 1] that is transcribed."""
        return min(1.0, self.reached / self.duration) if self.duration else 0.0

    @property
    def transcribing_since(self) -> float | None:
        """When transcription began, in seconds since the epoch."""
        return next((each.started_at for each in self.stages if each.name == "transcribe"), None)


class Run(Observer):
    """One recording on its way, watched by any number of requests.

    It has links of its own to the files that it reads: the request that brought them may leave
    while others stay.
    """

    def __init__(self, request: TranscriptionRequest, checkpoint: Checkpoint) -> None:
        self._files: list[Path] = []
        self.request = self._own_files(request)
        self.checkpoint = checkpoint
        self.progress = Progress()
        self.so_far: list[Heard | Spoken] = []
        self.watchers = 0
        self.task: asyncio.Task[Transcript] | None = None
        self._changed = asyncio.Event()

    def begin(self, work: Callable[[], Awaitable[Transcript]]) -> None:
        """Start the work, which reports to this run; a failure is logged here, once for all."""
        self.task = asyncio.create_task(released(work, logger, f"run {self.request.id} failed"))
        self.task.add_done_callback(lambda _: self._ended())

    @property
    def transcript(self) -> Transcript | None:
        """The transcript, once it is there."""
        task = self.task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    @property
    def failed(self) -> bool:
        """Whether it ended without a transcript."""
        return self.task is not None and self.task.done() and self.transcript is None

    async def result(self) -> Transcript:
        """The transcript; cancelling the wait does not cancel the run."""
        assert self.task is not None
        return await asyncio.shield(self.task)

    async def events(self) -> AsyncGenerator[RunEvent, None]:
        """All that happens, from the beginning; `Finished` is the last."""
        assert self.task is not None
        seen = 0
        while True:
            changed = self._changed
            while seen < len(self.so_far):
                yield self.so_far[seen]
                seen += 1
            if self.task.done():
                break
            await changed.wait()
        yield Finished(transcript=await self.result())

    async def changes(self) -> AsyncGenerator[Progress, None]:
        """How far it is, now and after each change; ends with the run."""
        assert self.task is not None
        while True:
            changed, done = self._changed, self.task.done()
            yield self.progress
            if done:
                return
            await changed.wait()

    def stage(self, name: str) -> None:
        """See `Observer.stage`. Transcription and diarization run side by side, others in turn."""
        now = time.time()
        together = {"transcribe", "diarize"}
        ended = tuple(
            each
            if each.finished_at is not None or {each.name, name} == together
            else replace(each, finished_at=now)
            for each in self.progress.stages
        )
        stages = (*ended, StageTimes(name=name, started_at=now))
        self.progress = replace(self.progress, stages=stages)
        self.tell()

    def opened(self, duration: float) -> None:
        """See `Observer.opened`."""
        self.progress = replace(self.progress, duration=duration)
        self.tell()

    def heard(self, transcript: WindowTranscript, until: float) -> None:
        """See `Observer.heard`."""
        self.so_far.append(Heard(transcript=transcript, until=until))
        self.progress = replace(self.progress, reached=until)
        self.tell()

    def spoken(self, segments: Sequence[Segment]) -> None:
        """See `Observer.spoken`."""
        self.so_far.append(Spoken(segments=tuple(segments)))
        self.tell()

    def _ended(self) -> None:
        assert self.task is not None
        if not self.task.cancelled():
            self.task.exception()  # it counts as retrieved, also where no watcher is left
        for file in self._files:
            file.unlink(missing_ok=True)
        self.tell()

    def _own_files(self, request: TranscriptionRequest) -> TranscriptionRequest:
        if isinstance(request.source, UploadedFile):
            request = replace(request, source=self._link(request.source))
        if request.diarize is not None:
            known = tuple(
                replace(speaker, reference=self._link(speaker.reference))
                for speaker in request.diarize.known_speakers
            )
            request = replace(request, diarize=replace(request.diarize, known_speakers=known))
        return request

    def _link(self, file: UploadedFile) -> UploadedFile:
        link = file.path.with_name(f"{file.path.name}-{uuid.uuid4().hex}")
        link.hardlink_to(file.path)
        self._files.append(link)
        return replace(file, path=link)

    def tell(self) -> None:
        """Wake the watchers."""
        # Each change has an event of its own: a watcher waits for the one after the last it saw.
        self._changed, changed = asyncio.Event(), self._changed
        changed.set()


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembered:
    """The results of an ended run, kept `until` that second of the clock.

    Values only: the task of a run, or its error, would keep the recording in memory.
    """

    checkpoint: Checkpoint
    events: tuple[Heard | Spoken, ...]
    transcript: Transcript | None
    reached: float
    until: float


class Runs:
    """The runs that are alive, and the results of those that a retry may still ask for.

    `retry_window` is how many seconds an ended run is remembered; 0 shares nothing. Only an upload
    has an identity: a URL may give another recording the next time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        retry_window: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._retry_window = retry_window
        self._clock = clock
        self._shared: dict[Hashable, Run] = {}  # each has watchers
        self._remembered: OrderedDict[Hashable, Remembered] = OrderedDict()  # the oldest first
        self._alive: list[Run] = []

    def position(self, run: Run) -> int:
        """How many runs that began before this one are still under way."""
        return self._alive.index(run) if run in self._alive else 0

    def identity(self, request: TranscriptionRequest) -> Hashable | None:
        """Equal for requests of one client that ask the same about the same content."""
        source = request.source
        if not self._retry_window or not isinstance(source, UploadedFile) or not source.digest:
            return None
        return replace(request, id="")

    @asynccontextmanager
    async def join(
        self,
        request: TranscriptionRequest,
        identity: Hashable | None,
        *,
        retry: bool = False,
        waits: bool = False,
    ) -> AsyncIterator[Run]:
        """Watch the run of a request, begun if there is none; the last to leave withdraws it.

        `identity` is equal for requests that ask the same; None shares nothing. Only what the
        client calls a retry is answered from a run that has ended already. A run that is begun here
        `waits` for room in a full queue, or is refused.
        """
        run = self._shared.get(identity) if identity is not None else None
        if run is None or run.failed:
            run = self._begin(request, identity, retry=retry, waits=waits)
        run.watchers += 1
        try:
            yield run
        finally:
            run.watchers -= 1
            if not run.watchers:
                await self._leave(run, identity)

    def _begin(
        self, request: TranscriptionRequest, identity: Hashable | None, *, retry: bool, waits: bool
    ) -> Run:
        known = self._recall(identity, retry=retry)
        run = Run(request, known.checkpoint if known is not None else Checkpoint())
        if known is not None and known.transcript is not None:
            run.begin(partial(_replay, known.events, known.transcript, run))
        else:
            run.begin(partial(self._pipeline.run, run.request, run, run.checkpoint, waits=waits))
        self._alive.append(run)
        assert run.task is not None
        run.task.add_done_callback(lambda _: self._left(run))
        if identity is not None:
            self._shared[identity] = run
        return run

    def _recall(self, identity: Hashable | None, *, retry: bool) -> Remembered | None:
        """The results of an earlier run; its transcript is for requests alone that are retries."""
        self.forget_old()
        if identity is None:
            return None
        failed = self._shared.get(identity)
        known = self._remembered.get(identity) if failed is None else self._results(failed)
        return known if known is not None and (retry or known.transcript is None) else None

    def _left(self, run: Run) -> None:
        self._alive.remove(run)
        for behind in self._alive:
            behind.tell()  # its position has changed

    async def _leave(self, run: Run, identity: Hashable | None) -> None:
        assert run.task is not None
        if not run.task.done():
            run.task.cancel()
            await asyncio.wait([run.task])
        if identity is not None and self._shared.get(identity) is run and not run.watchers:
            del self._shared[identity]
            self._remembered.pop(identity, None)
            self._remembered[identity] = self._results(run)

    def _results(self, run: Run) -> Remembered:
        return Remembered(
            checkpoint=run.checkpoint,
            events=tuple(run.so_far),
            transcript=run.transcript,
            reached=run.progress.reached,
            until=self._clock() + self._retry_window,
        )

    def forget_old(self) -> None:
        """Forget what is past its time, and the oldest of what is too much."""
        now = self._clock()
        seconds = sum(each.reached for each in self._remembered.values())
        for key, each in list(self._remembered.items()):
            full = len(self._remembered) > MAX_REMEMBERED or seconds > MAX_REMEMBERED_SECONDS
            if full or each.until < now:
                seconds -= each.reached
                del self._remembered[key]


async def _replay(
    events: Sequence[Heard | Spoken], transcript: Transcript, observer: Observer
) -> Transcript:
    """A run whose results are known already."""
    for event in events:
        if isinstance(event, Heard):
            observer.heard(event.transcript, event.until)
        else:
            observer.spoken(event.segments)
    return transcript
