"""Assigns speakers to words by the turns of a diarization, and known names to speakers."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from ..domain import SPACELESS_LANGUAGES, Diarization, Segment, SpeakerTurn, Word, join_texts
from .sentences import word_spans


class Labeller:
    """Assigns speakers to words. The turns are sorted once for all segments.

    A word gets the speaker whose turns overlap it most, else the speaker of the nearest turn; a
    segment without words is labelled as a whole in the same way. Labels are not smoothed: the
    turns are exclusive already, and a single "yes" inside a sentence may be another speaker's.
    """

    def __init__(self, exclusive_turns: Iterable[SpeakerTurn]) -> None:
        self._turns = _Turns(exclusive_turns)

    def label(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """Add speakers to segments, and cut them where the speaker changes.

        In languages with spaces a segment is cut only at a space, so that the text does not
        change. Without turns the segments stay as they are.
        """
        if not self._turns:
            return tuple(segments)
        return tuple(part for each in segments for part in _label_segment(each, self._turns))


def rename(diarization: Diarization, names: Mapping[str, str]) -> Diarization:
    """Rename the speakers of a diarization by `names` (label -> name)."""

    def renamed(turns: Iterable[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
        return tuple(replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in turns)

    return Diarization(
        turns=renamed(diarization.turns),
        exclusive=renamed(diarization.exclusive),
        embeddings={
            names.get(speaker, speaker): vector
            for speaker, vector in diarization.embeddings.items()
        },
    )


def match_known(
    embeddings: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]],
    threshold: float,
) -> dict[str, str]:
    """Match speaker labels to known names, one to one, the most similar pairs first.

    `embeddings` are by label, `references` by name. Pairs with a cosine similarity of at most
    `threshold` do not match.
    """
    pairs = [
        (similarity, label, name)
        for label, vector in embeddings.items()
        for name, reference in references.items()
        if (similarity := _cosine(vector, reference)) > threshold
    ]
    matched: dict[str, str] = {}
    for _, speaker, name in sorted(pairs, key=lambda pair: -pair[0]):
        if speaker not in matched and name not in matched.values():
            matched[speaker] = name
    return matched


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine similarity in [-1, 1]; -1 if a vector is zero or not finite."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if np.isfinite(norms) and norms > 0 else -1.0


class _Turns:
    """Speaker turns by start, searched by bisection."""

    def __init__(self, turns: Iterable[SpeakerTurn]) -> None:
        self._turns = sorted(turns, key=lambda turn: (turn.start, turn.end))
        # The latest end so far, which is sorted even if turns overlap.
        self._ends = list(accumulate((turn.end for turn in self._turns), max))

    def __bool__(self) -> bool:
        return bool(self._turns)

    def speaker(self, start: float, end: float) -> str:
        """The speaker whose turns overlap [start, end] most, else that of the nearest turn."""
        first = bisect_right(self._ends, start)
        overlaps: dict[str, float] = {}
        for index in range(first, len(self._turns)):
            turn = self._turns[index]
            if turn.start >= end:
                break
            shared = min(turn.end, end) - max(turn.start, start)
            if shared > 0:
                overlaps[turn.speaker] = overlaps.get(turn.speaker, 0.0) + shared
        if overlaps:
            return max(overlaps, key=lambda speaker: overlaps[speaker])
        neighbours = self._turns[max(0, first - 1) : first + 1]
        return min(neighbours, key=lambda turn: max(turn.start - end, start - turn.end)).speaker


def _label_segment(segment: Segment, turns: _Turns) -> list[Segment]:
    if not segment.words:
        return [replace(segment, speaker=turns.speaker(segment.start, segment.end))]
    text = segment.text
    spans = word_spans(text, segment.words)
    words: list[Word] = []
    changes = [0]
    for index, word in enumerate(segment.words):
        speaker = turns.speaker(word.start, word.end)
        if words and speaker != words[-1].speaker:
            if spans and _glued(text[spans[index - 1][1] : spans[index][0]], segment.language):
                speaker = words[-1].speaker or speaker
            else:
                changes.append(index)
        words.append(replace(word, speaker=speaker))
    if len(changes) == 1:
        return [replace(segment, words=tuple(words), speaker=words[0].speaker)]
    runs = [tuple(words[a:b]) for a, b in pairwise([*changes, len(words)])]
    if spans is None:
        texts = [join_texts((word.text, segment.language) for word in run) for run in runs]
    else:
        cuts = [_cut(text, spans[index - 1][1], spans[index][0]) for index in changes[1:]]
        texts = [text[a:b].strip() for a, b in pairwise([0, *cuts, len(text)])]
    return _parts(segment, runs, texts)


def _parts(
    segment: Segment, runs: Sequence[tuple[Word, ...]], texts: Sequence[str]
) -> list[Segment]:
    """One segment per run; the outer ones keep the segment's start and end."""
    last = len(runs) - 1
    parts = []
    for index, (run, text) in enumerate(zip(runs, texts, strict=True)):
        start = run[0].start if index else segment.start
        end = run[-1].end if index < last else segment.end
        parts.append(
            replace(
                segment,
                start=start,
                end=max(start, end),
                text=text,
                words=run,
                speaker=run[0].speaker,
                tokens=tuple(token for word in run for token in word.tokens) or segment.tokens,
                # Each token must occur in only one segment.
                logprobs=() if index else segment.logprobs,
            )
        )
    return parts


def _glued(gap: str, language: str | None) -> bool:
    """Whether cutting in the gap between two words would put a space where there was none."""
    return language not in SPACELESS_LANGUAGES and not any(map(str.isspace, gap))


def _cut(text: str, start: int, end: int) -> int:
    """Find where to cut between two words; text[start:end] is the text between them.

    At the last space, else before opening brackets and quotes: punctuation stays with its word.
    """
    for place in range(end, start, -1):
        if text[place - 1].isspace():
            return place
    while end > start and unicodedata.category(text[end - 1]) in ("Ps", "Pi"):
        end -= 1
    return end
