"""Forced alignment, compared with whisperx.align and with the fixtures' true times."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import urllib.error
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fixtures.speech.speech import Speech, Utterance
from support import ALIGNER, FIXTURES
from whisperx_api_server.backends.base import Aligner, AlignItem, ModelSpec
from whisperx_api_server.backends.whisperx.align_models import (
    HUB_MODELS,
    TORCHAUDIO_FILES,
    TORCHAUDIO_MODELS,
    _bundle_file,
    align_model,
    aligner_problem,
)
from whisperx_api_server.backends.whisperx.aligner import load_aligner
from whisperx_api_server.domain import Segment, TokenLogprob, Word
from whisperx_api_server.errors import (
    InsufficientMemory,
    ModelNotFound,
    ModelUnavailable,
    TranscriptionFailed,
)
from whisperx_api_server.transcript.sentences import sentence_segments

WHISPERX_TOLERANCE = 0.0201
"""Two times rounded to a millisecond, 20 ms apart."""


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return load_aligner(ModelSpec(name=ALIGNER.name, path=ALIGNER, threads=1))


@pytest.fixture(scope="module")
def vendor() -> Iterator[ModuleType]:
    """whisperx.alignment, with sentence data that it would otherwise download."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import whisperx.alignment

        whisperx.alignment.nltk.data.path.insert(0, str(FIXTURES / "nltk_data"))
        yield whisperx.alignment
        whisperx.alignment.nltk.data.path.remove(str(FIXTURES / "nltk_data"))


@pytest.fixture(scope="module")
def vendor_model(vendor: ModuleType) -> Any:
    return vendor.load_align_model("en", "cpu", str(ALIGNER))


def item_of(
    spoken: Utterance, text: str | None = None, *, language: str | None = None, offset: float = 0.0
) -> AlignItem:
    language = language or spoken.language
    segment = Segment(
        start=offset,
        end=offset + len(spoken.audio) / 16000,
        text=spoken.text if text is None else text,
        language=language,
    )
    return AlignItem(segment=segment, samples=spoken.audio, offset=offset, language=language)


def words_of(segment: Segment) -> tuple[Word, ...]:
    assert segment.words is not None
    return segment.words


def assert_sound(item: AlignItem, aligned: Segment) -> None:
    """Nothing of the text is lost, and time only goes forward, inside the segment."""
    assert aligned.text == item.segment.text
    words = words_of(aligned)
    assert "".join(word.text for word in words) == "".join(aligned.text.split())
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(item.segment.start - 1e-3 <= time <= item.segment.end + 1e-3 for time in times)


@pytest.mark.parametrize(
    ("speaker", "seconds", "old", "new"),
    [
        ("en-adam", 3, "", ""),
        ("en-beth", 12, "", ""),
        ("en-carl", 29, "", ""),
        ("fr-alain", 6, "", ""),
        ("fr-berthe", 29, "", ""),
        ("en-adam", 12, "a", "7"),
        ("en-adam", 12, " s", " $2024 ©s"),
        ("en-adam", 12, "e", "ee"),
        ("en-adam", 6, ".", "?!”"),
    ],
)
def test_words_and_times_are_those_of_whisperx(
    aligner: Aligner,
    vendor: ModuleType,
    vendor_model: Any,
    speech: Speech,
    speaker: str,
    seconds: float,
    old: str,
    new: str,
) -> None:
    spoken = speech.random(speaker, seconds, seed=2)
    item = item_of(spoken, spoken.text.replace(old, new) if old else None)
    [ours] = aligner.align([item])
    assert_sound(item, ours)
    assert_like_whisperx(item, ours, vendor, vendor_model)


def test_characters_of_a_language_without_spaces_are_words(
    aligner: Aligner, vendor: ModuleType, vendor_model: Any, speech: Speech
) -> None:
    item = item_of(speech.random("en-beth", 6, seed=4), "私は東京 に住んでいます。", language="ja")
    [ours] = aligner.align([item])
    assert [word.text for word in words_of(ours)] == list("私は東京に住んでいます。")
    assert_sound(item, ours)
    assert_like_whisperx(item, ours, vendor, vendor_model)


