"""Which model a name means, and which names clients may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from support import ALIGNER
from whisperx_api_server.backends import ModelKey, fake, find_backend
from whisperx_api_server.backends.base import Stage
from whisperx_api_server.backends.published_whisper import REPOSITORIES, SYNONYMS
from whisperx_api_server.catalog import Catalog, means_default
from whisperx_api_server.config import Settings
from whisperx_api_server.errors import ModelNotFound
from whisperx_api_server.wiring import build_catalog


def catalog(**settings: object) -> Catalog:
    """The default one but for some settings."""
    return build_catalog(Settings.model_validate(settings))


def test_the_published_sizes_are_those_of_faster_whisper() -> None:
    utils = pytest.importorskip("faster_whisper.utils")

    ours = {**REPOSITORIES, **{name: REPOSITORIES[size] for name, size in SYNONYMS.items()}}
    assert ours == vars(utils)["_MODELS"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("small", "small"),
        ("Small", "small"),
        ("whisper-small", "small"),
        ("openai/whisper-small", "small"),
        ("faster-whisper-small", "small"),
        ("Systran/faster-whisper-small", "small"),
        ("whisper-large-v3-turbo", "large-v3-turbo"),
        ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", "large-v3-turbo"),
        ("turbo", "large-v3-turbo"),
        ("large", "large-v3"),
        ("openai/whisper-tiny.en", "tiny.en"),
        ("distil-large-v3", "distil-large-v3"),
        ("Systran/faster-distil-whisper-large-v3", "distil-large-v3"),
        ("distil-whisper/distil-large-v3.5-ct2", "distil-large-v3.5"),
    ],
)
def test_every_usual_name_of_a_whisper_size_means_that_size(name: str, size: str) -> None:
    key = catalog().transcriber(name)

    assert (key.backend, key.name) == ("whisperx", size)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("parakeet", "nvidia/parakeet-tdt-0.6b-v2"),
        ("parakeet-tdt-0.6b-v3", "nvidia/parakeet-tdt-0.6b-v3"),
        ("NVIDIA/Parakeet-TDT-0.6B-v3", "nvidia/parakeet-tdt-0.6b-v3"),
    ],
)
def test_a_published_parakeet_goes_to_its_engine(name: str, model: str) -> None:
    key = catalog().transcriber(name)

    assert (key.backend, key.name) == ("parakeet", model)


@pytest.mark.parametrize(
    "ask",
    [
        lambda models: models.transcriber("somebody/parakeet-tdt-0.6b-v2"),
        lambda models: models.transcriber("nvidia/parakeet-of-tomorrow"),
        lambda models: models.diarizer("somebody/pipeline"),
    ],
)
def test_allowed_models_never_apply_to_parakeets_and_pipelines(
    ask: Callable[[Catalog], ModelKey],
) -> None:
    allowed = ["somebody/*", "nvidia/*"]
    try:
        key = ask(catalog(models={"allowed": allowed}))
    except ModelNotFound:
        return
    assert key.backend == "whisperx", "CTranslate2's format holds no code"


def test_the_catalog_tells_why_a_language_cannot_be_aligned(tmp_path: Path) -> None:
    whisper = {"local_files_only": True, "download_root": tmp_path}
    models = catalog(whisper=whisper, alignment={"models": {"fr": str(ALIGNER)}})

    problems = {code: models.aligner_problem(code) for code in ("fr", "en", "la")}
    assert problems["fr"] is None
    assert "downloads are off" in str(problems["en"])
    assert "ALIGNMENT__MODELS" in str(problems["la"])
    assert catalog(backends={"alignment": "fake"}).aligner_problem("en") is None


def test_the_name_of_a_backend_means_its_configured_model() -> None:
    models = catalog(
        parakeet={"model": "/models/mine.nemo"}, backends={"transcription": "parakeet"}
    )

    assert models.transcriber("parakeet").name == "mine.nemo"
    assert models.transcriber("whisperx").name == "large-v3"
    with pytest.raises(ModelNotFound):
        models.transcriber("fake")


def test_a_backend_declares_which_settings_configure_it() -> None:
    settings = {"whisper": {"batch_size": 3}, "parakeet": {"batch_size": 5, "precision": "float16"}}
    for transcription in ("whisperx", "parakeet", "fake"):
        models = catalog(backends={"transcription": transcription}, **settings)

        whisper, parakeet = models.transcriber("tiny"), models.transcriber("parakeet")
        assert whisper.backend == ("fake" if transcription == "fake" else "whisperx")
        assert whisper.spec.max_batch == 3
        assert (parakeet.spec.max_batch, parakeet.spec.compute_type) == (5, "float16")


# -- where models lie ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "name", "path"),
    [
        ("base", "base", None),
        ("openai/whisper-base", "base", None),
        ("somebody/whisper", "somebody/whisper", None),
        ("mine", "mine", "mine"),
        ("models/mine", "mine", "models/mine"),
        ("./models/mine", "mine", "models/mine"),
        ("a/b/c", "c", "a/b/c"),
        ("absent.nemo", "absent.nemo", "absent.nemo"),
        ("x" * 5000, "x" * 5000, "x" * 5000),
    ],
)
def test_a_setting_names_a_path_or_a_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, name: str, path: str | None
) -> None:
    for folder in ("mine", "models/mine", "base"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    spec = catalog(whisper={"model": setting}).transcriber("default").spec
    assert (spec.name, spec.path) == (name, path and tmp_path / path)


def test_the_home_directory_may_be_written_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")

    assert catalog(llm={"model": "~/llm"}).language_model().spec.path == Path("/home/ann/llm")


@pytest.mark.parametrize("setting", ["whisper-small", "openai/whisper-small", "small"])
@pytest.mark.parametrize("name", ["whisper-small", "Systran/faster-whisper-small", "small"])
def test_the_configured_model_has_all_its_names(setting: str, name: str) -> None:
    models = catalog(whisper={"model": setting, "compute_type": "int8"})

    assert models.transcriber(name) == models.transcriber("whisper-1")


@pytest.mark.parametrize(
    "name",
    [
        "whisper-1",
        "Whisper-1",
        "openai/whisper-1",
        "whisper",
        "default",
        "gpt-transcribe",
        "gpt-4o-transcribe",
        "gpt-4o-transcribe-diarize",
        "gpt-4o-mini-transcribe-2025-03-20",
        "gpt-4o-transcribe-diarize-2026-01-01",
    ],
)
def test_the_names_of_openai_mean_the_default(name: str) -> None:
    models = catalog(backends={"transcription": "parakeet"})

    assert means_default(name)
    assert models.transcriber(name).name == "nvidia/parakeet-tdt-0.6b-v2"


def test_align_models_of_the_settings_come_first() -> None:
    models = catalog(alignment={"models": {"en": "somebody/english", "multilingual": "any/model"}})

    english, french = models.aligner("en"), models.aligner("fr")
    assert english is not None
    assert french is not None
    assert (english.name, english.spec.language) == ("somebody/english", "en")
    assert (french.name, french.spec.language) == ("any/model", None)
    assert models.aligner("xx") == french
    table = catalog().aligner("fr")
    assert table is not None
    assert table.name == "VOXPOPULI_ASR_BASE_10K_FR"


def test_backends_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's is found by reading the metadata of all installed packages."""
    lookups = []

    def look_up(name: str, stage: Stage) -> ModuleType:
        lookups.append(name)
        found: ModuleType = fake if name == "mine" else find_backend(name, stage)
        return found

    monkeypatch.setattr("whisperx_api_server.catalog.find_backend", look_up)
    monkeypatch.setattr("whisperx_api_server.wiring.find_backend", look_up)
    models = catalog(backends={"transcription": "mine", "alignment": "mine"})

    def ask() -> None:
        models.transcriber("tiny")
        models.aligner("en")
        models.aligner_problem("en")
        models.voice_detector()

    ask()
    before = len(lookups)
    ask()
    assert len(lookups) == before


