"""Counts the requests under way, so that a shutdown refuses new ones and waits for the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ShuttingDown

logger = logging.getLogger(__name__)


class ActiveRequests:
    """The requests that all services of one server have under way."""

    def __init__(self) -> None:
        self.count = 0
        self._awaited = 0
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()

    @contextmanager
    def track(self, *, awaited: bool = True) -> Iterator[None]:
        """Count a request as under way; a shutdown waits for it if it is `awaited`."""
        self.count += 1
        self._awaited += awaited
        try:
            yield
        finally:
            self.count -= 1
            self._awaited -= awaited
            if not self._awaited:
                self._idle.set()

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the server shuts down."""
        return self._draining.is_set()

    async def until_draining(self) -> None:
        """Wait until the server shuts down."""
        await self._draining.wait()

    def ensure_accepting(self) -> None:
        """Check that new requests are accepted, before their body is read.

        Raises:
            ShuttingDown: the server is draining.
        """
        if self.draining:
            raise ShuttingDown("the server is shutting down; try again shortly", retry_after=5)

    async def drain(self, grace: float) -> bool:
        """Refuse new requests and wait for those under way; whether all of them finished.

        Only the first call waits: requests that exceed its grace period do not get a second one.
        """
        if self.draining:
            return not self._awaited
        self._draining.set()
        try:
            async with asyncio.timeout(grace):
                while self._awaited:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            logger.warning("%d request(s) did not finish within %g s", self._awaited, grace)
            return False
        return True
