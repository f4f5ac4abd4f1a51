"""Word times of cross-attention leave out the pauses that voice activity detection joins."""

from __future__ import annotations

import numpy as np

from whisperx_api_server.backends.whisperx.pauses import sounds_of, without_pauses
from whisperx_api_server.domain import SAMPLE_RATE, Samples, Window, Word


def sound(*spans: tuple[float, float], background: float) -> Samples:
    """3 s of noise that is loud in the spans."""
    level = np.full(3 * SAMPLE_RATE, background)
    for start, end in spans:
        level[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0.1
    return (level * np.random.default_rng(0).standard_normal(len(level))).astype(np.float32)


def times(samples: Samples, *words: tuple[float, float]) -> list[tuple[float, float]]:
    window = Window(request_id="r", index=0, start=10, end=13, samples=samples)
    timed = [Word(text="word", start=10 + start, end=10 + end) for start, end in words]
    return [
        (round(word.start - 10, 1), round(word.end - 10, 1))
        for word in without_pauses(timed, window)
    ]


def test_word_begins_and_ends_with_its_sound() -> None:
    samples = sound((0.5, 1.0), (1.5, 2.5), background=0.001)

    assert times(samples, (0.0, 0.8), (0.8, 1.6), (1.6, 3.0)) == [
        (0.5, 0.8),
        (1.5, 1.6),
        (1.6, 2.5),
    ]


def test_closure_of_a_plosive_divides_no_word() -> None:
    samples = sound((0.5, 1.0), (1.1, 1.5), background=0.001)

    assert times(samples, (0.5, 1.5)) == [(0.5, 1.5)]


def test_word_without_sound_keeps_its_time() -> None:
    samples = sound((0.5, 1.0), background=0.001)

    assert times(samples, (2.0, 2.5)) == [(2.0, 2.5)]


def test_no_pauses_are_found_in_loud_noise() -> None:
    samples = sound((0.5, 1.0), (1.5, 2.5), background=0.04)

    assert sounds_of(samples) == []
    assert times(samples, (0.0, 0.8)) == [(0.0, 0.8)]
