"""The onnx diarizer on a real telephone call and on dialogues of known voices."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from scipy.cluster import hierarchy
from scipy.optimize import linear_sum_assignment

from fixtures.speech.speech import Speech, Utterance
from real_speech import TELEPHONE
from support import Turn, diarization_error, diarize
from whisperx_api_server.backends.base import Diarizer, ModelSpec
from whisperx_api_server.backends.onnx import clustering, load_diarizer
from whisperx_api_server.backends.onnx import diarizer as diarizer_module
from whisperx_api_server.backends.onnx.fbank import FilterBank
from whisperx_api_server.backends.onnx.segmentation import FRAMES, VOICES
from whisperx_api_server.backends.onnx.voices import BATCH, SIZE, Vectors, VoiceEncoder, unit
from whisperx_api_server.domain import AudioClip, DiarizeOptions, SpeakerTurn
from whisperx_api_server.errors import NotInstalled

RATE = 16_000
COLLAR = 25  # frames of 10 ms on both sides of a true boundary that are not scored


@pytest.fixture(scope="module")
def diarizer() -> Diarizer:
    return load_diarizer(ModelSpec(name="onnx"))


@pytest.fixture(scope="module")
def call() -> tuple[AudioClip, list[Turn]]:
    """pyannote's sample: 30 s of a telephone call, and who speaks when."""
    samples, rate = soundfile.read(TELEPHONE.path, dtype="float32")
    truth = TELEPHONE.path.with_suffix(".rttm").read_text(encoding="utf-8")
    rows = [line.split() for line in truth.splitlines()]
    turns = [Turn(row[7], float(row[3]), float(row[3]) + float(row[4])) for row in rows]
    return AudioClip(samples=samples, sample_rate=rate), turns


def test_telephone_call(diarizer: Diarizer, call: tuple[AudioClip, list[Turn]]) -> None:
    clip, reference = call
    found = diarize(diarizer, clip, DiarizeOptions())
    turns = [Turn(turn.speaker, turn.start, turn.end) for turn in found.turns]
    assert diarization_error(reference, turns) <= 0.1
    assert found.turns[0].speaker == "SPEAKER_00"
    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00", "SPEAKER_01"}


