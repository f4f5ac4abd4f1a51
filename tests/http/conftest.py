"""Servers that the HTTP tests share: each starts when first asked for, and must end clean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import cast, get_args

import pytest
from playwright.sync_api import Browser, sync_playwright

import diarizer_fixture
from browser import CHROMIUM, launch
from gated import Gate
from live import is_idle
from real_speech import DICKENS, Recording, excerpt, folder
from server import (
    FAKE,
    LOCKED_KEY,
    REFLECTOR_KEY,
    REPOSITORY,
    Mode,
    Server,
    base_settings,
    real_settings,
    serving,
)
from support import ALIGNER, FIXTURES, PARAKEET, WHISPER, eventually
from whisperx_api_server.domain import Samples

LIMITS = {"LIMITS__AUDIO_SECONDS": "600", "LIMITS__UPLOAD_BYTES": str(32 * 1024**2)}


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On the fake backend: it hears the tones of `backends.fake.say`."""
    with serving(tmp_path_factory.mktemp("fake"), FAKE | LIMITS) as server:
        yield server


@pytest.fixture(scope="session")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On the fake backend, for clients with the key; it logs JSON."""
    settings = FAKE | {"API_KEY": LOCKED_KEY, "LOG_FORMAT": "json"}
    with serving(tmp_path_factory.mktemp("locked"), settings) as server:
        yield server


@pytest.fixture(scope="module", params=get_args(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Tests with this fixture run in both modes."""
    return cast("Mode", request.param)


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`fake_server` in MODE=kafka."""
    with serving(tmp_path_factory.mktemp("kafka"), FAKE | LIMITS, mode="kafka") as server:
        yield server


@pytest.fixture(scope="module")
def either_server(mode: Mode, request: pytest.FixtureRequest) -> Server:
    """`fake_server` in both modes."""
    name = "fake_server" if mode == "direct" else "kafka_server"
    return cast("Server", request.getfixturevalue(name))


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On the fixture models: Whisper, wav2vec2 and pyannote through their real loaders."""
    diarizer = diarizer_fixture.build(REPOSITORY / "build" / "test-diarizer")
    settings = real_settings(WHISPER, ALIGNER, diarizer)
    with serving(tmp_path_factory.mktemp("real"), settings) as server:
        yield server


@pytest.fixture(scope="session")
def parakeet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Parakeet beside Whisper, and all else that Reflector asks of a GPU server, under a key."""
    if find_spec("nemo") is None:
        pytest.skip("the parakeet extra is not installed")
    diarizer = diarizer_fixture.build(REPOSITORY / "build" / "test-diarizer")
    models = FIXTURES / "models"
    settings = real_settings(WHISPER, ALIGNER, diarizer) | {
        "API_KEY": REFLECTOR_KEY,
        "PARAKEET__MODEL": str(PARAKEET),
        "PARAKEET__PRELOAD": "true",
        "TRANSLATION__MODELS": json.dumps({"fr-en": str(models / "marian")}),
        "LLM__MODEL": str(models / "causal-lm"),
        "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
    }
    with serving(tmp_path_factory.mktemp("parakeet"), settings) as server:
        server.http.headers["authorization"] = f"bearer {REFLECTOR_KEY}"
        yield server


@pytest.fixture(scope="session")
def base_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make serve` starts: Whisper base and the onnx diarizer."""
    directory = tmp_path_factory.mktemp("base")
    with serving(directory, base_settings(directory)) as server:
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium with a microphone; no test of the module may run an event loop of its own."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        browser = launch(playwright, tmp_path_factory.mktemp("browser"))
        yield browser
        browser.close()


@pytest.fixture
def settled(server: Server, gate: Gate) -> None:
    """A module's `server` on its `gate` has nothing under way: no window counts in two tests."""
    gate.allow()
    eventually(lambda: is_idle(server))


@pytest.fixture(scope="session")
def clips() -> dict[str, Recording]:
    """The recordings of `../shared/real` by name; none where that folder is not."""
    return folder()


@pytest.fixture(scope="session")
def opening() -> Samples:
    """The first 6 s of Dickens, which say `real_speech.OPENING`."""
    return excerpt(DICKENS, 0, 6.2)
