"""Measures delays of the event loop, and logs when it is blocked too long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL = 0.05
"""Seconds between two measurements."""

MAX_BLOCKED = 0.2
"""Seconds of blocking above which a warning is logged."""


class LoopLag:
    """The longest delays of the event loop since the start, in seconds.

    `longest` is the longest delay of a timer for any reason, such as a busy machine or a thread
    that holds the GIL. `longest_blocked` is the longest time of such a delay during which the
    loop's own thread was computing. `observe` takes each delay.
    """

    def __init__(self, observe: Callable[[float], None] = lambda _delay: None) -> None:
        self._observe = observe
        self.longest = 0.0
        self.longest_blocked = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            wall, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(INTERVAL)
            late = time.monotonic() - wall - INTERVAL
            blocked = min(late, time.thread_time() - computed)
            self._observe(max(0.0, late))
            self.longest = max(self.longest, late)
            self.longest_blocked = max(self.longest_blocked, blocked)
            if blocked > MAX_BLOCKED:
                logger.warning("the event loop was blocked for %.2f s", blocked)
