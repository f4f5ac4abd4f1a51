"""Which entries run together next: the queue, what batches cost, and how large they may be. Pure.

Batches are as large as memory and the model's limit allow, with two exceptions that bound how long
others wait: while several requests compete, and for a request that somebody watches.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .batch_queue import BatchQueue, Entry
from .batch_times import BatchTimes

P = TypeVar("P")

CONTENTION_MEMORY = 30.0
"""Seconds for which requests count as competing after two of them waited at the same time."""

CONTENTION_STRETCH = 1.4
"""While requests compete, one request's entries may stretch a batch to this many times the time of
a batch of one. A new request pays it at most twice (the batch in flight and its own), which keeps
a short clip within about three times its idle latency."""

WATCHED_STRETCH = 2.4
"""A watched request's entries may stretch a batch to this many times the time of a batch of one:
the longest gap between two deltas of a stream. Whisper base on two cores then decodes three windows
at a time in 1.9 times the time of one, 6 % slower than twelve at a time."""

WATCHED_SECONDS = 1.0
"""Batches shorter than this are not made smaller for a watched request: nobody sees the difference,
and a GPU would lose throughput."""

GROWTH_AFTER = 20
"""Batches without a memory shortage after which a lowered batch limit grows by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """`max_padded_seconds` per batch, None for no limit; an idle lane waits `max_wait` seconds for
    more entries."""

    max_batch: int = 1
    max_padded_seconds: float | None = None
    max_wait: float = 0.0


class BatchPolicy(Generic[P]):
    """Decides the batches of one lane. Not thread-safe: its owner locks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.queue: BatchQueue[P] = BatchQueue()
        self.limits = BatchLimits()
        self.batch_limit = 1
        """The largest batch at present; below `limits.max_batch` after a memory shortage."""
        self._clock = clock
        self._times: defaultdict[Hashable, BatchTimes] = defaultdict(BatchTimes)
        self._last_contention = float("-inf")
        self._good_batches = 0

    def set_limits(self, limits: BatchLimits) -> None:
        """Begin with a model's limits."""
        self.limits = limits
        self.batch_limit = limits.max_batch

    def take(self) -> list[Entry[P]]:
        """Take the next batch from the queue."""
        now = self._clock()
        if self.queue.requests > 1:
            self._last_contention = now
        contended = now - self._last_contention < CONTENTION_MEMORY

        def share(entry: Entry[P]) -> int | None:
            times = self._times[entry.work]
            single = times.seconds(1)
            if contended:
                return times.largest_within(CONTENTION_STRETCH * single)
            if entry.watched:
                return times.largest_within(max(WATCHED_SECONDS, WATCHED_STRETCH * single))
            return None

        return self.queue.take(self.batch_limit, self.limits.max_padded_seconds, share)

    def upcoming(self) -> list[Entry[P]]:
        """About the entries of the next two batches."""
        return self.queue.peek(2 * self.batch_limit)

    def succeeded(self, batch: list[Entry[P]], seconds: float) -> None:
        """Learn from a batch that ran whole; after enough of them a lowered limit grows."""
        self._times[batch[0].work].observe(len(batch), seconds)
        if self.batch_limit < self.limits.max_batch:
            self._good_batches += 1
            if self._good_batches >= GROWTH_AFTER:
                self.batch_limit += 1
                self._good_batches = 0

    def ran_out_of_memory(self, size: int) -> None:
        """Lower the limit below a batch that did not fit into memory."""
        self.batch_limit = max(1, min(self.batch_limit, size // 2))
        self._good_batches = 0
