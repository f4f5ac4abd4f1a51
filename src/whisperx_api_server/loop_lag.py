"""Measures how long the event loop is kept from running, and logs what blocks it too long."""

from __future__ import annotations

import asyncio
import logging
import time

logger = logging.getLogger(__name__)

INTERVAL = 0.05
"""Seconds between two measurements."""

MAX_BLOCKED = 0.2
"""Seconds of blocking beyond which a warning is logged."""


class LoopLag:
    """The longest delays of the event loop since the start, in seconds.

    `longest` is how late the loop came back to a timer, for any reason: a busy machine, a thread
    that holds the interpreter's lock. `longest_blocked` is the part of such a delay in which the
    loop's own thread computed.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.longest_blocked = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            wall, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(INTERVAL)
            late = time.monotonic() - wall - INTERVAL
            blocked = min(late, time.thread_time() - computed)
            self.longest = max(self.longest, late)
            self.longest_blocked = max(self.longest_blocked, blocked)
            if blocked > MAX_BLOCKED:
                logger.warning("the event loop was blocked for %.2f s", blocked)
