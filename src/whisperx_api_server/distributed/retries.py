"""Repeats what fails while the broker or the bucket is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .protocols import ClusterUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_INTERVAL = 1.0
"""Seconds until the broker or the bucket is tried again."""


async def until_available(work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work()`, tried again for as long as the broker or the bucket is away."""
    logged = False
    while True:
        try:
            return await work()
        except ClusterUnavailable as error:
            if not logged:
                logger.warning("%s; trying again", error.message)
            logged = True
            await asyncio.sleep(RETRY_INTERVAL)
