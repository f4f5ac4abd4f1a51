"""Converts speech probabilities of frames to speech regions, as a stream.

Shared by the voice detectors: hysteresis thresholding as in Gelly and Gauvain, "Minimum Word Error
Training of RNN-based Voice Activity Detection" (Interspeech 2015), then pauses and padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..domain import SAMPLE_RATE, Samples, SpeechRegion, VadOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class BinarizeOptions:
    """When speech begins and ends; thresholds are probabilities, times are seconds.

    Speech begins with a frame of at least `onset` and ends with a pause of `min_silence` that
    begins with a frame below `offset` and has none above `onset`. Speech shorter than `min_speech`
    is dropped. `padding` is kept on both sides; two regions share a pause that is too short for it.
    """

    onset: float
    offset: float
    padding: float
    min_silence: float
    min_speech: float

    def overridden(self, options: VadOptions) -> BinarizeOptions:
        """Apply a request's options; `offset` keeps its distance from `onset`."""
        onset = self.onset if options.threshold is None else options.threshold
        padding, silence = options.prefix_padding_ms, options.silence_duration_ms
        return BinarizeOptions(
            onset=onset,
            offset=max(onset - (self.onset - self.offset), onset / 10),
            padding=self.padding if padding is None else padding / 1000,
            min_silence=self.min_silence if silence is None else silence / 1000,
            min_speech=self.min_speech,
        )


class Binarizer:
    """Converts one recording's probabilities, fed in order, to its regions.

    Frame `i` stands for the time `origin + i * step` in seconds. A region's `probability` is the
    mean of its frames. The regions do not depend on how the frames are divided.
    """

    def __init__(self, options: BinarizeOptions, *, step: float, origin: float = 0.0) -> None:
        self._options = options
        self._step = step
        self._origin = origin
        self._frames = 0
        self._start: float | None = None  # of the speech under way
        self._silence: int | None = None  # first frame of a pause in it, perhaps its end
        self._sum = 0.0  # of its probabilities
        self._open: SpeechRegion | None = None  # a region that lacks only its end padding

    def feed(self, probabilities: Iterable[float]) -> Iterator[SpeechRegion]:
        """Return the regions that these frames make final."""
        options = self._options
        for probability in probabilities:
            frame = self._frames
            now = self._time(frame)
            self._frames += 1
            if probability >= options.onset:
                self._silence = None
                if self._start is None:
                    self._start, self._sum = now, 0.0
            elif self._start is not None and probability < options.offset:
                if self._silence is None:
                    self._silence = frame
                if (frame - self._silence) * self._step >= options.min_silence:
                    yield from self._end_speech(self._start, self._time(self._silence))
            self._sum += probability
            if self._open is not None:
                quiet_until = now if self._start is None else self._start
                if quiet_until - self._open.end >= 2 * options.padding:
                    yield self._close(self._open, limit=math.inf)

    @property
    def under_way(self) -> SpeechRegion | None:
        """Speech that may go on: it ends with the last frame so far that is not in a pause."""
        if self._start is None:
            return None
        end = self._time(self._frames if self._silence is None else self._silence)
        if end - self._start < self._options.min_speech:
            return None
        probability = min(1.0, self._sum * self._step / (end - self._start))
        return SpeechRegion(start=self._padded(self._start), end=end, probability=probability)

    def finish(self, duration: float) -> Iterator[SpeechRegion]:
        """Return the regions that the end, at `duration` seconds, makes final."""
        if self._start is not None:
            end = duration if self._silence is None else self._time(self._silence)
            yield from self._end_speech(self._start, end)
        if self._open is not None:
            yield self._close(self._open, limit=duration)

    def _time(self, frame: int) -> float:
        return self._origin + frame * self._step

    def _end_speech(self, start: float, end: float) -> Iterator[SpeechRegion]:
        self._start = self._silence = None
        if end - start < self._options.min_speech:
            return
        begin = self._padded(start)
        if self._open is not None:
            yield self._close(self._open, limit=begin)
        probability = min(1.0, self._sum * self._step / (end - start))
        self._open = SpeechRegion(start=begin, end=end, probability=probability)

    def _padded(self, start: float) -> float:
        """Where the region of speech that starts there begins."""
        begin = max(0.0, start - self._options.padding)
        return begin if self._open is None else max(begin, (self._open.end + start) / 2)

    def _close(self, region: SpeechRegion, *, limit: float) -> SpeechRegion:
        self._open = None
        return replace(region, end=min(region.end + self._options.padding, limit))


class FrameScorer(Protocol):
    """Computes how probable speech is in each frame of one recording."""

    def push(self, samples: Samples) -> Iterable[float]:
        """Take the next samples, any number; return the frames that became final, in order."""
        ...

    def finish(self) -> Iterable[float]:
        """Return the remaining frames."""
        ...


class FrameDetection:
    """A `Detection` from the probabilities of frames."""

    def __init__(self, scorer: FrameScorer, binarizer: Binarizer) -> None:
        self._scorer = scorer
        self._binarizer = binarizer
        self._pushed = 0

    def push(self, samples: Samples) -> Sequence[SpeechRegion]:
        self._pushed += len(samples)
        return list(self._binarizer.feed(self._scorer.push(samples)))

    @property
    def under_way(self) -> SpeechRegion | None:
        return self._binarizer.under_way

    def finish(self) -> Sequence[SpeechRegion]:
        regions = list(self._binarizer.feed(self._scorer.finish()))
        return [*regions, *self._binarizer.finish(self._pushed / SAMPLE_RATE)]
