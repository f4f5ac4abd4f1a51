"""Computes the parts of a batch side by side.

On a CPU, two parts on one thread each take less time than a batch on two threads, because the steps
of a decoder are too short for threads to share: docs/decisions/one-queue-many-workers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import accumulate
from typing import TypeVar

R = TypeVar("R")

THREADS = 4
"""Threads of a part, where there are more than two parts."""


def most_parts(threads: int) -> int:
    """Into how many parts a batch is divided at most, so that all threads are used."""
    return max(min(threads, 2), threads // THREADS)


class Parts:
    """Divides batches into at most `most` parts, and computes each on a thread of its own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="whisper")

    def compute(self, costs: Sequence[float], work: Callable[[Sequence[int]], list[R]]) -> list[R]:
        """Return the results of a batch whose entries have these costs.

        `work` gets the indices of a part, and returns their results. An error of one part is raised
        once all have ended.
        """
        parts = divided(costs, self._most)
        if len(parts) == 1:
            return work(range(len(costs)))
        computed = [self._threads.submit(work, part) for part in parts]
        wait(computed)
        found: dict[int, R] = {}
        for part, results in zip(parts, computed, strict=True):
            found.update(zip(part, results.result(), strict=True))
        return [found[index] for index in range(len(costs))]


def divided(costs: Sequence[float], most: int) -> list[list[int]]:
    """Divide indices into at most `most` parts of similar cost, with similar costs together."""
    order = sorted(range(len(costs)), key=lambda index: -costs[index])
    total = sum(costs)
    parts: dict[int, list[int]] = {}
    for index, cost in zip(order, accumulate(costs[index] for index in order), strict=True):
        middle = cost - costs[index] / 2
        parts.setdefault(min(int(most * middle / total), most - 1), []).append(index)
    return list(parts.values())
