"""The figures of docs/quality.md: errors over delays, and what a difference means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from real_speech import RATE, Recording, noise
from support import wav
from word_quality import (
    DELAYS,
    FASTER_WHISPER,
    FEW_TOKENS,
    Comparison,
    delays,
    difference,
    mean_errors,
)


def recording(text: str, language: str = "en") -> Recording:
    return Recording(Path("unused"), language, text=text)


def comparison(ours: float, other: float, tokens: int = 10) -> Comparison:
    others = {FASTER_WHISPER: (other, tokens)}
    return Comparison(recording(""), (ours, tokens), others, language_right=True)


def test_errors_are_the_mean_over_the_answers() -> None:
    said = recording("go to the light")
    answers = ["go to the light", "go to the lights", "go to light", "Go to the light!"]
    assert mean_errors(said, answers) == (0.5, 4)


def test_only_languages_with_few_tokens_are_transcribed_with_every_delay() -> None:
    half = " ".join(["word"] * (FEW_TOKENS // 2))
    found = delays([recording(half), recording(half), recording(half, "it")])
    assert found == {"en": (0,), "it": DELAYS}


def test_a_delayed_recording_begins_with_silence(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    path.write_bytes(wav(noise(0.5)))
    said = Recording(path, "en")
    assert said.delayed(0) == path.read_bytes()

    late = tmp_path / "late.wav"
    late.write_bytes(said.delayed(20))
    samples = Recording(late, "en").samples
    assert not samples[: RATE // 50].any()
    np.testing.assert_allclose(samples[RATE // 50 :], said.samples, atol=1e-4)


@pytest.mark.parametrize(
    ("compared", "rate", "worse", "better"),
    [
        ([comparison(3, 1), comparison(1, 2)], 5, False, False),
        ([comparison(1, 0), comparison(2, 2)], 5, False, False),
        ([comparison(2, 1), comparison(3, 1)], 15, True, False),
        ([comparison(1, 2), comparison(1, 3)], -15, False, True),
    ],
)
def test_a_difference_is_told_from_chance(
    compared: list[Comparison], rate: float, worse: bool, better: bool
) -> None:
    between, low, high = difference(compared)
    assert between == pytest.approx(rate)
    assert low <= between <= high
    assert (low > 0, high < 0) == (worse, better)


def test_a_long_recording_weighs_more() -> None:
    assert difference([comparison(1, 0), comparison(0, 3, tokens=90)])[0] == pytest.approx(-2)
