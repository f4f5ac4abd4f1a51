"""Makes word times plausible: within speech, in order, longer than 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..domain import SpeechRegion, Word

MIN_WORD = 0.04
"""Minimum seconds of a word, if there is room."""


def keep_in_speech(
    words: Sequence[Word], regions: Sequence[SpeechRegion], *, anchor: float = 0.5
) -> tuple[Word, ...]:
    """Move the times of words into the speech `regions` (at least one, in order).

    A word belongs to the region that contains its anchor: 0.5 is its middle, 0 its start. If the
    anchor is in a pause, the word belongs to the region after the pause. A decoder does not model
    silence and begins the next word too early, so its words are anchored in the middle; an aligner
    ends the previous word too late, so its words are anchored at the start. Starts increase, and
    every word is longer than 0.
    """
    grouped: list[list[Word]] = [[] for _ in regions]
    place = 0
    for word in words:
        moment = word.start + anchor * (word.end - word.start)
        while place < len(regions) - 1 and moment > regions[place].end:
            place += 1
        grouped[place].append(word)
    return tuple(
        word
        for group, region in zip(grouped, regions, strict=True)
        if group
        for word in _spread(group, region)
    )


def _spread(words: list[Word], region: SpeechRegion) -> list[Word]:
    """Spread the words of one region: none too short, none overlapping."""
    shortest = min(MIN_WORD, (region.end - region.start) / len(words))
    starts: list[float] = []
    for count, word in enumerate(words):
        earliest = starts[-1] + shortest if starts else region.start
        latest = region.end - shortest * (len(words) - count)
        starts.append(min(max(word.start, earliest), latest))
    ends = [
        min(max(word.end, start + shortest), following)
        for word, start, following in zip(words, starts, [*starts[1:], region.end], strict=True)
    ]
    return [
        replace(word, start=start, end=end)
        for word, start, end in zip(words, starts, ends, strict=True)
    ]
