"""A semaphore that admits threads in FIFO order."""

from __future__ import annotations

import threading
from collections import deque


class FairSemaphore:
    """Limits how many lanes of one device compute at a time.

    `threading.Semaphore` may admit the thread that has just released it before one that waits, so
    a lane with hours of work could block the other lanes of its device.
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
                self._waiting.popleft().set()  # hands the place over without freeing it
            else:
                self._free += 1
