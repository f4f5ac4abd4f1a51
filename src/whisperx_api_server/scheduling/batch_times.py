"""Estimates the duration of a batch by its seconds of audio, from the batches that ran."""

from __future__ import annotations

from dataclasses import dataclass

FORGETTING = 0.9
"""Factor of exponential decay per batch: a lane's speed changes with the other load."""

INITIAL_OVERHEAD = 1.0
"""Prior overhead in entries of mean length, as measured with Whisper on a CPU."""

MAX_OVERHEAD = 1000.0

PRIOR_VARIANCE = 1.0
"""Weight of the last estimate, as a variance of batch sizes in entries of mean length. It decides
alone while all batches have the same size."""


@dataclass(kw_only=True, slots=True)
class BatchTimes:
    """Estimates a batch's duration as slope * (overhead + audio).

    Least squares over (audio, seconds) with exponential decay. The unit of audio is the mean length
    of an entry, so `overhead` is the constant part of a batch's duration, in entries. Without
    batches of different sizes it returns slowly to `INITIAL_OVERHEAD`, so that a wrong estimate
    cannot keep itself alive by the sizes it causes. Batches that took less time the larger they
    were tell nothing about larger ones: the overhead stays.
    """

    overhead: float = INITIAL_OVERHEAD
    weight: float = 0.0
    entries: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, entries: int, audio: float, seconds: float) -> None:
        """Record that a batch of `entries` with `audio` seconds took `seconds`."""
        self.weight = FORGETTING * self.weight + 1
        self.entries = FORGETTING * self.entries + entries
        self.x = FORGETTING * self.x + audio
        self.y = FORGETTING * self.y + seconds
        self.xx = FORGETTING * self.xx + audio * audio
        self.xy = FORGETTING * self.xy + audio * seconds
        self.overhead = FORGETTING * self.overhead + (1 - FORGETTING) * INITIAL_OVERHEAD
        unit, size, mean = self._unit, self.entries / self.weight, self.y / self.weight
        variance = self.xx / self.weight / unit**2 - size**2
        covariance = self.xy / self.weight / unit - size * mean
        if covariance < 0:
            return
        slope = (covariance + PRIOR_VARIANCE * self._slope) / (variance + PRIOR_VARIANCE)
        # keeps the overhead and the slope from being negative
        slope = min(max(slope, mean / (MAX_OVERHEAD + size)), mean / size)
        self.overhead = mean / slope - size if slope else INITIAL_OVERHEAD

    @property
    def _unit(self) -> float:
        """Mean seconds of audio of an entry."""
        return self.x / self.entries

    @property
    def _slope(self) -> float:
        """Seconds that one more entry of mean length takes."""
        return self.y / (self.overhead * self.weight + self.entries)

    def seconds(self, audio: float) -> float:
        """Estimated duration of a batch with `audio` seconds; one batch must have been recorded."""
        return self._slope * (self.overhead + audio / self._unit)
