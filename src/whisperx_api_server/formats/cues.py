"""Splits a transcript into subtitle cues that are short enough to read and do not overlap.

Two lines of 42 characters and seven seconds are the limits of Netflix's timed text style guide;
East Asian characters count twice. Times are whole milliseconds, the resolution of subtitle files:
rounding later could make cues overlap.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ..domain import SPACELESS_LANGUAGES, Segment, Word
from ..transcript.sentences import CLAUSE_END, split_sentences, word_spans

LINE_WIDTH = 42
MAX_CUE_MS = 7000
MIN_CUE_MS = 500
"""Duration of a cue without one, if there is room."""
MIN_START_GAP_MS = 20
"""Minimum distance between the starts of two cues."""
MAX_PREFIX_WIDTH = 20
"""Columns; a longer speaker name widens the line instead of narrowing the text."""

_ARROW = re.compile(r"-[- ]*>")
_LOPSIDED = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a cue; `marked` is the highlighted word in it, if any."""

    before: str
    marked: str = ""
    after: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cue:
    """Lines that are shown from `start` to `end`, in milliseconds."""

    start: int
    end: int
    lines: tuple[Line, ...]


def make_cues(segments: Iterable[Segment], *, highlight_words: bool) -> list[Cue]:
    """Make non-empty, non-overlapping cues of at most 7 s, in order.

    `highlight_words` makes one cue per word, with that word marked, if a segment has words.
    """
    cues = [
        cue
        for segment in segments
        if segment.text.strip()
        for cue in _Sheet(segment).cues(highlight_words=highlight_words)
    ]
    return _in_turn(sorted(cues, key=lambda cue: cue.start))


def speaker_prefix(segment: Segment) -> str:
    """`[SPEAKER_00]: `, or nothing without a speaker."""
    return "" if segment.speaker is None else f"[{plain(segment.speaker)}]: "


def plain(text: str) -> str:
    """Put a text on one line, without arrows that a parser could read as a cue's times."""
    return _ARROW.sub("->", " ".join(text.split()))


def _in_turn(cues: Sequence[Cue]) -> list[Cue]:
    starts: list[int] = []
    for cue in cues:
        starts.append(max(cue.start, starts[-1] + MIN_START_GAP_MS) if starts else cue.start)
    placed = []
    for index, (cue, start) in enumerate(zip(cues, starts, strict=True)):
        end = cue.end if cue.end > start else start + MIN_CUE_MS
        end = min(end, start + MAX_CUE_MS)
        if index + 1 < len(starts):
            end = min(end, starts[index + 1])
        placed.append(replace(cue, start=start, end=end))
    return placed


