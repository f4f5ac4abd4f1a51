"""Estimates the duration of a batch by its size, from the batches that ran."""

from __future__ import annotations

from dataclasses import dataclass

FORGETTING = 0.9
"""Factor of exponential decay per batch: a lane's speed changes with the other load."""

INITIAL_OVERHEAD = 1.0
"""Prior overhead in entries, as measured with Whisper on a CPU."""

MAX_OVERHEAD = 1000.0

PRIOR_VARIANCE = 1.0
"""Weight of the last estimate, as a variance of batch sizes. It decides alone while all batches
have the same size."""


@dataclass(kw_only=True, slots=True)
class BatchTimes:
    """Estimates a batch's duration as slope * (overhead + size).

    Least squares over (size, seconds) with exponential decay. `overhead` is the constant part of
    a batch's duration, in entries. Without batches of different sizes it returns slowly
    to `INITIAL_OVERHEAD`, so that a wrong estimate cannot keep itself alive by the sizes it causes.
    """

    overhead: float = INITIAL_OVERHEAD
    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, size: int, seconds: float) -> None:
        """Record the duration of one batch."""
        self.weight = FORGETTING * self.weight + 1
        self.x = FORGETTING * self.x + size
        self.y = FORGETTING * self.y + seconds
        self.xx = FORGETTING * self.xx + size * size
        self.xy = FORGETTING * self.xy + size * seconds
        self.overhead = FORGETTING * self.overhead + (1 - FORGETTING) * INITIAL_OVERHEAD
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        variance = self.xx / self.weight - mean_x * mean_x
        covariance = self.xy / self.weight - mean_x * mean_y
        slope = (covariance + PRIOR_VARIANCE * self._slope) / (variance + PRIOR_VARIANCE)
        # keeps the overhead and the slope from being negative
        slope = min(max(slope, mean_y / (MAX_OVERHEAD + mean_x)), mean_y / mean_x)
        self.overhead = mean_y / slope - mean_x if slope else INITIAL_OVERHEAD

    @property
    def _slope(self) -> float:
        """Seconds that one more entry takes."""
        return self.y / (self.overhead * self.weight + self.x) if self.weight else 0.0

    def seconds(self, size: int) -> float:
        """Estimated duration of a batch of `size`; 0 before the first batch."""
        return self._slope * (self.overhead + size)

    def largest_within(self, seconds: float) -> int:
        """The largest size with an estimated duration of at most `seconds`; at least 1."""
        slope = self._slope
        return max(1, int(seconds / slope - self.overhead + 1e-9)) if slope else 1
