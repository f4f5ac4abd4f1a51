"""From probabilities to regions, for any probabilities, options and pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.backends.binarize import BinarizeOptions, Binarizer
from whisperx_api_server.domain import SpeechRegion, VadOptions

STEP = 0.1
OPTIONS = BinarizeOptions(onset=0.5, offset=0.3, padding=0.1, min_silence=0.2, min_speech=0.2)


def regions_of(
    probabilities: list[float], options: BinarizeOptions, *, piece: int = 1000
) -> list[SpeechRegion]:
    binarizer = Binarizer(options, step=STEP)
    found: list[SpeechRegion] = []
    for first in range(0, len(probabilities), piece):
        found += binarizer.feed(probabilities[first : first + piece])
    return [*found, *binarizer.finish(len(probabilities) * STEP)]


def bounds(pattern: str, options: BinarizeOptions = OPTIONS) -> list[tuple[float, float]]:
    """Regions of frames written as `#` speech, `~` between the thresholds, `.` silence."""
    probabilities = [{"#": 0.9, "~": 0.4, ".": 0.1}[frame] for frame in pattern]
    return [(round(r.start, 3), round(r.end, 3)) for r in regions_of(probabilities, options)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", []),
        ("......", []),
        ("..####......", [(0.1, 0.7)]),
        ("####", [(0.0, 0.4)]),  # never before the start or past the end
        ("..##~~##......", [(0.1, 0.9)]),  # hysteresis
        ("~~~~", []),
        ("..##.##......", [(0.1, 0.8)]),  # too short a pause
        ("..#.........", []),  # too short for speech
        ("..##......##....", [(0.1, 0.5), (0.9, 1.3)]),
    ],
)
def test_regions(pattern: str, expected: list[tuple[float, float]]) -> None:
    assert bounds(pattern) == expected


def test_neighbours_share_a_pause_that_is_too_short_for_both_paddings() -> None:
    wide = OPTIONS.overridden(VadOptions(prefix_padding_ms=300))
    assert bounds("....##....##....", wide) == [(0.1, 0.8), (0.8, 1.5)]


def test_a_blip_takes_no_padding_from_its_neighbour() -> None:
    wide = OPTIONS.overridden(VadOptions(prefix_padding_ms=300))
    assert bounds("....##...#.......", wide) == [(0.1, 0.9)]


def test_a_request_overrides_the_defaults() -> None:
    options = OPTIONS.overridden(
        VadOptions(threshold=0.8, prefix_padding_ms=50, silence_duration_ms=700)
    )
    assert (options.onset, options.padding, options.min_silence) == (0.8, 0.05, 0.7)
    assert options.offset == pytest.approx(0.6)
    assert 0 < OPTIONS.overridden(VadOptions(threshold=0.1)).offset < 0.1
    assert OPTIONS.overridden(VadOptions()) == OPTIONS


@given(
    probabilities=st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), max_size=60),
    padding=st.sampled_from([0.0, 0.1, 0.35, 5.0]),
    min_silence=st.sampled_from([0.0, 0.1, 0.3]),
    piece=st.integers(1, 20),
)
def test_regions_are_ordered_apart_and_the_same_however_they_are_fed(
    probabilities: list[float], padding: float, min_silence: float, piece: int
) -> None:
    options = BinarizeOptions(
        onset=0.5, offset=0.3, padding=padding, min_silence=min_silence, min_speech=0.0
    )
    regions = regions_of(probabilities, options)
    assert regions == regions_of(probabilities, options, piece=piece)
    assert all(region.start < region.end for region in regions)
    assert all(one.end <= other.start for one, other in itertools.pairwise(regions))
    if regions:
        assert regions[0].start >= 0
        assert regions[-1].end <= len(probabilities) * STEP
    for number, probability in enumerate(probabilities):
        if probability >= options.onset:
            assert any(r.start <= number * STEP <= r.end for r in regions)


def test_a_region_has_the_mean_probability_of_its_frames() -> None:
    options = BinarizeOptions(onset=0.5, offset=0.4, padding=0.0, min_silence=0.2, min_speech=0.1)
    binarizer = Binarizer(options, step=0.1)
    frames = [0.0] * 5 + [0.6, 0.8] * 5 + [0.0] * 5 + [0.9] * 4
    regions = [*binarizer.feed(frames), *binarizer.finish(len(frames) * 0.1)]
    assert [region.probability for region in regions] == pytest.approx([0.7, 0.9])
