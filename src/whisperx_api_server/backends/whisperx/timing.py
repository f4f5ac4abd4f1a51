"""Word times and token probabilities of decoded text, by the decoder's cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...domain import DecodeOptions, Segment, SpeechRegion, Window, Word
from ...transcript.word_times import keep_in_speech
from .encoding import EncodedBatch
from .features import HOP, N_FRAMES
from .pauses import without_pauses
from .search import Row
from .vocabulary import MAX_LENGTH, Vocabulary
from .words import logprobs_of, words_of

MIN_UNHEARD = 2.0
"""Minimum seconds of speech without words that count as missed, not as a pause for breath."""

WORD = 0.5
"""Assumed seconds of a word that is alone in a stretch of speech."""

MIN_TOKENS_PER_SECOND = 2.5
"""A text with more tokens per second of speech covers its whole window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """A window of a batch and its text."""

    row: Row
    window: Window
    options: DecodeOptions
    segment: Segment

    def between(self, start: float, end: float) -> Heard:
        """Restrict it to two times; the window keeps its samples."""
        return replace(
            self,
            segment=replace(self.segment, start=start, end=end),
            window=replace(self.window, regions=tuple(_clipped(self.window, start, end))),
        )


class CrossAttention:
    """Aligns the texts of a batch with its windows."""

    def __init__(self, model: Any, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary

    def detailed(self, encoded: EncodedBatch, heard: Sequence[Heard]) -> list[Segment]:
        """Add the requested words and log probabilities to the segments."""
        timed = [one for one in heard if one.options.word_timestamps]
        scored = [one for one in heard if one.options.logprobs]
        words = dict(zip(_places(timed), self._words(encoded, timed), strict=True))
        # with the prompt, as in decoding: it changes the probabilities
        probabilities = dict(
            zip(_places(scored), self._align(encoded, scored, context=True), strict=True)
        )
        return [
            replace(
                one.segment,
                words=keep_in_speech(
                    without_pauses(words[one.row.place], one.window), _regions_of(one.window)
                )
                if one.options.word_timestamps
                else None,
                logprobs=logprobs_of(
                    self._vocabulary,
                    one.segment.tokens,
                    probabilities[one.row.place].text_token_probs,
                )
                if one.options.logprobs
                else (),
            )
            for one in heard
        ]

    def unheard(
        self, encoded: EncodedBatch, heard: Sequence[Heard]
    ) -> dict[int, tuple[Window | None, Window | None]]:
        """Find the speech before and after the words of windows with few words.

        Returns both parts, if there are any, by the window's index in `heard`.
        """
        sparse = [
            index
            for index, one in enumerate(heard)
            if len(one.segment.tokens) < MIN_TOKENS_PER_SECOND * one.window.speech_seconds
        ]
        words = self._words(encoded, [heard[index] for index in sparse])
        return {
            index: unheard_parts(heard[index].window, said)
            for index, said in zip(sparse, words, strict=True)
            if said
        }

    def _words(self, encoded: EncodedBatch, heard: Sequence[Heard]) -> list[tuple[Word, ...]]:
        """The words of each text with the decoder's times.

        Omits the context before `<|startoftranscript|>`, which would change the times.
        """
        return [
            words_of(
                self._vocabulary,
                one.segment.tokens,
                one.segment.language or "en",
                path=alignment.alignments,
                probabilities=alignment.text_token_probs,
                window=one.window,
            )
            for one, alignment in zip(
                heard, self._align(encoded, heard, context=False), strict=True
            )
        ]

    def _align(self, encoded: EncodedBatch, heard: Sequence[Heard], *, context: bool) -> list[Any]:
        groups: dict[tuple[int, ...], list[int]] = {}  # one call has one start sequence
        for index, one in enumerate(heard):
            prompt = one.row.prompt if context else one.row.prompt[one.row.context :]
            groups.setdefault(_start(prompt, one.segment.tokens), []).append(index)
        found: dict[int, Any] = {}
        for start, indices in groups.items():
            alignments = self._model.align(
                encoded.rows([heard[index].row.place for index in indices]),
                list(start),
                [list(heard[index].segment.tokens) for index in indices],
                [_frames(heard[index].window) for index in indices],
            )
            found.update(zip(indices, alignments, strict=True))
        return [found[index] for index in range(len(heard))]


def _regions_of(window: Window) -> tuple[SpeechRegion, ...]:
    """The window's speech regions; the whole window if it has none."""
    return window.regions or (SpeechRegion(start=window.start, end=window.end),)


def _seconds(regions: Sequence[SpeechRegion]) -> float:
    return sum(region.end - region.start for region in regions)


def unheard_parts(window: Window, words: Sequence[Word]) -> tuple[Window | None, Window | None]:
    """Find the parts before and after the words that contain speech without words.

    A decoder without timestamps may begin or end where the sound changes. The omitted speech is
    after its last word, or inside a first or last word that is too long.
    """
    first, last = words[0], words[-1]
    head = first.end - WORD
    stretched = _seconds(_clipped(window, last.start + WORD, last.end)) >= MIN_UNHEARD
    tail = max(head, last.start + WORD if stretched else last.end)
    return _part(window, window.start, head), _part(window, tail, window.end)


def _part(window: Window, start: float, end: float) -> Window | None:
    """The speech of a window between two times; None if it is too short for words.

    Its probability is 0, because the decoder found no words in it.
    """
    part = cut_window(window, start, end)
    if part is None or _seconds(part.regions) < MIN_UNHEARD:
        return None
    return replace(part, regions=tuple(replace(region, probability=0.0) for region in part.regions))


def cut_window(window: Window, start: float, end: float) -> Window | None:
    """Return the speech of a window between two times as a window; None without speech."""
    regions = _clipped(window, start, end)
    if not regions:
        return None
    rate = len(window.samples) / (window.end - window.start)
    start, end = regions[0].start, regions[-1].end
    first, stop = round((start - window.start) * rate), round((end - window.start) * rate)
    return replace(
        window,
        start=start,
        end=end,
        samples=window.samples[first:stop],
        regions=tuple(regions),
    )


def _places(heard: Sequence[Heard]) -> list[int]:
    return [one.row.place for one in heard]


def _clipped(window: Window, start: float, end: float) -> list[SpeechRegion]:
    """The window's speech between two times."""
    return [
        replace(region, start=max(start, region.start), end=min(end, region.end))
        for region in _regions_of(window)
        if region.start < end and start < region.end
    ]


def _start(prompt: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
    """The prompt without `<|notimestamps|>`, which `align` adds.

    If prompt, text and end token exceed the decoder's positions, the oldest context is removed.
    """
    excess = max(0, len(prompt) + len(tokens) + 1 - MAX_LENGTH)
    return tuple(prompt[excess:-1])


def _frames(window: Window) -> int:
    """Frames of the spectrogram that contain the window; at least two, one encoder position."""
    return min(max(2, len(window.samples) // HOP), N_FRAMES)
