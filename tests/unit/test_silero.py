"""Voice activity with Silero, on speech whose word bounds are known to the sample."""

from __future__ import annotations

import importlib.util
import itertools
from itertools import zip_longest

import numpy as np
import pytest

from detection import clip_of, noise, pieces, regions_of
from fixtures.speech.speech import Speech
from real_speech import BECKETT
from whisperx_api_server.backends import silero
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.silero import SileroDetector
from whisperx_api_server.domain import SAMPLE_RATE, Samples, SpeechRegion, VadOptions
from whisperx_api_server.errors import NotInstalled

SPEAKERS = ["en-adam", "en-beth", "en-carl", "fr-alain", "fr-berthe", "fr-claude"]


@pytest.fixture(scope="module")
def detector() -> SileroDetector:
    loaded = silero.load_voice_detector(ModelSpec(name="silero"))
    assert isinstance(loaded, SileroDetector)
    return loaded


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_regions_cover_every_word_and_leave_out_the_pauses(
    detector: SileroDetector, speech: Speech, speaker: str
) -> None:
    utterance = speech.random(speaker, 20, seed=1, pause=1.5)
    regions = regions_of(detector, clip_of(utterance.audio))
    for word in utterance.words:
        assert any(r.start <= word.start and word.end <= r.end for r in regions), word
    for before, after in itertools.pairwise(utterance.sentences):
        middle = (before[-1].end + after[0].start) / 2
        assert not any(r.start < middle < r.end for r in regions)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(100, np.float32),
        np.zeros(5 * SAMPLE_RATE, np.float32),
        noise(10, -60),
        noise(10, -20),
    ],
    ids=["empty", "shorter than a frame", "silence", "faint noise", "loud noise"],
)
def test_noise_gives_no_sure_region(detector: SileroDetector, samples: Samples) -> None:
    regions = regions_of(detector, clip_of(samples))
    assert all(region.probability < 0.35 for region in regions)
    assert sum(region.end - region.start for region in regions) <= len(samples) / SAMPLE_RATE / 2


def test_speech_is_surer_than_noise(detector: SileroDetector, speech: Speech) -> None:
    spoken = regions_of(detector, clip_of(speech.random("en-adam", 6, seed=1).audio))
    assert all(region.probability > 0.5 for region in spoken)


@pytest.mark.parametrize("decibels", [-40, -50])
def test_quiet_speech_is_found_whole(
    detector: SileroDetector, speech: Speech, decibels: float
) -> None:
    utterance = speech.random("en-beth", 12, seed=2)
    quiet = utterance.audio * np.float32(10 ** (decibels / 20) / np.abs(utterance.audio).max())
    regions = regions_of(detector, clip_of(quiet))
    for word in utterance.words:
        assert any(r.start <= word.start and word.end <= r.end for r in regions), word


@pytest.mark.parametrize("size", [160, 511, 512, 8_000])
def test_samples_may_be_pushed_in_pieces_of_any_size(
    detector: SileroDetector, speech: Speech, size: int
) -> None:
    clip = clip_of(speech.dialogue(["en-adam", "en-beth"], 60, seed=2).audio)
    whole = regions_of(detector, clip)
    assert len(whole) > 5
    assert regions_of(detector, clip, size=size) == whole


def test_regions_come_as_soon_as_they_are_final(detector: SileroDetector, speech: Speech) -> None:
    samples = speech.random("en-adam", 30, seed=3, pause=1.0).audio
    detection = detector.start(VadOptions())
    for second, piece in enumerate(pieces(samples, SAMPLE_RATE), start=1):
        for region in detection.push(piece):
            assert second - 2 < region.end <= second


def test_two_recordings_under_way_do_not_disturb_each_other(
    detector: SileroDetector, speech: Speech
) -> None:
    one = speech.random("en-adam", 10, seed=4).audio
    other = speech.random("fr-berthe", 10, seed=5).audio
    found: tuple[list[SpeechRegion], list[SpeechRegion]] = ([], [])
    detections = (detector.start(VadOptions()), detector.start(VadOptions()))
    for pair in zip_longest(pieces(one, 20_000), pieces(other, 20_000), fillvalue=one[:0]):
        for detection, piece, regions in zip(detections, pair, found, strict=True):
            regions.extend(detection.push(piece))
    for detection, samples, regions in zip(detections, (one, other), found, strict=True):
        assert [*regions, *detection.finish()] == regions_of(detector, clip_of(samples))


def test_a_longer_silence_duration_joins_regions(detector: SileroDetector, speech: Speech) -> None:
    clip = clip_of(speech.random("en-beth", 20, seed=6, pause=0.8).audio)
    apart = regions_of(detector, clip, VadOptions(silence_duration_ms=200))
    joined = regions_of(detector, clip, VadOptions(silence_duration_ms=2000))
    assert len(apart) > len(joined) == 1


def test_a_region_begins_before_a_faint_first_word(detector: SileroDetector) -> None:
    """Its "Ever" begins at 1.02 s; the detector is sure of the voice 0.3 s later."""
    faint = 0.1 * BECKETT.late(1000)
    bare, *_ = regions_of(detector, clip_of(faint), VadOptions(prefix_padding_ms=0))
    first, *_ = regions_of(detector, clip_of(faint))
    assert bare.start > 1.3
    assert first.start < 1.1


def test_padding_widens_regions_but_never_over_a_neighbour_or_an_end(
    detector: SileroDetector, speech: Speech
) -> None:
    clip = clip_of(speech.random("en-beth", 20, seed=6, pause=0.8).audio)
    bare = regions_of(detector, clip, VadOptions(prefix_padding_ms=0))
    padded = regions_of(detector, clip, VadOptions(prefix_padding_ms=100))
    assert padded[1].start == pytest.approx(bare[1].start - 0.1)
    assert padded[1].end == pytest.approx(bare[1].end + 0.1)
    wide = regions_of(detector, clip, VadOptions(prefix_padding_ms=5000))
    assert len(wide) == len(bare)
    assert (wide[0].start, wide[-1].end) == (0.0, clip.duration)
    assert all(a.end == b.start for a, b in itertools.pairwise(wide))


def test_a_higher_threshold_finds_less(detector: SileroDetector, speech: Speech) -> None:
    audio = speech.random("en-carl", 15, seed=7).audio
    clip = clip_of(audio + noise(len(audio) / SAMPLE_RATE, -32))

    def found(threshold: float) -> float:
        options = VadOptions(threshold=threshold)
        return sum(r.end - r.start for r in regions_of(detector, clip, options))

    assert found(0.05) > found(0.5) > found(0.99)


def test_speech_up_to_the_last_sample_ends_with_the_clip(
    detector: SileroDetector, speech: Speech
) -> None:
    audio = speech.random("en-adam", 4, seed=8, tail=0.0).audio
    assert regions_of(detector, clip_of(audio))[-1].end == len(audio) / SAMPLE_RATE


def test_an_absent_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match=r"pip install .*\[embedded\]"):
        silero.load_voice_detector(ModelSpec(name="silero"))
