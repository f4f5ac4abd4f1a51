"""`doctor`: what it finds, and what it says mends it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli_support import run
from server import FAKE, real_settings
from support import ALIGNER, WHISPER

COMMAND = (sys.executable, "-m", "whisperx_api_server.cli", "doctor")


@pytest.fixture
def fake_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that need nothing but ffmpeg."""
    for name, value in FAKE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("fake_backend")
def test_a_healthy_machine_has_no_cross() -> None:
    status, table, _ = run("doctor")
    assert status == 0
    assert "✗" not in table
    for check in ("ffmpeg", "settings", "device", "transcription", "voice activity", "token"):
        assert check in table


@pytest.mark.usefixtures("fake_backend")
def test_wrong_settings_are_a_cross_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER__CHUNK_SIZE", "99")
    status, table, _ = run("doctor")
    assert status == 1
    assert "WHISPER__CHUNK_SIZE: " in row(table, "settings")
    monkeypatch.delenv("WHISPER__CHUNK_SIZE")
    monkeypatch.setenv("BACKENDS__ALIGNMENT", "nonsense")
    status, table, _ = run("doctor")
    assert status == 1
    assert "there is no alignment backend named 'nonsense'" in row(table, "alignment")


@pytest.mark.usefixtures("fake_backend")
def test_missing_packages_and_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("whisperx_api_server.catalog.resolve_device", lambda _: "cpu")
    monkeypatch.setenv("BACKENDS__DIARIZATION", "onnx")
    monkeypatch.setenv("WHISPER__INFERENCE_DEVICE", "cuda")
    status, table, _ = run("doctor")
    assert status == 1
    diarization = row(table, "diarization")
    assert "lacks onnxruntime, scipy" in diarization
    assert 'pip install "whisperx-api-server[embedded]"' in diarization
    assert "set WHISPER__INFERENCE_DEVICE=auto" in row(table, "device")


@pytest.mark.usefixtures("fake_backend")
def test_without_torch_words_get_the_decoders_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the environment of `make serve`, whose aligner is not installed."""
    installed = importlib.util.find_spec
    without = {"torch", "torchaudio", "transformers"}
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name.partition(".")[0] in without else installed(name),
    )
    monkeypatch.setenv("BACKENDS__ALIGNMENT", "whisperx")
    status, table, _ = run("doctor")
    assert status == 0, table
    alignment = row(table, "alignment")
    assert alignment.startswith("–")
    assert "lacks torch" in alignment
    assert "the engine's own word times are used" in alignment
    assert 'pip install "whisperx-api-server[cpu]"' in alignment


class Hub(ThreadingHTTPServer):
    """Stands in for the Hugging Face hub: has every model, gates pyannote's, counts downloads."""

    def __init__(self) -> None:
        class Answer(BaseHTTPRequestHandler):
            server: Hub

            def do_HEAD(self) -> None:
                self.server.asked.append(self.path)
                gated = self.path.startswith("/pyannote") and "authorization" not in self.headers
                self.send_response(401 if gated else 200)
                if gated:
                    self.send_header("X-Error-Code", "GatedRepo")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str] = []


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def examine(directory: Path, **settings: str) -> tuple[int, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    result = subprocess.run(
        COMMAND,
        cwd=directory,
        env=kept | {"HF_HOME": str(directory / "hf"), "HOME": str(directory)} | settings,
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    return result.returncode, result.stdout


def test_models_are_asked_for_and_never_downloaded(tmp_path: Path, hub: Hub) -> None:
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    settings = {"HF_ENDPOINT": address, "DEFAULT_LANGUAGE": "nl"}
    settings["BACKENDS__DIARIZATION"] = "pyannote"
    status, table = examine(tmp_path, **settings)
    assert status == 1
    assert "faster-whisper-large-v3: on the Hugging Face hub" in row(table, "transcription model")
    assert row(table, "alignment model").startswith("✓")
    assert "it is gated: accept its conditions" in row(table, "diarization model")
    assert "set HF_TOKEN" in row(table, "Hugging Face token")
    status, table = examine(tmp_path, HF_TOKEN="hf_x", **settings)
    assert status == 0, table
    assert len(hub.asked) == 6
    status, table = examine(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 1
    assert "the Hugging Face hub cannot be reached" in row(table, "transcription model")
    assert "or use the model base, which is installed" in row(table, "transcription model")


def test_models_on_disk_need_no_hub(tmp_path: Path) -> None:
    status, table = examine(
        tmp_path,
        **real_settings(WHISPER, ALIGNER),
        BACKENDS__DIARIZATION="fake",
        HF_HUB_OFFLINE="1",
    )
    assert status == 0, table
    assert "whisper: on disk" in row(table, "transcription model")
    assert "aligner: on disk" in row(table, "alignment model")
    status, table = examine(
        tmp_path, WHISPER__MODEL="/nowhere", BACKENDS__DIARIZATION="pyannote", HF_HUB_OFFLINE="1"
    )
    assert status == 1
    assert row(table, "transcription model").startswith("✗")
    assert "unset HF_HUB_OFFLINE" in row(table, "diarization model")


def test_packaged_model_needs_no_hub(tmp_path: Path) -> None:
    settings = {"WHISPER__MODEL": "base", "HF_HUB_OFFLINE": "1"}
    settings |= {"BACKENDS__ALIGNMENT": "fake", "BACKENDS__DIARIZATION": "fake"}

    status, table = examine(tmp_path, **settings)

    assert status == 0, table
    assert "base: in installed packages" in row(table, "transcription model")


def row(table: str, check: str) -> str:
    return next(line for line in table.splitlines() if line[3:].startswith(f"{check} "))
