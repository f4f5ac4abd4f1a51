"""pyannote through its real loaders: a pipeline built from wheels, and whisperX's segmentation."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import diarizer_fixture
from detection import clip_of, noise, regions_of
from fixtures.speech.speech import Speech, Utterance
from support import PATIENCE, diarize
from whisperx_api_server.backends import pyannote
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.pyannote import (
    ChunkScorer,
    PyannoteDiarizer,
    PyannoteVoiceDetector,
)
from whisperx_api_server.backends.vendors import package_file
from whisperx_api_server.domain import (
    Diarization,
    DiarizeOptions,
    KnownSpeaker,
    Samples,
    SpeakerTurn,
    Upload,
)
from whisperx_api_server.errors import ModelNotFound, NotInstalled

SAMPLE_RATE = 16_000
REPOSITORY = Path(__file__).parents[2]

# Vendors' own, at import; what pyannote says while it works is the backend's to keep quiet.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def pipeline() -> Path:
    return diarizer_fixture.build(REPOSITORY / "build" / "test-diarizer")


@pytest.fixture(scope="module")
def diarizer(pipeline: Path) -> PyannoteDiarizer:
    loaded = pyannote.load_diarizer(ModelSpec(name=pipeline.name, path=pipeline))
    assert isinstance(loaded, PyannoteDiarizer)
    return loaded


@pytest.fixture(scope="module")
def detector() -> PyannoteVoiceDetector:
    loaded = pyannote.load_voice_detector(ModelSpec(name="pyannote"))
    assert isinstance(loaded, PyannoteVoiceDetector)
    return loaded


def speakers_of(turns: Iterable[SpeakerTurn]) -> set[str]:
    return {turn.speaker for turn in turns}


def error_rate(utterance: Utterance, turns: Iterable[SpeakerTurn]) -> float:
    """Diarization error rate, forgiving 0.25 s around each bound."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    truth, found = Annotation(), Annotation()
    for words in utterance.sentences:
        truth[Segment(words[0].start, words[-1].end), words[0].start] = words[0].speaker
    for number, turn in enumerate(turns):
        found[Segment(turn.start, turn.end), number] = turn.speaker
    everything = Timeline([Segment(0, len(utterance.audio) / SAMPLE_RATE)])
    return float(DiarizationErrorRate(collar=0.25)(truth, found, uem=everything))


def cosine(one: Iterable[float], other: Iterable[float]) -> float:
    a, b = np.array(list(one)), np.array(list(other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def dialogue(speech: Speech) -> Utterance:
    return speech.dialogue(["en-adam", "en-beth"], 20, seed=1)


@pytest.fixture(scope="module")
def diarized(diarizer: PyannoteDiarizer, dialogue: Utterance) -> Diarization:
    return diarize(diarizer, clip_of(dialogue.audio), DiarizeOptions(embeddings=True))


def test_steps_report_the_progress(diarizer: PyannoteDiarizer, dialogue: Utterance) -> None:
    parts = list(diarizer.diarize(clip_of(dialogue.audio), DiarizeOptions()))
    assert len(parts) > 2
    assert parts == sorted(parts)
    assert 0.2 < parts[-1] <= 1


def test_closed_diarization_ends_its_thread(
    diarizer: PyannoteDiarizer, dialogue: Utterance
) -> None:
    steps = diarizer.diarize(clip_of(dialogue.audio), DiarizeOptions())
    before = set(threading.enumerate())
    next(steps)
    (thread,) = set(threading.enumerate()) - before
    steps.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("speakers", "options"),
    [
        (["en-adam", "en-beth"], DiarizeOptions()),
        (["fr-alain", "fr-berthe"], DiarizeOptions()),
        (["en-adam", "en-beth", "en-carl"], DiarizeOptions(num_speakers=3)),
    ],
    ids=["English", "French", "three"],
)
def test_tells_speakers_apart(
    diarizer: PyannoteDiarizer,
    speech: Speech,
    speakers: list[str],
    options: DiarizeOptions,
) -> None:
    utterance = speech.dialogue(speakers, 40, seed=2)
    found = diarize(diarizer, clip_of(utterance.audio), options)
    assert error_rate(utterance, found.turns) <= 0.10
    assert error_rate(utterance, found.exclusive) <= 0.10
    assert found.embeddings == {}


def test_speakers_are_numbered_as_they_appear(diarized: Diarization) -> None:
    assert list(dict.fromkeys(t.speaker for t in diarized.turns)) == ["SPEAKER_00", "SPEAKER_01"]
    assert speakers_of(diarized.exclusive) == {"SPEAKER_00", "SPEAKER_01"}
    starts = [turn.start for turn in diarized.turns]
    assert starts == sorted(starts)


def test_exclusive_turns_do_not_overlap(diarizer: PyannoteDiarizer, speech: Speech) -> None:
    adam = speech.random("en-adam", 8, seed=4).audio
    beth = speech.random("en-beth", 8, seed=5).audio
    late = np.concatenate([np.zeros(len(adam) - 2 * SAMPLE_RATE, np.float32), beth])
    late[: len(adam)] += adam  # Beth begins 2 s before Adam has ended
    found = diarize(diarizer, clip_of(late), DiarizeOptions(num_speakers=2))
    assert any(one.end > other.start for one, other in itertools.pairwise(found.turns))
    assert all(one.end <= other.start for one, other in itertools.pairwise(found.exclusive))
    assert speakers_of(found.exclusive) == speakers_of(found.turns)


def test_a_closed_gap_does_not_cover_another_speaker() -> None:
    turns = [
        SpeakerTurn(start=0.0, end=2.0, speaker="A"),
        SpeakerTurn(start=1.0, end=1.1, speaker="B"),
        SpeakerTurn(start=1.9, end=3.0, speaker="B"),
    ]
    assert pyannote._without_overlap(turns) == (
        SpeakerTurn(start=0.0, end=2.0, speaker="A"),
        SpeakerTurn(start=2.0, end=3.0, speaker="B"),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DiarizeOptions(max_speakers=1), 1),
        (DiarizeOptions(num_speakers=1), 1),
        (DiarizeOptions(min_speakers=3), 3),
        (DiarizeOptions(min_speakers=2, max_speakers=2), 2),
    ],
    ids=str,
)
def test_the_numbers_of_speakers_are_kept(
    diarizer: PyannoteDiarizer, dialogue: Utterance, options: DiarizeOptions, expected: int
) -> None:
    found = diarize(diarizer, clip_of(dialogue.audio), options)
    assert len(speakers_of(found.turns)) == expected


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(8 * SAMPLE_RATE, np.float32),
        noise(8, -60),
    ],
    ids=["empty", "one sample", "silence", "faint noise"],
)
def test_without_speech_there_is_nobody(diarizer: PyannoteDiarizer, samples: Samples) -> None:
    clip = clip_of(samples)
    found = diarize(diarizer, clip, DiarizeOptions(embeddings=True, min_speakers=2))
    assert (found.turns, found.exclusive, found.embeddings) == ((), (), {})
    assert diarizer.embed([clip]) == [None]


