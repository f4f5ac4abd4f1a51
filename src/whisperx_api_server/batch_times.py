"""How long a batch of each size takes, learnt from the batches that ran."""

from __future__ import annotations

from dataclasses import dataclass

SHRINKAGE = 1.0
"""How much the last estimate counts beside the batches, as a variance of sizes. It decides alone
while all batches have the same size."""

MAX_OVERHEAD = 1000.0


@dataclass(kw_only=True, slots=True)
class BatchTimes:
    """The time of a batch as slope * (overhead + size), learnt from the batches that ran.

    Least squares over (size, seconds) with exponential forgetting: a lane's speed changes with its
    neighbours, so old batches must fade. `overhead` is what a batch costs whatever its size, in
    entries; it is 1 until batches of several sizes have run.
    """

    decay: float = 0.9
    overhead: float = 1.0
    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Learn from one batch."""
        self.weight = self.decay * self.weight + 1
        self.x = self.decay * self.x + size
        self.y = self.decay * self.y + seconds
        self.xx = self.decay * self.xx + size * size
        self.xy = self.decay * self.xy + size * seconds
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        variance = self.xx / self.weight - mean_x * mean_x
        covariance = self.xy / self.weight - mean_x * mean_y
        slope = (covariance + SHRINKAGE * self._slope) / (variance + SHRINKAGE)
        if slope * (MAX_OVERHEAD + mean_x) <= mean_y:
            self.overhead = MAX_OVERHEAD
        else:
            self.overhead = max(0.0, mean_y / slope - mean_x)

    @property
    def _slope(self) -> float:
        """Seconds that one entry more takes."""
        return self.y / (self.overhead * self.weight + self.x) if self.weight else 0.0

    def seconds(self, size: int) -> float:
        """How long a batch of `size` should take; 0 before the first batch."""
        return self._slope * (self.overhead + size)

    def largest_within(self, seconds: float) -> int:
        """The largest size that should take at most `seconds`; at least 1."""
        if self._slope == 0.0:
            return 1
        return max(1, int(seconds / self._slope - self.overhead + 1e-9))
