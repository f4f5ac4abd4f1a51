"""Which model a name means, and which names clients may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support import ALIGNER
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.whisper_names import REPOSITORIES, SYNONYMS
from whisperx_api_server.catalog import Catalog
from whisperx_api_server.config import Settings
from whisperx_api_server.errors import ModelNotFound
from whisperx_api_server.main import build_catalog


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
def test_what_could_run_code_is_never_loaded_because_clients_may_name_it(
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
