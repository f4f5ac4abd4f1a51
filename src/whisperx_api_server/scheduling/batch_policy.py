"""Decides each batch of a lane from the queue, estimated durations and size limits; pure.

Batches are as large as memory and the model's limit allow, with exceptions that limit waiting
times: while several requests compete, while a live session is open, and for streamed requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from .batch_queue import BatchQueue
from .batch_times import BatchTimes
from .work import AnyEntry

CONTENTION_MEMORY = 30.0
"""Seconds for which requests count as competing after two of them waited at the same time."""

CONTENTION_STRETCH = 1.4
"""While requests compete, one request's entries may extend a batch to this many times the duration
of its longest entry alone. A new request pays the factor at most twice (for the batch in flight
and its own), so a short clip takes at most about three times its idle latency."""

WATCHED_STRETCH = 2.2
"""A streamed request's entries may extend a batch to this many times the duration of its longest
entry alone, which limits the gap between two deltas; so may all entries while a live session is
open. Whisper base on two cores then decodes three windows at a time in 1.9 times the duration of
one, 6 % slower than twelve at a time."""

WATCHED_SECONDS = 1.0
"""Batches shorter than this are not made smaller for a streamed request: the difference is not
visible, and a GPU would lose throughput."""

GROWTH_AFTER = 20
"""Successful batches after which a reduced batch limit grows by one."""

KINDS = 64
"""Kinds of batches whose durations are remembered: requests may have any prompt and temperature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """`max_padded_seconds` per batch, None for no limit; an idle lane waits up to `max_wait`
    seconds for more entries."""

    max_batch: int = 1
    max_padded_seconds: float | None = None
    max_wait: float = 0.0


class BatchPolicy:
    """Decides the batches of one worker from a queue. Not thread-safe: the owner locks."""

    def __init__(
        self,
        queue: BatchQueue,
        clock: Callable[[], float] = time.monotonic,
        worker: object | None = None,
    ) -> None:
        self.queue = queue
        self.limits = BatchLimits()
        self.batch_limit = 1
        """Current maximum batch size; below `limits.max_batch` after an out-of-memory error."""
        self._clock = clock
        self._worker = worker
        self._times: dict[Hashable, BatchTimes] = {}  # by work and key, the last used last
        self._last_contention = float("-inf")
        self._good_batches = 0

    def set_limits(self, limits: BatchLimits) -> None:
        """Set the limits of the loaded model."""
        self.limits = limits
        self.batch_limit = limits.max_batch

    def take(self, most: int | None = None, *, live: bool = False) -> list[AnyEntry]:
        """Take the next batch from the queue, of at most `most` entries.

        `live`: a live session is open, so a speaker may begin at any time.
        """
        now = self._clock()
        if self.queue.requests > 1:
            self._last_contention = now
        contended = now - self._last_contention < CONTENTION_MEMORY

        def may_extend(batch: Sequence[AnyEntry], entry: AnyEntry) -> bool:
            if not (contended or live or entry.watched):
                return True
            times = self._times.get((entry.work, entry.key))
            if times is None:
                return False
            lengths = [each.seconds for each in (*batch, entry)]
            single = times.seconds(max(lengths))
            if contended:
                longest = CONTENTION_STRETCH * single
            else:
                longest = max(WATCHED_SECONDS, WATCHED_STRETCH * single)
            return times.seconds(sum(lengths)) <= longest

        limit = self.batch_limit if most is None else min(self.batch_limit, most)
        return self.queue.take(limit, self.limits.max_padded_seconds, may_extend, self._worker)

    def upcoming(self) -> list[AnyEntry]:
        """Approximately the entries of the next two batches."""
        return self.queue.peek(2 * self.batch_limit)

    def succeeded(self, batch: list[AnyEntry], seconds: float) -> None:
        """Record a successful batch; after enough of them a reduced limit grows."""
        kind = batch[0].work, batch[0].key
        times = self._times.pop(kind, None) or BatchTimes()
        times.observe(len(batch), sum(entry.seconds for entry in batch), seconds)
        self._times[kind] = times
        if len(self._times) > KINDS:
            del self._times[next(iter(self._times))]
        if self.batch_limit < self.limits.max_batch:
            self._good_batches += 1
            if self._good_batches >= GROWTH_AFTER:
                self.batch_limit += 1
                self._good_batches = 0

    def ran_out_of_memory(self, size: int) -> None:
        """Reduce the limit below the size of a batch that did not fit into memory."""
        self.batch_limit = max(1, min(self.batch_limit, size // 2))
        self._good_batches = 0
