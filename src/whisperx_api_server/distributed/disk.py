"""The disk of a worker: whether recordings still fit on it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

PAUSE = 30.0
"""Seconds without new runs after a recording did not fit."""

ROOM = 256 << 20
"""Free bytes without which the disk counts as full: about an hour of decoded audio."""


def free_bytes(directory: Path) -> int:
    """The free bytes of a directory's disk."""
    return shutil.disk_usage(directory).free


class WorkerDisk:
    """The disk that has the directory `workdir`.

    It is full from the moment that a recording does not fit, for `PAUSE` seconds at least, until
    `ROOM` bytes are free. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workdir = workdir
        self._free = free
        self._clock = clock
        self._full_until: float | None = None

    @property
    def full(self) -> bool:
        """Whether the disk was full when it was looked at last."""
        return self._full_until is not None

    async def overflow(self) -> bool:
        """Note that a recording did not fit, now that its files are deleted.

        Returns whether others fit, so that this one is too large.
        """
        if not self.full:
            logger.error(
                "the disk is full: this worker takes no runs for %.0f s, and until %d MB are free",
                PAUSE,
                ROOM >> 20,
            )
        self._full_until = self._clock() + PAUSE
        return await self._has_room()

    async def look(self) -> bool:
        """Look whether the disk is full."""
        if not self.full:
            return False
        has_room = await self._has_room()
        if self._clock() < (self._full_until or 0.0) or not has_room:
            return True
        if self.full:
            logger.info("the disk has room again: this worker takes runs")
        self._full_until = None
        return False

    async def _has_room(self) -> bool:
        return await asyncio.to_thread(self._free, self._workdir) >= ROOM
