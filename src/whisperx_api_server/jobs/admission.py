"""Admission control: bounds the queue of audio, computes Retry-After, limits time."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from ..domain import TranscriptionRequest
from ..errors import Overloaded, Unavailable
from ..pipeline.events import Emit, Event, Opened, StageBegan, WindowDone
from ..pipeline.runner import Checkpoint, RunKind, Runner, RunnerAround
from ..setting_types import NonNegativeFloat, PositiveFloat, PositiveInt, Section

HALF_LIFE = 60.0
"""Seconds after which a measured speed counts half."""

LONGEST_RETRY = 600.0
"""Maximum of Retry-After, in seconds."""

MOST_OPENING = 8
"""Maximum number of a client's jobs that are opened, or wait opened: their audio is on disk."""

DETECTION_SECONDS = 90.0
"""Maximum audio seconds of a language detection, which needs the first windows only."""


class LimitSettings(Section):
    """Limits of a request, and of the queue."""

    upload_bytes: PositiveInt = Field(
        2 * 1024**3, description="Maximum size of an upload or a fetched file in bytes."
    )
    audio_seconds: PositiveFloat = Field(
        12 * 3600.0, description="Maximum length of a recording in seconds; longer ones get 413."
    )
    queue_seconds: PositiveFloat = Field(
        24 * 3600.0,
        description="Maximum seconds of audio in the queue, and of jobs that wait for it; further "
        "requests or jobs get 429.",
    )
    decode_timeout: PositiveFloat = Field(
        1800.0, description="Seconds until ffmpeg is stopped and the request gets 503."
    )
    request_timeout: NonNegativeFloat = Field(
        0.0, description="Seconds until a request is cancelled; 0 disables it."
    )


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    """A waiting recording, and the seconds that were admitted before it meanwhile."""

    seconds: float
    passed: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Others(Protocol):
    """The processes that share the limit of a queue with this one."""

    @property
    def seconds(self) -> float:
        """Audio seconds that the others have admitted and that are not transcribed yet."""

    @property
    def speed(self) -> float:
        """Audio seconds per second that all workers transcribe together."""


