"""Readiness in MODE=kafka: whether this process reaches the broker and the bucket."""

from __future__ import annotations

import asyncio
import math
import time

from .members import INTERVAL, Members
from .protocols import Bucket, ClusterUnavailable

CHECK_INTERVAL = 2.0
"""Seconds for which an answer of the bucket counts, and a failure too."""

CHECK_TIMEOUT = 3.0
"""Seconds until a bucket that does not answer is away."""


class ClusterCheck:
    """Checks the connections of the process with that name, for its load balancer.

    The broker is reached while the process reads its own heartbeats.
    """

    def __init__(self, name: str, *, members: Members, bucket: Bucket) -> None:
        self._name = name
        self._members = members
        self._bucket = bucket
        self._in_turn = asyncio.Lock()
        self._asked = -math.inf
        self._failure: str | None = None

    async def __call__(self) -> None:
        """Check both; the bucket is asked at intervals, however often this is called.

        Raises:
            ClusterUnavailable: it says which of them cannot be reached.
        """
        if not self._members.alive(self._name):
            raise ClusterUnavailable(
                "the server cannot reach its message broker: its heartbeats do not come back",
                retry_after=INTERVAL,
            )
        async with self._in_turn:
            if time.monotonic() - self._asked >= CHECK_INTERVAL:
                self._failure = await self._ask()
                self._asked = time.monotonic()
        if self._failure is not None:
            raise ClusterUnavailable(self._failure, retry_after=CHECK_INTERVAL)

    async def _ask(self) -> str | None:
        """Why the bucket cannot be reached; None if it answers."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await self._bucket.get("check")
        except ClusterUnavailable as error:
            return error.message
        except TimeoutError:
            return "the server cannot reach its object store: it does not answer in time"
        return None
