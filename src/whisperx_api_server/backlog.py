"""How much audio may wait: beyond the bound a request is refused early, and told when to return."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from .errors import Overloaded

HALF_LIFE = 60.0
"""Seconds after which a measured speed counts half."""

LONGEST_RETRY = 600.0
"""Nobody is told to come back later than this, in seconds."""


class Backlog:
    """Audio seconds that were accepted and are not transcribed yet; used on the event loop only."""

    def __init__(self, limit: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.seconds = 0.0
        self._reservations = 0
        self._clock = clock
        self._since = 0.0
        self._done = 0.0
        self._elapsed = 0.0

    @property
    def speed(self) -> float:
        """Audio seconds transcribed a second, measured while there was work; 1 before any."""
        return self._done / self._elapsed if self._elapsed > 0 and self._done > 0 else 1.0

    def check(self, seconds: float = 0.0) -> None:
        """See whether that much more may wait. An empty backlog takes a recording of any length.

        Raises:
            Overloaded: with the time until there should be room.
        """
        excess = self.seconds + seconds - self.limit
        if self._reservations and (excess > 0 or self.seconds >= self.limit):
            wait = min(max(1, math.ceil(excess / self.speed)), LONGEST_RETRY)
            raise Overloaded(
                "the server has as much audio waiting as it accepts; try again later",
                retry_after=wait,
            )

    def reserve(self, seconds: float) -> Reservation:
        """Account for a recording of that many seconds until it is released.

        Raises:
            Overloaded: there is no room.
        """
        self.check(seconds)
        if not self._reservations:
            self._since = self._clock()
        self._reservations += 1
        self.seconds += seconds
        return Reservation(self, seconds)

    def _release(self, seconds: float, *, done: bool) -> None:
        now = self._clock()
        elapsed, self._since = now - self._since, now
        fade = 0.5 ** (elapsed / HALF_LIFE)
        self._elapsed = self._elapsed * fade + elapsed
        self._done = self._done * fade + (seconds if done else 0.0)
        self.seconds = max(0.0, self.seconds - seconds)

    def _leave(self) -> None:
        self._reservations -= 1
        if not self._reservations:
            self.seconds = 0.0  # what rounding has left of the sum


class Reservation:
    """One recording's part of the backlog; leaving the context releases what is left of it."""

    def __init__(self, backlog: Backlog, seconds: float) -> None:
        self._backlog = backlog
        self._left = seconds

    def done(self, seconds: float) -> None:
        """That many seconds more are transcribed."""
        seconds = min(seconds, self._left)
        self._left -= seconds
        self._backlog._release(seconds, done=True)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._backlog._release(self._left, done=kind is None)
        self._left = 0.0
        self._backlog._leave()