class _Sheet:
    """One segment's text on one line, with a time for each character."""

    def __init__(self, segment: Segment) -> None:
        self._text = plain(segment.text)
        self._prefix = speaker_prefix(segment)
        self._spaced = segment.language not in SPACELESS_LANGUAGES
        whole = Word(text=self._text, start=segment.start, end=segment.end)
        spans = word_spans(self._text, segment.words) if segment.words else None
        self._timed = spans is not None
        self._words: Sequence[Word] = segment.words if spans and segment.words else (whole,)
        self._spans = spans or ((0, len(self._text)),)
        self._firsts = [first for first, _ in self._spans]
        self._indent = min(sum(map(_columns, self._prefix)), MAX_PREFIX_WIDTH)
        self._columns = list(accumulate(map(_columns, self._text), initial=0))
        self._breaks = [k for k in range(1, len(self._text)) if self._may_break(k)]
        self._sentence_ends = {end for _, end in split_sentences(self._text, segment.language)}

    def cues(self, *, highlight_words: bool) -> Iterator[Cue]:
        for first, last in self._divide(0, len(self._text)):
            if highlight_words and self._timed:
                yield from self._highlighted(first, last)
            else:
                yield self._cue(first, last)

    def _cue(self, first: int, last: int) -> Cue:
        lines = self._lines(self._line_ranges(first, last))
        return Cue(start=self._start(first), end=self._end(last), lines=lines)

    def _highlighted(self, first: int, last: int) -> Iterator[Cue]:
        """One cue per word of text[first:last], and unmarked cues in the pauses."""
        ranges = self._line_ranges(first, last)
        unmarked = self._lines(ranges)
        shown = None
        for word, (a, b) in zip(self._words, self._spans, strict=True):
            if a >= b or a < first or a >= last:
                continue
            start, end = _milliseconds(word.start), _milliseconds(word.end)
            if shown is not None and shown < start:
                yield Cue(start=shown, end=start, lines=unmarked)
            yield Cue(start=start, end=end, lines=self._lines(ranges, marked=(a, b)))
            shown = end
        if shown is None:
            yield self._cue(first, last)

    # Times: characters belong to words, which have times; within a word they are interpolated.

    def _start(self, place: int) -> int:
        return self._time(place, max(0, bisect_right(self._firsts, place) - 1))

    def _end(self, place: int) -> int:
        return self._time(place, max(0, bisect_left(self._firsts, place) - 1))

    def _time(self, place: int, index: int) -> int:
        word, (first, last) = self._words[index], self._spans[index]
        part = min(max((place - first) / max(1, last - first), 0.0), 1.0)
        return _milliseconds(word.start + part * (word.end - word.start))

    # Breaks: a break is the index of the character that begins the next cue or line.

    def _may_break(self, place: int) -> bool:
        text = self._text
        if text[place - 1] == " ":
            return True
        if self._spaced or text[place] == " ":
            return False
        # A mark belongs to its letter, and closing punctuation to its word.
        return unicodedata.category(text[place]) not in ("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Lm")

    def _divide(self, first: int, last: int) -> list[tuple[int, int]]:
        """Divide text[first:last] into parts that fit a cue."""
        parts = []
        waiting = [(first, last)]
        while waiting:
            first, last = waiting.pop()
            place = None if self._fits(first, last) else self._best_break(first, last)
            if place is None:
                parts.append((first, last))
            else:
                waiting += [(place, last), (first, place)]
        return parts

    def _fits(self, first: int, last: int) -> bool:
        if self._end(last) - self._start(first) > MAX_CUE_MS:
            return False
        return all(
            self._width(a, b, indented=a == first) <= LINE_WIDTH
            for a, b in self._line_ranges(first, last)
        )

    def _inner_breaks(self, first: int, last: int) -> list[int]:
        """Find the places to break text[first:last], inside the word if it is a single long one.

        Excludes the place after the dot of "Mr." or of an initial, unless it is the only one.
        """
        inner = self._breaks[bisect_right(self._breaks, first) : bisect_left(self._breaks, last)]
        if inner or self._width(first, last) <= LINE_WIDTH:
            return [place for place in inner if not self._abbreviated(place)] or inner
        return [(first + last) // 2]

    def _abbreviated(self, place: int) -> bool:
        """Whether the place follows a dot that does not end a sentence."""
        end = place - (self._text[place - 1] == " ")
        return self._text[end - 1] == "." and end not in self._sentence_ends

    def _best_break(self, first: int, last: int) -> int | None:
        """Prefer sentence ends, then clause ends, then words; among equals, the most central."""
        total = max(1, self._width(first, last))

        def badness(place: int) -> tuple[int, float]:
            share = self._width(first, place) / total
            said = self._text[max(first, place - 8) : place].rstrip()
            if place - (self._text[place - 1] == " ") in self._sentence_ends:
                rank = 0
            elif CLAUSE_END.search(said) and _LOPSIDED <= share <= 1 - _LOPSIDED:
                rank = 1
            else:
                rank = 2
            return rank, abs(share - 0.5)

        return min(self._inner_breaks(first, last), key=badness, default=None)

    def _line_ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """One line, or the two lines whose wider one is narrowest."""
        if self._width(first, last, indented=True) <= LINE_WIDTH:
            return [(first, last)]
        place = min(
            self._inner_breaks(first, last),
            key=lambda k: max(self._width(first, k, indented=True), self._width(k, last)),
            default=None,
        )
        return [(first, last)] if place is None else [(first, place), (place, last)]

    def _width(self, first: int, last: int, *, indented: bool = False) -> int:
        """Columns of text[first:last], without a trailing space."""
        columns = self._columns[last] - self._columns[first] - (self._text[last - 1] == " ")
        return columns + self._indent if indented else columns

    def _lines(
        self, ranges: Sequence[tuple[int, int]], marked: tuple[int, int] | None = None
    ) -> tuple[Line, ...]:
        text = self._text
        prefix = self._prefix
        lines = []
        for a, b in ranges:
            b -= text[b - 1] == " "
            x, y = (min(max(place, a), b) for place in marked or (b, b))
            lines.append(Line(before=prefix + text[a:x], marked=text[x:y], after=text[y:b]))
            prefix = ""
        return tuple(lines)


def _columns(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000)) if math.isfinite(seconds) else 0
