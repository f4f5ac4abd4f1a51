"""Channels are mixed such that none cancels another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from whisperx_api_server.audio.downmix import Downmixer

RATE = 16_000
BLOCK = 4096


def tone(frequency: float, seconds: float = 2.048) -> NDArray[np.float32]:
    times = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def mixed(*channels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of the channels, mixed block by block as they are read from a file."""
    mixer = Downmixer(np.ones(len(channels), dtype=np.float32))
    frames = np.stack(channels, axis=1)
    return np.concatenate(
        [mixer.mix(frames[at : at + BLOCK]) for at in range(0, len(frames), BLOCK)]
    )


def level(samples: NDArray[np.float32], frequency: float) -> float:
    """The amplitude of a frequency."""
    times = np.arange(len(samples)) / RATE
    return float(2 * abs(np.mean(samples * np.exp(-2j * np.pi * frequency * times))))


@pytest.mark.parametrize("gain", [-1.0, -0.8, -1.2])
def test_opposite_sides_keep_their_level(gain: float) -> None:
    side = tone(440)

    assert level(mixed(side, np.float32(gain) * side), 440) >= 0.44
    assert level(mixed(side, np.float32(-gain) * side), 440) >= 0.44


def test_opposite_sides_with_noise_of_their_own_keep_their_level() -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, (2, len(tone(440)))).astype(np.float32)

    mix = mixed(tone(440) + noise[0], -tone(440) + noise[1])

    assert level(mix, 440) == pytest.approx(0.5, abs=0.05)


def test_sides_of_two_people_are_both_heard() -> None:
    mix = mixed(tone(300), tone(500))

    assert level(mix, 300) == pytest.approx(0.25, abs=0.01)
    assert level(mix, 500) == pytest.approx(0.25, abs=0.01)


def test_a_side_may_turn_in_the_middle() -> None:
    side = tone(440, seconds=4.096)
    turned = np.concatenate([side[: len(side) // 2], -side[len(side) // 2 :]])

    mix = mixed(side, turned)

    for half in np.split(mix, 2):
        assert level(half, 440) == pytest.approx(0.5, abs=0.02)


def test_beside_opposite_channels_others_are_heard() -> None:
    mix = mixed(tone(440), -tone(440), tone(300), tone(500))

    assert level(mix, 440) == pytest.approx(0.25, abs=0.01)
    assert level(mix, 300) == pytest.approx(0.125, abs=0.01)
    assert level(mix, 500) == pytest.approx(0.125, abs=0.01)


def test_invalid_samples_are_silenced_or_clipped() -> None:
    wild = np.array([np.nan, np.inf, -np.inf, 7, -7, 0.25], dtype=np.float32)

    np.testing.assert_array_equal(mixed(wild), [0, 1, -1, 1, -1, 0.25])