def assert_like_whisperx(
    item: AlignItem, aligned: Segment, vendor: ModuleType, vendor_model: Any
) -> None:
    """Words and times, and the sentences that the pipeline makes of them."""
    ours = sentence_segments(aligned)
    segment = item.segment
    model, metadata = vendor_model
    theirs = vendor.align(
        [{"start": segment.start, "end": segment.end, "text": segment.text}],
        model,
        {**metadata, "language": item.language},
        item.samples,
        "cpu",
    )["segments"]
    assert [s.text for s in ours] == [s["text"].strip() for s in theirs]
    for sentence, other in zip(ours, theirs, strict=True):
        assert sentence.words is not None
        assert [w.text for w in sentence.words] == [w["word"] for w in other["words"]]
        for word, expected in zip(sentence.words, other["words"], strict=True):
            assert word.start == pytest.approx(expected["start"], abs=WHISPERX_TOLERANCE)
            assert word.end == pytest.approx(expected["end"], abs=WHISPERX_TOLERANCE)
            assert word.score == pytest.approx(expected["score"], abs=0.02)
        assert sentence.start == pytest.approx(other["start"], abs=WHISPERX_TOLERANCE)
        assert sentence.end == pytest.approx(other["end"], abs=WHISPERX_TOLERANCE)


def test_words_start_where_they_were_said(aligner: Aligner, speech: Speech) -> None:
    spoken = [
        speech.random(speaker, 15, seed=7)
        for speaker in ("en-adam", "en-beth", "en-carl", "fr-alain", "fr-berthe", "fr-claude")
    ]
    errors = [
        abs(word.start - truth.start)
        for utterance, aligned in zip(
            spoken, aligner.align([item_of(s) for s in spoken]), strict=True
        )
        for word, truth in zip(words_of(aligned), utterance.words, strict=True)
    ]
    assert statistics.median(errors) <= 0.03


def test_a_batch_gives_what_each_item_gives_alone(aligner: Aligner, speech: Speech) -> None:
    items = [
        item_of(speech.random(speaker, seconds, seed=seed))
        for seed, (speaker, seconds) in enumerate(
            [("en-adam", 29), ("fr-alain", 3), ("en-beth", 14), ("fr-claude", 7)]
        )
    ]
    items.insert(2, replace(items[0], segment=replace(items[0].segment, text="")))
    together = aligner.align(items)
    for item, aligned in zip(items, together, strict=True):
        [alone] = aligner.align([item])
        assert aligned.text == alone.text
        for word, expected in zip(words_of(aligned), words_of(alone), strict=True):
            assert word.start == pytest.approx(expected.start, abs=WHISPERX_TOLERANCE)
            assert word.end == pytest.approx(expected.end, abs=WHISPERX_TOLERANCE)


def test_times_are_on_the_clock_of_the_recording(aligner: Aligner, speech: Speech) -> None:
    spoken = speech.random("en-adam", 12, seed=3)
    early, late = aligner.align([item_of(spoken), item_of(spoken, offset=3600.0)])
    for before, after in zip(words_of(early), words_of(late), strict=True):
        assert after.start == pytest.approx(before.start + 3600, abs=0.002)
        assert after.end == pytest.approx(before.end + 3600, abs=0.002)


def test_only_the_segment_is_listened_to(aligner: Aligner, speech: Speech) -> None:
    """The item's audio may hold more than its segment."""
    spoken = speech.random("en-adam", 14, seed=3)
    second = spoken.sentences[1]
    text = " ".join(word.word for word in second)
    segment = Segment(start=100 + second[0].start - 0.2, end=100 + second[-1].end + 0.2, text=text)
    [aligned] = aligner.align(
        [AlignItem(segment=segment, samples=spoken.audio, offset=100.0, language="en")]
    )
    for word, truth in zip(words_of(aligned), second, strict=True):
        assert word.start == pytest.approx(100 + truth.start, abs=0.1)


def test_an_aligned_segment_keeps_what_it_knew(aligner: Aligner, speech: Speech) -> None:
    item = item_of(speech.random("en-adam", 12, seed=2))
    logprob = TokenLogprob(token="six", logprob=-0.1, bytes=(115,))
    segment = replace(
        item.segment, tokens=(5, 6), avg_logprob=-0.3, temperature=0.2, logprobs=(logprob,)
    )
    [aligned] = aligner.align([replace(item, segment=segment)])
    words = words_of(aligned)
    assert (aligned.start, aligned.end) == (words[0].start, words[-1].end)
    assert replace(aligned, start=segment.start, end=segment.end, words=None) == segment


