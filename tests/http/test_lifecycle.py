"""From the first second to the last: starting, loading and unloading models, and shutting down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from fixtures.speech.speech import Speech
from gated import Gate
from server import FAKE, Server, real_settings
from support import ALIGNER, PATIENCE, WHISPER, eventually, wav, words_of
from tones import CHUNK, sentences, text
from whisperx_api_server.backends.fake import say

PATH = "/v1/audio/transcriptions"
GOOD = wav(say("red door house"))

HEAVY = (
    *("torch", "torchaudio", "ctranslate2", "faster_whisper", "whisperx", "nemo", "pyannote"),
    *("transformers", "onnxruntime", "huggingface_hub", "scipy", "librosa"),
)


def environment(**settings: str) -> dict[str, str]:
    """This process's, without whatever settings of the server it happens to have."""
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR", "PYTHONPATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | settings


def loaded(server: Server, stage: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        server.http.get(f"/{stage}/list").raise_for_status().json()["models"]
    )
    return found


# -- starting -----------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    """What makes the first health check quick, whichever engine is configured."""
    script = f"""
import sys
from starlette.testclient import TestClient
from whisperx_api_server.main import create_app
with TestClient(create_app()) as client:
    for path in ("/healthcheck", "/ready", "/info", "/v1/models", "/models/list"):
        assert client.get(path).status_code == 200, path
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=environment(XDG_STATE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WHISPER__BATCH_SIZE", "zero"),
        ("WHISPER__MODLE", "large-v3"),
        ("API_KEYS_FILE", "/nowhere/keys.json"),
        ("BACKENDS__ALIGNMENT", "parakeet"),
        ("ALIGNMENT__PRELOAD", '["la"]'),
    ],
)
def test_a_wrong_setting_stops_the_start_in_one_line(
    tmp_path: Path, variable: str, value: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "whisperx_api_server.cli", "serve", "--port", "1"],
        cwd=tmp_path,
        env=environment(**{variable: value}),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode not in (0, None)
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert variable in line


def test_a_port_in_use_stops_the_start(fake_server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "whisperx_api_server.cli", "serve"),
            *("--port", str(fake_server.port)),
        ],
        cwd=tmp_path,
        env=environment(**FAKE, XDG_STATE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_uvicorn_finds_the_factory(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "whisperx_api_server.main:create_app"),
        *("--host", "127.0.0.1", "--port"),
    ]
    server = Server(tmp_path, FAKE, command=command).wait_until_healthy()
    try:
        assert server.transcribe(GOOD).json()["text"] == "red door house."
    finally:
        server.stop()
    assert server.temp_files() == []
    assert not [path for path in server.temp.iterdir() if path.name.startswith("whisperx")]


# -- models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def preloading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On real models that load at start, with the fake diarizer."""
    settings = real_settings(WHISPER, ALIGNER) | {
        "WHISPER__PRELOAD": "true",
        "WHISPER__BATCH_SIZE": "3",
        "ALIGNMENT__PRELOAD": '["en", "fr"]',
        "BACKENDS__DIARIZATION": "fake",
    }
    with Server(tmp_path_factory.mktemp("preloading"), settings) as server:
        first = server.http.get("/ready")
        assert first.status_code == 503, "torch cannot be in that soon"
        assert first.headers["x-request-id"]
        yield server


def is_ready(server: Server) -> bool:
    return server.http.get("/ready").status_code == 200


def test_ready_comes_after_the_models_that_load_at_start(preloading: Server) -> None:
    eventually(lambda: is_ready(preloading), seconds=200)

    (whisper,) = loaded(preloading, "models")
    (aligner,) = loaded(preloading, "align_models")
    assert (whisper["state"], aligner["state"]) == ("ready", "ready")
    assert loaded(preloading, "diarize_models") == []
    assert preloading.lane("transcription")["batch_limit"] == 3