class AdmissionControl:
    """Limits the audio seconds that are admitted and not transcribed yet; for one event loop.

    An empty queue admits a recording of any length. Waiting recordings are admitted in FIFO order.
    Other recordings that fit may overtake the first waiting one, up to its own length in total: so
    short requests continue, and no recording waits for ever.
    """

    def __init__(
        self,
        limit: float,
        *,
        others: Others | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._others = others
        self.seconds = 0.0
        self._admitted = 0
        self._line: deque[_Waiting] = deque()
        self._clock = clock
        self._since = 0.0
        self._computed = 0.0
        self._elapsed = 0.0

    @property
    def speed(self) -> float:
        """Transcribed audio seconds per second of work; 1 before the first measurement."""
        measured = self._elapsed > 0 and self._computed > 0
        return self._computed / self._elapsed if measured else 1.0

    @property
    def queued(self) -> float:
        """Audio seconds that all processes of the queue admitted, and those that wait here."""
        return self.seconds + self._elsewhere + sum(each.seconds for each in self._line)

    @property
    def _elsewhere(self) -> float:
        return self._others.seconds if self._others is not None else 0.0

    def check(self, seconds: float = 0.0) -> None:
        """Check that a recording of that many seconds would be admitted now.

        Raises:
            Overloaded: with the time until there should be room.
        """
        elsewhere = self._elsewhere
        first = self._line[0] if self._line else None
        if first is not None and first.passed + seconds > first.seconds:
            seconds += first.seconds
        elif self._has_room(seconds, elsewhere):
            return
        raise Overloaded(
            "the queue is full; try again later",
            retry_after=self.time_for(self.seconds + elsewhere + seconds - self.limit),
        )

    def check_waiting(self) -> None:
        """Check that the recordings that wait here have less audio than the limit.

        Raises:
            Overloaded: with the time until they should have less.
        """
        waiting = sum(each.seconds for each in self._line)
        if waiting < self.limit:
            return
        before_first = self.seconds + self._elsewhere + self._line[0].seconds - self.limit
        raise Overloaded(
            "too many jobs wait for the queue; try again later",
            retry_after=self.time_for(max(before_first, self.queued - 2 * self.limit)),
        )

    def time_for(self, seconds: float) -> float:
        """The Retry-After until so much audio should be transcribed, in seconds."""
        speed = self._others.speed if self._others is not None else self.speed
        return min(max(1, math.ceil(seconds / speed)), LONGEST_RETRY)

    def reserve(self, seconds: float) -> Admission:
        """Admit a recording of that many seconds.

        Raises:
            Overloaded: there is no room.
        """
        self.check(seconds)
        if self._line:
            self._line[0].passed += seconds
        return self._admit(seconds)

    def must_wait(self, seconds: float) -> bool:
        """Whether `wait` would block."""
        return bool(self._line) or not self._has_room(seconds)

    async def wait(self, seconds: float) -> Admission:
        """Admit a recording in its turn, once there is room."""
        waiting = _Waiting(seconds=seconds)
        self._line.append(waiting)
        try:
            while self._line[0] is not waiting or not self._has_room(seconds):
                await waiting.wake.wait()
                waiting.wake.clear()
            return self._admit(seconds)
        finally:
            self._line.remove(waiting)
            self._wake_first()

    def _has_room(self, seconds: float, elsewhere: float = 0.0) -> bool:
        total = self.seconds + elsewhere
        fits = total < self.limit and total + seconds <= self.limit
        return fits or not (self._admitted or elsewhere)

    def _admit(self, seconds: float) -> Admission:
        if not self._admitted:
            self._since = self._clock()
        self._admitted += 1
        self.seconds += seconds
        return Admission(seconds, release=self._release, leave=self._leave)

    def _release(self, seconds: float, computed: bool) -> None:
        now = self._clock()
        elapsed, self._since = now - self._since, now
        fade = 0.5 ** (elapsed / HALF_LIFE)
        self._elapsed = self._elapsed * fade + elapsed
        self._computed = self._computed * fade + (seconds if computed else 0.0)
        self.seconds = max(0.0, self.seconds - seconds)
        self._wake_first()

    def _leave(self) -> None:
        self._admitted -= 1
        if not self._admitted:
            self.seconds = 0.0  # removes the rounding error of the sum
        self._wake_first()

    def _wake_first(self) -> None:
        if self._line:
            self._line[0].wake.set()


class Admission:
    """One admitted recording; leaving the context releases its remaining seconds.

    `release` takes seconds and whether they were computed; `leave` is called at the end.
    """

    def __init__(
        self, seconds: float, *, release: Callable[[float, bool], None], leave: Callable[[], None]
    ) -> None:
        self._left = seconds
        self._release = release
        self._leave = leave

    def advance(self, seconds: float, *, computed: bool = True) -> None:
        """Release transcribed seconds; those of a checkpoint are not `computed`."""
        seconds = min(seconds, self._left)
        self._left -= seconds
        self._release(seconds, computed)

    def __enter__(self) -> Admission:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release(self._left, kind is None)
        self._left = 0.0
        self._leave()


class AdmittedRunner(RunnerAround):
    """A runner behind admission control, with a time limit for each request.

    A recording is admitted when it is opened, since its length is known then. While a request waits
    for room, its recording stays open and its time limit is suspended; at most `opening` jobs of a
    client are opened, or wait opened, at a time.

    Raises, besides the runner's errors:
        Overloaded: the queue is full, and the request does not wait.
        Unavailable: it took longer than `timeout` seconds; 0 disables the limit.
    """

    def __init__(
        self,
        runner: Runner,
        control: AdmissionControl,
        *,
        timeout: float,
        opening: int = sys.maxsize,
    ) -> None:
        super().__init__(runner)
        self._control = control
        self._timeout = timeout
        self._turns = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(opening))

    @asynccontextmanager
    async def around(
        self, kind: RunKind, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> AsyncIterator[Emit]:
        """Wrap `emit` to admit the recording when it is opened."""
        resumed = frozenset(checkpoint.windows)
        most = DETECTION_SECONDS if kind == "language_detection" else math.inf
        if not request.waits:
            self._control.check()
        admission: Admission | None = None
        reached = 0.0
        with ExitStack() as stack, ExitStack() as turn:
            if request.waits:
                await self._turns[request.client].acquire()
                turn.callback(self._turns[request.client].release)
            try:
                async with asyncio.timeout(self._timeout or None) as limit:

                    async def admitted(event: Event) -> None:
                        nonlocal admission, reached
                        await emit(event)
                        if isinstance(event, Opened):
                            seconds = min(event.duration, most)
                            if request.waits:
                                admission = await self._wait(seconds, emit, limit)
                            else:
                                admission = self._control.reserve(seconds)
                            stack.enter_context(admission)
                            turn.close()
                        elif isinstance(event, WindowDone) and admission is not None:
                            computed = event.transcript.window_index not in resumed
                            admission.advance(event.until - reached, computed=computed)
                            reached = event.until

                    yield admitted
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise Unavailable(
                    f"the request took longer than {self._timeout:g} s, the maximum"
                ) from error

    async def _wait(self, seconds: float, emit: Emit, limit: asyncio.Timeout) -> Admission:
        """Admit a recording once there is room; suspends the time limit meanwhile."""
        begun, end = asyncio.get_running_loop().time(), limit.when()
        if self._control.must_wait(seconds):
            await emit(StageBegan(stage="wait", at=time.time()))
            limit.reschedule(None)
        admission = await self._control.wait(seconds)
        if end is not None:
            limit.reschedule(end + asyncio.get_running_loop().time() - begun)
        return admission