def test_overlapping_speech_has_two_speakers_and_one_exclusive_one(
    diarizer: Diarizer, call: tuple[AudioClip, list[Turn]]
) -> None:
    clip, _ = call
    mixed = clip.samples + np.roll(clip.samples, 7 * RATE)
    found = diarize(diarizer, AudioClip(samples=mixed, sample_rate=RATE), DiarizeOptions())
    assert any(
        first.end > second.start and first.speaker != second.speaker
        for first, second in zip(found.turns, found.turns[1:], strict=False)
    )
    edges = [edge for turn in found.exclusive for edge in (turn.start, turn.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= clip.duration


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
@pytest.mark.parametrize("speakers", [["en-adam", "en-beth"], ["fr-alain", "fr-berthe"]])
def test_dialogues(diarizer: Diarizer, speech: Speech, speakers: list[str], given: bool) -> None:
    spoken = speech.dialogue(speakers, 40, seed=2)
    count = len(speakers) if given else None
    found = diarize(diarizer, clip_of(spoken), DiarizeOptions(num_speakers=count))
    assert error_rate(spoken, found.turns) <= 0.1
    assert len({turn.speaker for turn in found.turns}) == len(speakers)


@pytest.mark.parametrize("speaker", ["en-adam", "en-beth", "fr-claude"])
def test_one_speaker_is_not_split(diarizer: Diarizer, speech: Speech, speaker: str) -> None:
    found = diarize(diarizer, clip_of(speech.random(speaker, 20, seed=4)), DiarizeOptions())
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
    found = diarize(diarizer, clip_of(spoken), options)
    assert len({turn.speaker for turn in found.turns}) == count


def test_more_speakers_than_speech_gives_what_there_is(diarizer: Diarizer, speech: Speech) -> None:
    spoken = speech.random("en-beth", 3, seed=1)
    found = diarize(diarizer, clip_of(spoken), DiarizeOptions(num_speakers=50))
    assert 1 <= len({turn.speaker for turn in found.turns}) < 50


@pytest.mark.parametrize("length", [0, 1, 700, 5 * RATE])
def test_silence_has_no_turns(diarizer: Diarizer, length: int) -> None:
    silence = AudioClip(samples=np.zeros(length, np.float32), sample_rate=RATE)
    assert diarize(diarizer, silence, DiarizeOptions(num_speakers=2)).turns == ()
    assert diarizer.embed([silence]) == [None]


def test_voices_are_known_again(diarizer: Diarizer, speech: Speech) -> None:
    spoken = speech.dialogue(["en-adam", "en-beth"], 30, seed=1)
    found = diarize(diarizer, clip_of(spoken), DiarizeOptions(embeddings=True))
    samples = [clip_of(speech.random(name, 5, seed=9)) for name in ("en-beth", "en-adam")]
    beth, adam = (np.array(vector) for vector in diarizer.embed(samples))
    first, second = (np.array(found.embeddings[name]) for name in ("SPEAKER_00", "SPEAKER_01"))
    for voice, same, other in ((first, adam, beth), (second, beth, adam)):
        assert cosine(voice, same) > diarizer.match_threshold > cosine(voice, other)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_blocks_do_not_change_the_result(
    diarizer: Diarizer, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = speech.dialogue(["en-adam", "en-beth"], 30, seed=6)
    whole = diarize(diarizer, clip_of(spoken), DiarizeOptions())
    monkeypatch.setattr(diarizer_module, "BLOCK", 3)
    assert diarize(diarizer, clip_of(spoken), DiarizeOptions()).turns == whole.turns


def test_each_step_tells_how_far_it_is(
    diarizer: Diarizer, call: tuple[AudioClip, list[Turn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diarizer_module, "BLOCK", 3)
    parts = list(diarizer.diarize(call[0], DiarizeOptions()))
    assert len(parts) == 4
    assert parts == sorted(set(parts))
    assert parts[-1] == 1


@contextmanager
def memory_limit(limit: float) -> Iterator[None]:
    """Fail if more bytes than that are allocated at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_clustering_hours_of_noise_needs_little_memory() -> None:
    count = 12_000  # voices that all differ: 4 hours with no two voices to merge
    noise = np.random.default_rng(0).standard_normal((count, 192)).astype(np.float32)
    windows = np.arange(count) // 2
    with memory_limit(100e6):
        labels = clustering.cluster(unit(noise), windows, least=1, most=count, hierarchy=hierarchy)
    assert 0 < labels.max() < count


def test_turns_of_many_speakers_need_little_memory() -> None:
    windows, speakers = 1_000, 1_000
    activity = np.zeros((windows, FRAMES, VOICES), bool)
    activity[:, :, 0] = True
    found = diarizer_module.Voices(
        activity=activity,
        window=np.arange(windows),
        local=np.zeros(windows, np.intp),
        clear=np.ones(windows),
        vectors=np.zeros((windows, 192), np.float32),
    )
    with memory_limit(20e6):
        speaking = diarizer_module._speaking(found, np.arange(windows), speakers)
    assert set(speaking[:, 0].tolist()) == set(range(speakers))


def voices(*counts: int) -> Vectors:
    """Vectors of that many voices per speaker, orthogonal but for a little noise."""
    directions = np.repeat(np.eye(len(counts), 16), counts, axis=0)
    noise = np.random.default_rng(0).normal(scale=0.05, size=directions.shape)
    return unit((directions + noise).astype(np.float32))


@pytest.mark.parametrize("block", [2_000, 25])
@pytest.mark.parametrize(("least", "most", "count"), [(1, 60, 3), (2, 2, 2), (1, 1, 1), (4, 9, 4)])
def test_speakers_are_clustered_in_one_block_or_several(
    monkeypatch: pytest.MonkeyPatch, block: int, least: int, most: int, count: int
) -> None:
    monkeypatch.setattr(clustering, "BLOCK", block)
    vectors = np.random.default_rng(1).permutation(voices(20, 20, 20))
    labels = clustering.cluster(vectors, np.arange(60), least=least, most=most, hierarchy=hierarchy)
    assert labels.max() + 1 == count
    if count == 3:
        truth = vectors.argmax(axis=1)
        assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 3


def test_voices_of_one_window_are_different_speakers() -> None:
    vectors = voices(2, 2)
    labels = clustering.cluster(
        vectors, np.array([0, 0, 1, 1]), least=1, most=4, hierarchy=hierarchy
    )
    assert labels[0] != labels[1]
    assert labels[2] != labels[3]


def test_repeated_speech_is_one_speaker() -> None:
    voices = np.random.default_rng(0).standard_normal((50, 192)).astype(np.float32)
    repeated = np.repeat(unit(voices), 2, axis=0)  # some have a product of 1.0000001
    labels = clustering.cluster(
        repeated, np.arange(len(repeated)), least=1, most=len(repeated), hierarchy=hierarchy
    )
    assert labels[::2].tolist() == labels[1::2].tolist()
    assert len(set(labels.tolist())) == len(voices)


def test_features_are_those_of_kaldi() -> None:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    import torch

    samples = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    reference = kaldi.fbank(
        torch.from_numpy(samples)[None] * 32_768, num_mel_bins=80, dither=0.0
    ).numpy()
    np.testing.assert_allclose(FilterBank().features(samples), reference, atol=2e-3)


def test_voices_are_embedded_a_few_at_a_time() -> None:
    sizes = []

    def run(_: None, inputs: dict[str, Vectors]) -> list[Vectors]:
        batch = inputs["features"]
        sizes.append(len(batch))
        return [np.pad(batch[:, 0], ((0, 0), (0, SIZE - batch.shape[2])))]

    rng = np.random.default_rng(0)
    voices = [rng.standard_normal((length, 80)).astype(np.float32) for length in (200, 400) * 10]
    encoder = VoiceEncoder(SimpleNamespace(run=run))

    vectors = encoder.embed(voices)

    assert sorted(sizes) == [2, 2, BATCH, BATCH]
    assert vectors.tolist() == [encoder.embed([each])[0].tolist() for each in voices]


class Session:
    """An onnxruntime.InferenceSession that only knows how it was made."""

    def __init__(self, _: str, sess_options: Any, providers: list[Any]) -> None:
        self.options, self.providers = sess_options, providers

    def get_providers(self) -> list[str]:
        return [each if isinstance(each, str) else each[0] for each in self.providers]


@pytest.mark.parametrize(
    ("device", "available", "used"),
    [
        ("cuda", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider"),
        ("cuda", ["CPUExecutionProvider"], "CPUExecutionProvider"),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], "CPUExecutionProvider"),
    ],
)
def test_the_gpu_computes_if_onnxruntime_has_one(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: Literal["cpu", "cuda"],
    available: list[str],
    used: str,
) -> None:
    made: list[Session] = []

    def session(*arguments: Any, **options: Any) -> Session:
        made.append(Session(*arguments, **options))
        return made[-1]

    stub = SimpleNamespace(
        SessionOptions=SimpleNamespace,
        InferenceSession=session,
        get_available_providers=lambda: available,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", stub)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5})
    caplog.set_level("INFO")

    load_diarizer(ModelSpec(name="onnx", device=device, device_index=1))

    assert [each.get_providers()[0] for each in made] == [used] * 2
    assert [each.options.intra_op_num_threads for each in made] == [3, 3]
    if used.startswith("CUDA"):
        assert {each.providers[0][1]["device_id"] for each in made} == {1}
    assert [record.getMessage() for record in caplog.records] == [
        f"speakers are told with onnxruntime's {used}"
    ]


@pytest.mark.parametrize("absent", ["onnxruntime", "scipy.optimize"])
def test_absent_packages_are_named_with_their_command(
    monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(NotInstalled, match="pip install"):
        load_diarizer(ModelSpec(name="onnx"))