def test_models_come_and_go_while_others_stay(preloading: Server, speech: Speech) -> None:
    eventually(lambda: is_ready(preloading), seconds=200)
    http = preloading.http

    assert http.post("/models/unload", data={"model": "whisper-1"}).status_code == 200
    assert loaded(preloading, "models") == []
    assert len(loaded(preloading, "align_models")) == 1
    again = http.post("/models/unload", params={"model": "whisper-1"})
    assert again.status_code == 404
    assert again.json()["error"]["code"] == "not_found"

    said = speech.build([("en-beth", ["open", "red", "door"])])
    answer = preloading.transcribe(wav(said.audio))
    assert words_of(answer.json()["text"]) == words_of(said.text)
    assert len(loaded(preloading, "models")) == 1

    for _ in range(2):
        answer = http.post("/align_models/load", data={"language": "english"})
        assert answer.json()["status"] == "loaded"
    assert len(loaded(preloading, "align_models")) == 1


def test_every_stage_is_managed(either_server: Server) -> None:
    for stage, fields in (
        ("models", {"model": "large-v3"}),
        ("align_models", {"language": "de"}),
        ("diarize_models", {"model": "pyannote/speaker-diarization-community-1"}),
        ("diarize_models", {}),
    ):
        answer = either_server.http.post(f"/{stage}/load", data=fields)
        assert answer.status_code == 200, answer.text
        shown = next(
            each for each in loaded(either_server, stage) if each["model"] == answer.json()["model"]
        )
        assert shown["state"] == "ready"
        assert shown["requests"] == 0

        answer = either_server.http.post(f"/{stage}/unload", params=fields)
        assert answer.json()["status"] == "unloaded"
        assert shown["model"] not in [each["model"] for each in loaded(either_server, stage)]
        assert either_server.http.post(f"/{stage}/unload", params=fields).status_code == 404


@pytest.mark.parametrize(
    ("stage", "fields", "status", "code", "param"),
    [
        ("models", {}, 400, "missing_required_parameter", "model"),
        ("align_models", {}, 400, "missing_required_parameter", "language"),
        ("align_models", {"language": "klingon"}, 400, "invalid_value", "language"),
        ("align_models", {"language": "la"}, 404, "not_found", "language"),
        ("models", {"model": "/etc/passwd"}, 404, "model_not_found", "model"),
        ("models", {"model": "somebody/whisper"}, 404, "model_not_found", "model"),
        ("models", {"model": "somebody/parakeet-tdt-0.6b"}, 404, "model_not_found", "model"),
        ("models", {"model": "nvidia/parakeet-unheard-of"}, 404, "model_not_found", "model"),
        ("diarize_models", {"model": "../up"}, 404, "model_not_found", "model"),
        ("diarize_models", {"model": "somebody/diarizer"}, 404, "model_not_found", "model"),
    ],
)
def test_models_that_cannot_be_loaded_are_refused(
    either_server: Server, stage: str, fields: dict[str, str], status: int, code: str, param: str
) -> None:
    for action in ("load", "unload"):
        answer = either_server.http.post(f"/{stage}/{action}", params=fields)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


EVIL_PIPELINE = """\
pipeline: {{name: unittest.mock.MagicMock}}
preprocessors: {{x: {{name: subprocess.Popen, params: {{args: [touch, {mark}]}}}}}}
"""


def test_a_client_cannot_name_code_to_run(tmp_path: Path) -> None:
    """A pipeline's `config.yaml` calls any function: only a setting may name a pipeline.

    It lies in the working directory and in the hub's cache, where a download would put it.
    """
    mark, hub = tmp_path / "executed", tmp_path / "huggingface" / "hub" / "models--attacker--evil"
    for folder in (tmp_path / "attacker" / "evil", hub / "snapshots" / "0123abcd"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(EVIL_PIPELINE.format(mark=mark))
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123abcd")
    settings = {
        "HF_HOME": str(tmp_path / "huggingface"),
        "MODELS__ALLOWED": '["attacker/*"]',
    }
    with Server(tmp_path, settings) as server:
        refused = server.http.post("/diarize_models/load", data={"model": "attacker/evil"})
        server.http.post("/models/load", data={"model": "attacker/evil"})
        server.transcribe(GOOD, model="attacker/evil")

    assert not mark.exists()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "model_not_found")
    assert "DIARIZATION__MODEL" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("transcriptions", {"language": "de"}, "language"),
        ("transcriptions", {"languages[]": ["en", "de"]}, "languages[]"),
        ("translations", {}, "model"),
    ],
)
@pytest.mark.parametrize("model", ["whisper-tiny.en", "distil-large-v3", "parakeet-tdt-0.6b-v2"])
def test_an_english_model_refuses_other_languages_before_it_is_loaded(
    real_server: Server, model: str, path: str, fields: dict[str, Any], param: str
) -> None:
    """None of these models is on disk, and there is no hub: loading one would be a 404."""
    answer = real_server.transcribe(GOOD, f"/v1/audio/{path}", model=model, **fields)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error


