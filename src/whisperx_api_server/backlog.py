"""Admission control: bounds the audio that is accepted and computes Retry-After."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from .errors import Overloaded

HALF_LIFE = 60.0
"""Seconds after which a measured speed counts half."""

LONGEST_RETRY = 600.0
"""Maximum of Retry-After, in seconds."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    """A recording that waits for room, and the seconds that were admitted past it."""

    seconds: float
    passed: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Backlog:
    """Audio seconds that are admitted and not transcribed yet; used on the event loop only.

    An empty backlog admits a recording of any length. Recordings that wait for room are admitted in
    the order in which they came. Others that fit are admitted past the first of them, up to its own
    length in all: short requests go on, and no recording waits for ever.
    """

    def __init__(self, limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.seconds = 0.0
        self._admitted = 0
        self._line: deque[_Waiting] = deque()
        self._clock = clock
        self._since = 0.0
        self._computed = 0.0
        self._elapsed = 0.0

    @property
    def speed(self) -> float:
        """Audio seconds transcribed a second, measured while there was work; 1 before any."""
        measured = self._elapsed > 0 and self._computed > 0
        return self._computed / self._elapsed if measured else 1.0

    def check(self, seconds: float = 0.0) -> None:
        """See whether a recording of that many seconds would be admitted now.

        Raises:
            Overloaded: with the time until there should be room.
        """
        first = self._line[0] if self._line else None
        if first is not None and first.passed + seconds > first.seconds:
            seconds += first.seconds
        elif self._has_room(seconds):
            return
        excess = self.seconds + seconds - self.limit
        raise Overloaded(
            "the queue is full; try again later",
            retry_after=min(max(1, math.ceil(excess / self.speed)), LONGEST_RETRY),
        )

    def reserve(self, seconds: float) -> Reservation:
        """Admit a recording of that many seconds until it is released.

        Raises:
            Overloaded: there is no room.
        """
        self.check(seconds)
        if self._line:
            self._line[0].passed += seconds
        return self._admit(seconds)

    def must_wait(self, seconds: float) -> bool:
        """Whether `wait` would not return at once."""
        return bool(self._line) or not self._has_room(seconds)

    async def wait(self, seconds: float) -> Reservation:
        """Admit a recording once there is room and those that waited before it are admitted."""
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

    def _has_room(self, seconds: float) -> bool:
        fits = self.seconds < self.limit and self.seconds + seconds <= self.limit
        return fits or not self._admitted

    def _admit(self, seconds: float) -> Reservation:
        if not self._admitted:
            self._since = self._clock()
        self._admitted += 1
        self.seconds += seconds
        return Reservation(self, seconds)

    def _release(self, seconds: float, *, computed: bool) -> None:
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
            self.seconds = 0.0  # what rounding has left of the sum
        self._wake_first()

    def _wake_first(self) -> None:
        if self._line:
            self._line[0].wake.set()


class Reservation:
    """One recording's part of the backlog; leaving the context releases what is left of it."""

    def __init__(self, backlog: Backlog, seconds: float) -> None:
        self._backlog = backlog
        self._left = seconds

    def advance(self, seconds: float, *, computed: bool = True) -> None:
        """That many seconds more are transcribed; what a retry found done is not `computed`."""
        seconds = min(seconds, self._left)
        self._left -= seconds
        self._backlog._release(seconds, computed=computed)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._backlog._release(self._left, computed=kind is None)
        self._left = 0.0
        self._backlog._leave()