def test_a_diarizer_with_one_model_ignores_the_setting_for_others() -> None:
    models = catalog(backends={"diarization": "onnx"})

    name = models.diarizer().name
    assert "pyannote" not in name
    assert models.diarizer(name) == models.diarizer()
    with pytest.raises(ModelNotFound):
        models.diarizer("pyannote/speaker-diarization-community-1")


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "onnx"),
        ({"hf_token": "hf_x"}, "pyannote"),
        ({"diarization": {"model": "/models/pipeline"}}, "pyannote"),
        ({"hf_token": "hf_x", "backends": {"diarization": "onnx"}}, "onnx"),
    ],
)
def test_pyannote_is_the_default_where_it_can_be_loaded(
    settings: dict[str, object], backend: str
) -> None:
    assert catalog(**settings).diarizer().backend == backend


# -- what is known before a model is loaded -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("tiny.en", {"en"}),
        ("openai/whisper-medium.en", {"en"}),
        ("distil-small.en", {"en"}),
        ("distil-large-v3", {"en"}),
        ("small", None),
        ("large-v3-turbo", None),
        ("parakeet-tdt-1.1b", {"en"}),
    ],
)
def test_the_languages_of_a_published_model_are_known(
    name: str, languages: set[str] | None
) -> None:
    models = catalog()
    known = models.known_capabilities(models.transcriber(name))

    assert (set(known.languages or ()) if known else None) == languages
