"""How long batches take, learnt from those that ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class BatchTimes:
    """The time of a batch as base + slope * size, learnt from those that ran.

    Exponentially forgetting least squares over (size, seconds): a lane's speed changes with its
    neighbours, so old batches must fade.
    """

    decay: float = 0.9
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

    def largest_within(self, stretch: float) -> int:
        """The largest size that takes at most `stretch` times the time of a batch of one."""
        if not self.weight:
            return 1
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        variance = self.xx / self.weight - mean_x * mean_x
        if variance < 0.05:  # one size only was seen: assume that half of its time is per entry
            slope = 0.5 * mean_y / mean_x
        else:
            slope = max(0.0, (self.xy / self.weight - mean_x * mean_y) / variance)
        base = max(0.0, mean_y - slope * mean_x)
        if slope == 0.0:
            return 1_000_000
        return max(1, int((stretch * (base + slope) - base) / slope + 1e-9))