def test_more_speakers_than_speech_is_answered(
    diarizer: PyannoteDiarizer,
    speech: Speech,
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
) -> None:
    clip = clip_of(speech.random("en-adam", 3, seed=1).audio)
    found = diarize(diarizer, clip, DiarizeOptions(num_speakers=20, embeddings=True))
    assert 1 <= len(speakers_of(found.turns)) <= 20
    assert not recwarn.list
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_moment_of_speech_needs_no_embedding(diarizer: PyannoteDiarizer, speech: Speech) -> None:
    word = speech.random("en-adam", 3, seed=1).words[0]
    audio = speech.random("en-adam", 3, seed=1).audio
    moment = audio[int(word.start * SAMPLE_RATE) :][: SAMPLE_RATE // 5]
    found = diarize(diarizer, clip_of(moment), DiarizeOptions(embeddings=True))
    assert all(np.isfinite(vector).all() for vector in found.embeddings.values())


def test_embeddings_know_a_voice_again(
    diarizer: PyannoteDiarizer, diarized: Diarization, speech: Speech
) -> None:
    voices = ["en-adam", "en-beth"]
    references = [clip_of(speech.random(voice, 6, seed=9).audio) for voice in voices]
    adam, beth = diarizer.embed(references)
    assert adam is not None
    assert beth is not None
    first, second = diarized.embeddings["SPEAKER_00"], diarized.embeddings["SPEAKER_01"]
    for own, other, reference in ((first, second, adam), (second, first, beth)):
        assert cosine(own, reference) > diarizer.match_threshold > cosine(other, reference)


def test_known_speakers_need_embeddings(
    diarizer: PyannoteDiarizer, dialogue: Utterance, tmp_path: Path
) -> None:
    known = KnownSpeaker(name="Adam", reference=Upload(id="adam"))
    found = diarize(diarizer, clip_of(dialogue.audio), DiarizeOptions(known_speakers=(known,)))
    assert set(found.embeddings) == speakers_of(found.turns)


def test_reads_a_memory_map(
    diarizer: PyannoteDiarizer, speech: Speech, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    audio = speech.random("en-beth", 6, seed=2).audio
    np.save(tmp_path / "audio.npy", audio)
    mapped = np.load(tmp_path / "audio.npy", mmap_mode="r")
    from_disk = diarize(diarizer, clip_of(mapped), DiarizeOptions())
    assert from_disk == diarize(diarizer, clip_of(audio), DiarizeOptions())
    assert from_disk.turns
    assert not recwarn.list


def test_loading_is_silent_and_sends_nothing(
    pipeline: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from pyannote.audio.telemetry.metrics import is_metrics_enabled

    pyannote.load_diarizer(ModelSpec(name=pipeline.name, path=pipeline))
    pyannote.load_voice_detector(ModelSpec(name="pyannote"))
    assert tuple(capfd.readouterr()) == ("", "")
    assert not caplog.records
    assert not is_metrics_enabled()


def test_an_absent_pipeline_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(name="nobody/no-such-pipeline", local_files_only=True)
    with pytest.raises(ModelNotFound, match="no-such-pipeline"):
        pyannote.load_diarizer(spec)


def test_another_pipeline_is_refused_as_diarizer(tmp_path: Path) -> None:
    weights = package_file("whisperx", "assets/pytorch_model.bin", extra="cpu")
    (tmp_path / "config.yaml").write_text(
        "pipeline:\n  name: pyannote.audio.pipelines.VoiceActivityDetection\n"
        f"  params: {{segmentation: {weights}}}\n"
    )
    with pytest.raises(ModelNotFound, match="not a pyannote speaker diarization pipeline"):
        pyannote.load_diarizer(ModelSpec(name=tmp_path.name, path=tmp_path))


def test_nemo_is_hidden_from_the_loading_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nemo", raising=False)  # where another test imported it
    found = []
    with pyannote._nemo_hidden():
        with pytest.raises(ModuleNotFoundError):
            importlib.util.find_spec("nemo")
        other = threading.Thread(target=lambda: found.append(importlib.util.find_spec("nemo")))
        other.start()
        other.join()
    assert found[0] is not None
    assert importlib.util.find_spec("nemo") is not None


@pytest.mark.parametrize("speaker", ["en-adam", "en-beth", "en-carl", "fr-alain", "fr-berthe"])
def test_regions_cover_the_words(
    detector: PyannoteVoiceDetector, speech: Speech, speaker: str
) -> None:
    utterance = speech.random(speaker, 12, seed=1, pause=1.5)
    regions = regions_of(detector, clip_of(utterance.audio))
    for word in utterance.words:
        middle = (word.start + word.end) / 2
        assert any(r.start < middle < r.end for r in regions), word
    for before, after in itertools.pairwise(utterance.sentences):
        middle = (before[-1].end + after[0].start) / 2
        assert not any(r.start < middle < r.end for r in regions)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(80_000, np.float32), noise(8, -60)],
    ids=["empty", "one sample", "silence", "faint noise"],
)
def test_noise_gives_no_region(detector: PyannoteVoiceDetector, samples: Samples) -> None:
    assert regions_of(detector, clip_of(samples)) == []


@pytest.mark.parametrize("seconds", [2.0, 5.0, 12.34])
def test_scores_are_those_of_pyannotes_own_inference(
    detector: PyannoteVoiceDetector, speech: Speech, seconds: float
) -> None:
    from pyannote.audio import Inference

    samples = speech.dialogue(["en-adam", "en-beth"], 20, seed=3).audio[: int(seconds * 16_000)]
    scorer = ChunkScorer(detector._model, detector._torch)
    ours = [*scorer.push(samples), *scorer.finish()]
    inference = Inference(
        detector._model, pre_aggregation_hook=lambda s: np.max(s, axis=-1, keepdims=True)
    )
    waveform = detector._torch.from_numpy(samples[None])
    theirs = inference({"waveform": waveform, "sample_rate": SAMPLE_RATE}).data[:, 0]
    common = min(len(ours), len(theirs))
    assert common * detector._model.receptive_field.step > seconds - 0.1
    np.testing.assert_allclose(ours[:common], theirs[:common], atol=1e-5)


@pytest.mark.parametrize("size", [320, 7_777, 80_000])
def test_samples_may_be_pushed_in_pieces_of_any_size(
    detector: PyannoteVoiceDetector, speech: Speech, size: int
) -> None:
    clip = clip_of(speech.dialogue(["fr-alain", "fr-berthe"], 20, seed=2).audio)
    whole = regions_of(detector, clip)
    assert len(whole) > 2
    divided = regions_of(detector, clip, size=size)
    assert [(r.start, r.end) for r in divided] == [(r.start, r.end) for r in whole]
    assert [r.probability for r in divided] == pytest.approx([r.probability for r in whole])


def test_absent_packages_name_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NotInstalled, match=r"pip install .*\[cpu\]"):
        pyannote.load_voice_detector(ModelSpec(name="pyannote"))
    monkeypatch.setitem(sys.modules, "pyannote.audio", None)
    with pytest.raises(NotInstalled, match=r"pip install .*\[cpu\]"):
        pyannote.load_diarizer(ModelSpec(name="pyannote/speaker-diarization-community-1"))
