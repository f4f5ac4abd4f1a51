"""Keeps word times out of the pauses that voice activity detection does not separate.

Voice activity detection joins speech across short pauses. Cross-attention does not model silence:
a pause without punctuation becomes part of the word after it, one with punctuation does not. So the
same word begins up to 0.6 s earlier if the decoder writes no comma before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, Samples, Window, Word

FRAME = 160  # samples, 10 ms
SMOOTHING = 3  # frames
MIN_RANGE = 15.0
"""Minimum decibels between pauses and speech; with less, pauses cannot be told from speech."""

MAX_RANGE = 60.0
"""Decibels below the speech at which everything is silence."""

QUIET = 0.3
"""A pause is quieter than this fraction of the decibels between its level and the speech's."""

MIN_PAUSE = 0.15
"""Minimum seconds of a pause; closures of plosives are shorter."""

MIN_SOUND = 0.05
"""Minimum seconds of sound between two pauses; a click is shorter."""

Span = tuple[float, float]
"""Start and end in seconds from the start of the window."""


def without_pauses(words: Sequence[Word], window: Window) -> tuple[Word, ...]:
    """Remove the pauses at the start and the end of each word from its time.

    A word with a pause inside begins after it, because cross-attention begins the word after a
    pause too early. One without sound keeps its time.
    """
    sounds = sounds_of(window.samples)
    return tuple(_shortened(word, sounds, window.start) for word in words)


def sounds_of(samples: Samples) -> list[Span]:
    """The parts between the pauses of a recording at 16 kHz."""
    if len(samples) < SMOOTHING * FRAME:
        return []
    level = _level(samples)
    loud = float(np.percentile(level, 95))
    floor = max(float(np.percentile(level, 5)), loud - MAX_RANGE)
    if loud - floor < MIN_RANGE:
        return []
    sounds: list[Span] = []
    for start, end in _runs(level > floor + QUIET * (loud - floor)):
        if sounds and start - sounds[-1][1] < MIN_PAUSE:
            sounds[-1] = sounds[-1][0], end
        else:
            sounds.append((start, end))
    return [(start, end) for start, end in sounds if end - start >= MIN_SOUND]


def _level(samples: Samples) -> NDArray[np.float64]:
    """Decibels of each 10 ms, smoothed."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = np.convolve(np.mean(frames**2, axis=1), np.ones(SMOOTHING) / SMOOTHING, "same")
    level: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-12))
    return level


def _runs(sounding: NDArray[np.bool_]) -> list[Span]:
    edges = np.flatnonzero(np.diff(sounding.astype(np.int8), prepend=0, append=0))
    seconds = (edges * FRAME / SAMPLE_RATE).tolist()
    return list(zip(seconds[::2], seconds[1::2], strict=True))


def _shortened(word: Word, sounds: Sequence[Span], offset: float) -> Word:
    for start, end in reversed(sounds):
        if offset + start < word.end and word.start < offset + end:
            return replace(
                word, start=max(word.start, offset + start), end=min(word.end, offset + end)
            )
    return word