def test_a_refused_model_names_the_setting_that_allows_it(tmp_path: Path) -> None:
    with Server(tmp_path, FAKE | {"MODELS__ALLOWED": '["somebody/*", "other/one"]'}) as server:

        def load(name: str) -> httpx.Response:
            return server.http.post("/models/load", data={"model": name})

        for name in ("somebody/whisper", "other/one"):
            assert load(name).json()["model"] == name
        for name in ("other/two", "somebody", "somebody/", "somebody/../x", "nobody/whisper"):
            answer = load(name)
            assert answer.status_code == 404
            assert "MODELS__ALLOWED" in answer.json()["error"]["message"]


def test_a_model_that_cannot_be_asked_for_is_not_found(fake_server: Server) -> None:
    answer = fake_server.http.get("/v1/models/nobody/nothing")

    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"
    for name in ("whisper-small", "Systran/faster-whisper-small", "whisper-1"):
        assert fake_server.http.get(f"/v1/models/{name}").json()["id"] == name


def test_a_model_in_use_stays(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    with Server(tmp_path, gate.settings()) as server, ThreadPoolExecutor() as pool:
        try:
            answer = pool.submit(server.transcribe, GOOD)
            eventually(lambda: any(each["requests"] for each in loaded(server, "models")))

            refused = server.http.post("/models/unload", data={"model": "whisper-1"})
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "conflict"
        finally:
            gate.allow()
        assert answer.result().json()["text"] == "red door house."
        assert server.http.post("/models/unload", data={"model": "whisper-1"}).status_code == 200


# -- the hub ------------------------------------------------------------------------------------


class Hub:
    """A model hub on the loopback that answers everything with one status."""

    def __init__(self) -> None:
        self.status = 404
        self.headers: dict[str, str] = {}
        self.asked = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                hub.asked += 1
                self.send_response(hub.status)
                for name, value in hub.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(b"{}")

            do_GET = do_HEAD = do_POST = answer  # noqa: N815 - http.server calls them so

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @contextmanager
    def open(self) -> Iterator[Hub]:
        serving = Thread(target=self.server.serve_forever)
        serving.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            serving.join()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub().open() as hub:
        yield hub


@pytest.fixture(scope="module")
def on_hub(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("on-hub")
    settings = real_settings(WHISPER, ALIGNER) | {
        "BACKENDS__ALIGNMENT": "fake",
        "BACKENDS__DIARIZATION": "fake",
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "MODELS__ALLOWED": '["nobody/nothing"]',
        "HF_HOME": str(folder / "huggingface"),
    }
    with Server(folder, settings) as server:
        yield server


@pytest.mark.parametrize(
    ("status", "headers", "expected", "code"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, 404, "model_not_found"),
        (401, {"X-Error-Code": "GatedRepo"}, 404, "model_not_found"),
        (500, {}, 503, "model_unavailable"),
    ],
    ids=["unknown", "gated", "down"],
)
def test_a_refusal_of_the_hub_is_reported_and_leaves_nothing_loaded(
    on_hub: Server,
    hub: Hub,
    speech: Speech,
    status: int,
    headers: Mapping[str, str],
    expected: int,
    code: str,
) -> None:
    hub.status, hub.headers = status, dict(headers)
    said = speech.build([("en-beth", ["open", "red", "door"])])
    recording = wav(said.audio)

    asks: list[Callable[[], httpx.Response]] = [
        lambda: on_hub.transcribe(recording, model="nobody/nothing"),
        lambda: on_hub.http.post("/models/load", data={"model": "nobody/nothing"}),
    ]
    for ask in asks:
        before = hub.asked
        answer = ask()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (expected, code), error
        assert "nobody/nothing" in error["message"]
        assert hub.asked > before
        assert "nobody/nothing" not in [each["model"] for each in loaded(on_hub, "models")]
        assert on_hub.temp_files() == []

    heard = on_hub.transcribe(recording, language="en").json()["text"]
    assert words_of(heard) == words_of(said.text)


def test_a_hub_out_of_reach_is_said(tmp_path: Path) -> None:
    settings = real_settings(WHISPER, ALIGNER) | {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "huggingface"),
    }
    with Server(tmp_path, settings) as server:
        answer = server.http.post("/models/load", data={"model": "tiny"})

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_unavailable"


