"""Finds the spans of speech to decode in a stream of voice activity; pure.

A span begins with speech and ends with silence. The closer a span is to the model's maximum window,
the shorter the pause that ends it; at the maximum it is cut where it is quietest. All arithmetic is
in samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..domain import SAMPLE_RATE, SpeechRegion
from ..pipeline.chunking import LONGEST_PAUSE, quietest
from .audio import SampleBuffer

TAIL = round(0.3 * SAMPLE_RATE)
"""Samples after the last speech that are decoded with it."""

SHORTEST_SPEECH = round(0.1 * SAMPLE_RATE)
"""Samples of speech that begin a span."""

PAUSES = ((10.0, round(0.3 * SAMPLE_RATE)), (4.0, round(0.1 * SAMPLE_RATE)))
"""(seconds before the longest window, samples of silence that end a span from there on)."""

SEARCH = 5 * SAMPLE_RATE
"""Samples before the end in which the quietest place is looked for, where no pause came."""


@dataclass(kw_only=True, slots=True, eq=False)
class Span:
    """The audio from sample `first` up to `end`, decoded at once.

    `end` grows with the speech, and is final once it is `closed`. All words that were sent lie
    before `settled`.
    """

    first: int
    end: int
    settled: int
    closed: bool = False
    regions: list[SpeechRegion] = field(default_factory=list)

    @property
    def last_speech(self) -> int:
        """Where its speech ends so far."""
        return round(self.regions[-1].end * SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class SpanOpened:
    """A span begins."""

    span: Span


@dataclass(frozen=True, slots=True)
class SpanClosed:
    """A span has ended."""

    span: Span


class SpanFinder:
    """Finds the spans of one stream of audio.

    `padding` are the samples before speech that belong to it; `silence` are those that end a span.
    Both may change at any time. No span is longer than `longest`.
    """

    def __init__(self, buffer: SampleBuffer, *, longest: int, padding: int, silence: int) -> None:
        self.padding = padding
        self.silence = silence
        self.span: Span | None = None
        self._buffer = buffer
        self._longest = longest
        self._floor = 0  # the end of the span before

    def push(
        self, regions: Iterable[SpeechRegion], under_way: SpeechRegion | None
    ) -> list[SpanOpened | SpanClosed]:
        """Take the speech in the samples that were added to the buffer, half a second at most."""
        events: list[SpanOpened | SpanClosed] = []
        for region in (*regions, *(() if under_way is None else (under_way,))):
            events += self._hear(region)
        now = self._buffer.end
        span = self.span
        if span is None:
            return events
        span.end = self._end(span)
        length = now - span.first
        if now - span.last_speech >= self._pause(length):
            events.append(self._close(span, span.end))
        elif length > self._longest - SAMPLE_RATE // 2:
            events += self._cut(span, now)
        return events

    def close(self) -> Span | None:
        """End the span that is open, wherever it is; later speech begins another."""
        span = self.span
        if span is not None:
            self._close(span, span.end)
        self._floor = self._buffer.end
        return span

    def _hear(self, region: SpeechRegion) -> list[SpanOpened | SpanClosed]:
        first = max(round(region.start * SAMPLE_RATE), self._floor)
        last = min(round(region.end * SAMPLE_RATE), self._buffer.end)
        events: list[SpanOpened | SpanClosed] = []
        span = self.span
        if span is not None and first - span.last_speech >= self._pause(first - span.first):
            events.append(self._close(span, span.end))
            span = None
        if span is None:
            if last - first < SHORTEST_SPEECH:
                return events
            begin = max(first - self.padding, self._floor, self._buffer.start)
            span = self.span = Span(first=begin, end=last, settled=begin)
            events.append(SpanOpened(span))
        if last > first:
            if span.regions and round(span.regions[-1].start * SAMPLE_RATE) >= first:
                span.regions.pop()  # the same speech, which went on
            span.regions.append(
                SpeechRegion(
                    start=first / SAMPLE_RATE,
                    end=last / SAMPLE_RATE,
                    probability=region.probability,
                )
            )
        span.end = self._end(span)
        return events

    def _end(self, span: Span) -> int:
        """What is decoded of a span so far: its speech, and up to `TAIL` after it."""
        return min(span.last_speech + min(TAIL, self.silence), self._buffer.end)

    def _pause(self, length: int) -> int:
        """How much silence ends a span of that length."""
        pause = self.silence
        for seconds, shorter in PAUSES:
            if length >= self._longest - seconds * SAMPLE_RATE:
                pause = min(pause, shorter)
        return pause

    def _close(self, span: Span, end: int) -> SpanClosed:
        span.end = self._floor = end
        span.closed = True
        self.span = None
        return SpanClosed(span)

    def _cut(self, span: Span, now: int) -> list[SpanOpened | SpanClosed]:
        """End a span at its quietest place, after all words that were sent; the rest goes on."""
        begin = max(span.settled, now - SEARCH)
        samples = self._buffer.copy(begin, now)
        cut = begin + quietest(samples, SAMPLE_RATE, earliest=0) if len(samples) else now
        rest = span.regions
        edge = cut / SAMPLE_RATE
        span.regions = [_clipped(each, 0.0, edge) for each in rest if each.start < edge]
        events: list[SpanOpened | SpanClosed] = [self._close(span, cut)]
        for region in rest:
            if region.end > edge:
                events += self._hear(region)
        return events


def _clipped(region: SpeechRegion, start: float, end: float) -> SpeechRegion:
    return SpeechRegion(
        start=max(region.start, start), end=min(region.end, end), probability=region.probability
    )


MANUAL_SILENCE = round(LONGEST_PAUSE * SAMPLE_RATE)
"""Samples of silence that end a span where the client ends the turns."""