def test_a_number_alone_gets_a_time(aligner: Aligner, speech: Speech) -> None:
    item = item_of(speech.random("en-adam", 3, seed=1), "42 1999")
    [aligned] = aligner.align([item])
    assert_sound(item, aligned)
    assert all(word.score is not None for word in words_of(aligned))


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (np.zeros(0, np.float32), "no audio at all"),
        (np.zeros(399, np.float32), "too short"),
        (np.zeros(3200, np.float32), "more letters than the audio has frames"),
        (np.full(16000, np.nan, np.float32), "not a number"),
    ],
)
def test_words_that_cannot_be_aligned_are_spread_evenly(
    aligner: Aligner, samples: Any, text: str
) -> None:
    segment = Segment(start=5.0, end=7.0, text=text, language="en")
    [alone] = aligner.align(
        [AlignItem(segment=segment, samples=samples, offset=5.0, language="en")]
    )
    words = alone.words or ()
    assert (alone.start, alone.end, alone.text) == (5.0, 7.0, text)
    assert [word.text for word in words] == text.split()
    assert {round(word.end - word.start, 2) for word in words} == {round(2 / len(words), 2)}
    assert all(word.score is None for word in words)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_no_text_has_no_words(aligner: Aligner, text: str) -> None:
    segment = Segment(start=0.0, end=1.0, text=text)
    silence = np.zeros(16000, np.float32)
    [alone] = aligner.align(
        [AlignItem(segment=segment, samples=silence, offset=0.0, language="en")]
    )
    assert alone.words == ()


@pytest.mark.parametrize(
    "text",
    [
        "İstanbul",
        "a\tb\u3000c\xa0d",
        "  two  spaces ",
        "|",
        "- -",
        "<pad> <s>",
        "e\u0301te\u0301",
        "🙂 ok",
    ],
)
def test_odd_characters_are_not_lost(aligner: Aligner, speech: Speech, text: str) -> None:
    item = item_of(speech.random("en-adam", 3, seed=1), text)
    [aligned] = aligner.align([item])
    assert_sound(item, aligned)
    assert [word.text for word in words_of(aligned)] == text.split()


def test_silence_and_an_empty_batch_are_accepted(aligner: Aligner) -> None:
    assert aligner.align([]) == []
    segment = Segment(start=0.0, end=2.0, text="hello there", language="en")
    item = AlignItem(
        segment=segment, samples=np.zeros(32000, np.float32), offset=0.0, language="en"
    )
    [aligned] = aligner.align([item])
    assert_sound(item, aligned)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("CUDA out of memory", InsufficientMemory),
        ("", InsufficientMemory),  # a CPU's memory runs out
        ("some kernel failed", TranscriptionFailed),
    ],
)
def test_errors_of_torch_become_service_errors(
    speech: Speech, raised: str, expected: type[Exception]
) -> None:
    import torch

    from whisperx_api_server.backends.whisperx.align_models import CtcModel
    from whisperx_api_server.backends.whisperx.aligner import CtcAligner

    def fail(samples: object) -> Any:
        if not raised:
            torch.empty(10**13)
        raise (torch.OutOfMemoryError if "CUDA" in raised else RuntimeError)(raised)

    def unreachable(features: object, lengths: object) -> Any:
        raise AssertionError

    model = CtcModel(features=fail, logits=unreachable, dictionary={"a": 1}, blank=0, device="cpu")
    with pytest.raises(expected):
        CtcAligner(model).align([item_of(speech.random("en-adam", 3, seed=1))])


def test_the_table_is_that_of_whisperx(vendor: ModuleType) -> None:
    assert vendor.DEFAULT_ALIGN_MODELS_TORCH == TORCHAUDIO_MODELS
    assert vendor.DEFAULT_ALIGN_MODELS_HF == HUB_MODELS


def test_whisperx_has_a_model_for_some_languages() -> None:
    assert align_model("en") == "WAV2VEC2_ASR_BASE_960H"
    assert align_model("ja") == "jonatasgrosman/wav2vec2-large-xlsr-53-japanese"
    assert align_model("xx") is None


def test_a_model_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, FIXTURES / "models" / "whisper", None):
        with pytest.raises((ModelNotFound, ModelUnavailable)) as caught:
            load_aligner(
                ModelSpec(name="x/y", path=path, local_files_only=True, download_root=tmp_path)
            )
        assert str(FIXTURES) not in caught.value.message
        assert str(tmp_path) not in caught.value.message


def test_a_damaged_model_or_an_absent_device_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable):
        load_aligner(ModelSpec(name=ALIGNER.name, path=ALIGNER, device="cuda", device_index=99))
    for source in ALIGNER.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes()[:100_000])
    with pytest.raises(ModelUnavailable):
        load_aligner(ModelSpec(name=tmp_path.name, path=tmp_path))


@pytest.fixture
def tiny_bundle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchaudio's English bundle, shrunk, so that its weights need no download."""
    import torchaudio

    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    small = {
        "extractor_conv_layer_config": [(8, *kernel[1:]) for kernel in CONVOLUTIONS],
        "encoder_embed_dim": 16,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 1,
        "encoder_num_heads": 2,
        "encoder_ff_interm_features": 16,
    }
    monkeypatch.setattr(bundle, "_params", {**bundle._params, **small})
    return bundle


