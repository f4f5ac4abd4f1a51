"""A semaphore that admits threads in the order in which they asked (FIFO)."""

from __future__ import annotations

import threading
from collections import deque


class FairSemaphore:
    """Bounds how many lanes of one device compute at a time.

    `threading.Semaphore` may admit the thread that has just released it before one that waits: a
    lane with hours of work would keep all others of its device out.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the place is handed over, never free meanwhile
            else:
                self._free += 1