def test_a_model_not_on_disk_is_not_found_while_downloads_are_off(
    real_server: Server,
) -> None:
    for name in ("nobody/nothing", "no-such-size"):
        answer = real_server.transcribe(GOOD, model=name)

        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert name in answer.json()["error"]["message"]


# -- shutting down ------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def start(directory: Path, gate: Gate, **settings: str) -> Server:
    return Server(directory, gate.settings() | settings).wait_until_healthy()


def is_leaving(server: Server) -> Callable[[], bool]:
    return lambda: server.http.get("/ready").status_code == 503


def test_a_shutdown_answers_what_was_accepted(tmp_path: Path, gate: Gate) -> None:
    server = start(tmp_path, gate)
    with ThreadPoolExecutor() as pool:
        try:
            accepted = pool.submit(server.transcribe, sentences(3), **CHUNK)
            gate.allow(1)
            eventually(lambda: len(gate.passed) == 1)
            server.process.send_signal(signal.SIGTERM)
            eventually(is_leaving(server))

            refused = server.transcribe(GOOD)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) > 0
            assert server.http.post("/models/load?model=whisper-1").status_code == 503
            assert server.http.get("/healthcheck").status_code == 200
            assert server.process.poll() is None
        finally:
            gate.allow()
        assert accepted.result().json()["text"] == text(3)

    assert server.process.wait(PATIENCE) == 0
    server.stop()
    assert server.temp_files() == []
    assert "Traceback" not in server.log


def test_a_shutdown_does_not_wait_beyond_its_grace(tmp_path: Path, gate: Gate) -> None:
    """Not even for a model that never returns."""
    server = start(tmp_path, gate, SHUTDOWN_GRACE="0.2")
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(server.transcribe, GOOD)
        eventually(lambda: any(each["requests"] for each in loaded(server, "models")))
        server.process.send_signal(signal.SIGTERM)
        try:
            assert server.process.wait(PATIENCE) == 0
        finally:
            gate.allow()
        answer = stuck.result()

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "shutting_down"
    assert "did not finish within" in server.log
    assert "Traceback" not in server.log
    server.stop()
    assert server.temp_files() == []


def test_an_idle_server_leaves_at_once(tmp_path: Path, gate: Gate) -> None:
    for stop in (signal.SIGTERM, signal.SIGINT):
        server = start(tmp_path, gate)
        server.process.send_signal(stop)
        assert server.process.wait(PATIENCE) == 0
        server.stop()
        assert "Traceback" not in server.log


# -- browsers -----------------------------------------------------------------------------------

PAGE = "https://app.example"


@pytest.fixture(scope="module")
def with_origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = FAKE | {"ALLOWED_ORIGINS": f'["{PAGE}"]', "API_KEY": "secret"}
    with Server(tmp_path_factory.mktemp("cors"), settings) as server:
        yield server


def preflight(server: Server, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return server.http.options(PATH, headers=headers)


def test_pages_of_allowed_origins_may_call(with_origins: Server) -> None:
    asked = preflight(with_origins, PAGE)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()

    refused = with_origins.http.post(PATH, headers={"Origin": PAGE})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_pages_of_other_origins_may_not(with_origins: Server, fake_server: Server) -> None:
    for server, origin in ((with_origins, "https://evil.example"), (fake_server, PAGE)):
        assert "access-control-allow-origin" not in preflight(server, origin).headers
        answer = server.http.get("/healthcheck", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