CONVOLUTIONS = [(0, 10, 5), *[(0, 3, 2)] * 4, *[(0, 2, 2)] * 2]


def test_a_torchaudio_bundle_aligns(
    tiny_bundle: Any, vendor: ModuleType, speech: Speech, tmp_path: Path
) -> None:
    import torch
    import torchaudio

    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**tiny_bundle._params)
    state = model.state_dict()
    for key in ("aux.weight", "aux.bias"):  # three classes that loading drops
        state[key] = torch.cat([state[key][:1], state[key][:3], state[key][1:]])
    torch.save(state, tmp_path / tiny_bundle._path)
    spec = ModelSpec(name="WAV2VEC2_ASR_BASE_960H", download_root=tmp_path, local_files_only=True)
    loaded = load_aligner(spec)
    items = [
        item_of(speech.random("en-adam", seconds, seed=seed), text)
        for seed, seconds, text in ((1, 3, "well-done cat."), (2, 12, None), (3, 6, "- - 5"))
    ]
    theirs = vendor.load_align_model("en", "cpu", spec.name, model_dir=str(tmp_path))
    for item, ours in zip(items, loaded.align(items), strict=True):
        assert_sound(item, ours)
        assert_like_whisperx(item, ours, vendor, theirs)


def test_a_bundle_that_is_not_there(
    tiny_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModelSpec(name="WAV2VEC2_ASR_BASE_960H", download_root=tmp_path)
    with pytest.raises(ModelNotFound):
        load_aligner(replace(spec, local_files_only=True))

    def offline(*_: object, **__: object) -> Any:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(sys.modules[type(tiny_bundle).__module__].utils, "_get_state_dict", offline)
    with pytest.raises(ModelUnavailable):
        load_aligner(spec)
    with pytest.raises(ModelNotFound):  # features only: it has no letters
        load_aligner(replace(spec, name="WAV2VEC2_BASE"))


# -- before anything is loaded ----------------------------------------------------------------


def test_the_files_of_bundles_are_those_of_torchaudio() -> None:
    import torchaudio.pipelines

    bundles = {name: getattr(torchaudio.pipelines, name) for name in torchaudio.pipelines.__all__}
    assert {
        name: Path(bundle._path).name
        for name, bundle in bundles.items()
        if hasattr(bundle, "_path") and hasattr(bundle, "get_labels")
    } == TORCHAUDIO_FILES


@pytest.mark.parametrize("name", ["WAV2VEC2_ASR_BASE_960H", "somebody/wav2vec2"])
def test_a_model_that_would_need_a_download_is_a_problem_when_downloads_are_off(
    name: str, tmp_path: Path
) -> None:
    spec = ModelSpec(name=name, download_root=tmp_path, local_files_only=True)

    problem = aligner_problem(spec)
    assert isinstance(problem, ModelNotFound)
    assert "downloads are off" in problem.message
    with pytest.raises(ModelNotFound) as loading:
        load_aligner(spec)
    assert "downloads are off" in loading.value.message

    (tmp_path / "wav2vec2_fairseq_base_ls960_asr_ls960.pth").touch()
    cached = tmp_path / "models--somebody--wav2vec2"
    (cached / "snapshots" / "12ab").mkdir(parents=True)
    (cached / "snapshots" / "12ab" / "pytorch_model.bin").touch()
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("12ab")
    assert aligner_problem(spec) is None


def test_a_hub_out_of_reach_is_not_taken_for_a_wrong_model(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.whisperx import load_aligner
from whisperx_api_server.errors import ServiceError
time.sleep = lambda seconds: None  # the hub's client waits between its attempts
try:
    load_aligner(ModelSpec(name="somebody/wav2vec2", download_root=Path({str(tmp_path)!r})))
except ServiceError as error:
    print(error.code, error.message)
"""
    offline = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **offline},
    )
    assert done.stdout.startswith("model_unavailable"), done.stderr
    assert "cannot be reached" in done.stdout


def test_where_torch_keeps_bundles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    spec = ModelSpec(name="WAV2VEC2_ASR_BASE_960H")
    for settings in ({"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        for variable in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in settings.items():
            monkeypatch.setenv(variable, value)
        assert _bundle_file(spec).parent == Path(torch.hub.get_dir()) / "checkpoints"


def test_absent_packages_are_told_without_importing_those_that_are_there() -> None:
    script = f"""
import sys
from pathlib import Path
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.whisperx import aligner_problem
spec = ModelSpec(name="aligner", path=Path({str(ALIGNER)!r}))
assert aligner_problem(spec) is None
sys.modules["torchaudio"] = None
print(type(aligner_problem(spec)).__name__, "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["NotInstalled", "False"], done.stderr
