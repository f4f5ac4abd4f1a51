"""Real speech for the benchmarks: the recordings of `../shared/real` and of installed packages."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from .common import RATE, TESTS

PAUSE = np.zeros(round(0.3 * RATE), np.float32)
"""Silence between two recordings that are joined."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Spoken:
    """Samples at 16 kHz, their language (ISO-639-1), and the words; "" if they are unknown."""

    samples: NDArray[np.float32]
    language: str
    text: str

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.samples) / RATE


@cache
def recordings() -> list[Spoken]:
    """The recordings with a text, in a fixed random order.

    Where there is no `../shared/real`, those of packages, and excerpts of them without a text.
    """
    sys.path.insert(0, str(TESTS))
    from real_speech import BECKETT, DICKENS, folder

    chosen = [each for each in folder().values() if each.kind == "speech" and each.text]
    found = [
        Spoken(samples=each.samples, language=each.language, text=each.text)
        for each in (*chosen, DICKENS, BECKETT)
    ]
    shuffled = random.Random(1)
    if not chosen:
        whole = DICKENS.samples
        for _ in range(40):
            length = round(shuffled.uniform(2, 12) * RATE)
            first = shuffled.randrange(len(whole) - length)
            found.append(Spoken(samples=whole[first : first + length], language="en", text=""))
    shuffled.shuffle(found)
    return found


def between(shortest: float, longest: float) -> list[Spoken]:
    """The recordings of a duration, in seconds."""
    return [each for each in recordings() if shortest <= each.seconds <= longest]


def clips(number: int, seconds: float) -> list[Spoken]:
    """Clips of at most so many seconds, none twice, of whole English recordings in random order."""
    parts = [each for each in between(1, seconds) if each.language == "en"]
    found: dict[bytes, Spoken] = {}
    for seed in count():
        if len(found) == number:
            break
        order = parts.copy()
        random.Random(seed).shuffle(order)
        chosen: list[Spoken] = []
        for part in order:
            if join([*chosen, part]).seconds <= seconds:
                chosen.append(part)
        clip = join(chosen)
        found[clip.samples.tobytes()] = clip
    return list(found.values())


def long_recording(seconds: float) -> Spoken:
    """All English recordings again and again, each time in another order."""
    parts: list[Spoken] = []
    length = 0.0
    for seed in count():
        order = [each for each in recordings() if each.language == "en"]
        random.Random(seed).shuffle(order)
        for part in order:
            if length >= seconds:
                return join(parts)
            parts.append(part)
            length += part.seconds
    raise AssertionError("unreachable")


def join(parts: Sequence[Spoken]) -> Spoken:
    """Recordings of one language one after the other, with pauses."""
    texts = [part.text for part in parts]
    return Spoken(
        samples=np.concatenate([piece for part in parts for piece in (part.samples, PAUSE)]),
        language=parts[0].language,
        text=" ".join(texts) if all(texts) else "",
    )


def error_rate(heard: Sequence[tuple[Spoken, str]]) -> float | None:
    """Word errors over the words of the references, in percent; None if no reference is known.

    Numerals count as the words that they are read as.
    """
    from real_speech import tokens
    from support import edit_distance
    from whisperx_api_server.transcript.numerals import spell_numerals

    wrong = words = 0
    for one, text in heard:
        if one.text:
            wanted, found = (
                tokens(spell_numerals(each, one.language), one.language)
                for each in (one.text, text)
            )
            wrong += edit_distance(wanted, found)
            words += len(wanted)
    return 100 * wrong / words if words else None
