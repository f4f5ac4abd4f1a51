"""The real server, in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx
from openai import OpenAI

from support import PATIENCE, free_port

REPOSITORY = Path(__file__).parents[1]

LOOP_GUARD = Path(__file__).parent / "loop_guard"
"""On the PYTHONPATH of a server, it logs calls that wait on the event loop, however short."""


SERVE = (
    *(sys.executable, "-m", "whisperx_api_server.cli", "serve"),
    *("--host", "127.0.0.1", "--port"),
)

WORKER = (
    *(sys.executable, "-m", "whisperx_api_server.cli", "worker"),
    *("--host", "127.0.0.1", "--port"),
)

IN_MEMORY = (sys.executable, str(REPOSITORY / "tests" / "memory_server.py"))
"""The command of a server with a worker of MODE=kafka, over queues and a bucket in memory."""

Mode = Literal["direct", "kafka"]


def command_of(mode: Mode) -> Sequence[str]:
    return SERVE if mode == "direct" else IN_MEMORY


class Server:
    """`whisperx-api-server serve` with settings of its own; leaves nothing behind.

    `temp` is where it keeps its temporary files, `log` what it has said so far; the port is the
    last argument of `command`.
    """

    def __init__(
        self, directory: Path, env: Mapping[str, str], *, command: Sequence[str] = SERVE
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.temp = directory / "tmp"
        self.temp.mkdir(parents=True, exist_ok=True)
        self._log = directory / "server.log"
        kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
        source = str(REPOSITORY / "src")  # of this tree, wherever another one is installed
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.port)],
                cwd=directory,
                env={name: os.environ[name] for name in kept if name in os.environ}
                | {"TMPDIR": str(self.temp), "XDG_STATE_HOME": str(directory / "state")}
                | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
                | dict(env)
                | {"PYTHONPATH": os.pathsep.join(filter(None, (source, env.get("PYTHONPATH"))))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.http = httpx.Client(base_url=self.url, timeout=280, trust_env=False)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self, seconds: float = PATIENCE) -> Server:
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.log
            try:
                if self.http.get("/healthcheck").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def openai(self, *, api_key: str = "unused", max_retries: int = 0) -> OpenAI:
        """The official client, strict about every answer."""
        return OpenAI(
            base_url=f"{self.url}/v1",
            api_key=api_key,
            max_retries=max_retries,
            timeout=280,
            _strict_response_validation=True,
        )

    def transcribe(
        self, audio: bytes | Path, path: str = "/v1/audio/transcriptions", **fields: Any
    ) -> httpx.Response:
        content = audio.read_bytes() if isinstance(audio, Path) else audio
        return self.http.post(path, files={"file": ("audio.wav", content)}, data=fields)

    def info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/info").raise_for_status().json()
        return answer

    def lane(self, stage: str = "transcription") -> dict[str, Any]:
        """The queue state of a stage's first model."""
        lanes = self.info()["queue"]["lanes"]
        found: dict[str, Any] = next(lane for lane in lanes if lane["stage"] == stage)
        return found

    def assert_loop_was_free(self) -> None:
        """Its event loop never computed for long, nor waited as far as `LOOP_GUARD` says."""
        assert "the event loop was blocked" not in self.log, self.log

    def temp_files(self) -> list[Path]:
        """What lies in the server's temporary directory, its own empty directories aside."""
        return [path for path in self.temp.rglob("*") if not path.is_dir()]

    def stop(self, seconds: float = PATIENCE) -> int:
        """Ask it to end, as a service manager does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.http.close()

    def __enter__(self) -> Server:
        return self.wait_until_healthy()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None:
            self.assert_loop_was_free()


@contextmanager
def serving(
    directory: Path, settings: Mapping[str, str], *, mode: Mode = "direct"
) -> Iterator[Server]:
    """A server that leaves no file and no traceback behind, whatever its clients did."""
    server = Server(directory, settings, command=command_of(mode))
    try:
        yield server.wait_until_healthy()
    finally:
        status = server.stop()
    assert status == 0, server.log
    assert server.temp_files() == []
    assert "unexpected failure" not in server.log
    server.assert_loop_was_free()


FAKE = {
    "BACKENDS__TRANSCRIPTION": "fake",
    "BACKENDS__ALIGNMENT": "fake",
    "BACKENDS__DIARIZATION": "fake",
}
"""Settings of a server on the fake backend."""


def base_settings(directory: Path) -> dict[str, str]:
    """Settings of a server that `make serve` starts; its model is unpacked in that directory."""
    return {
        "BACKENDS__TRANSCRIPTION": "whisperx",
        "BACKENDS__ALIGNMENT": "none",
        "BACKENDS__DIARIZATION": "onnx",
        "WHISPER__MODEL": "base",
        "WHISPER__COMPUTE_TYPE": "auto",
        "WHISPER__LOCAL_FILES_ONLY": "true",
        "XDG_CACHE_HOME": str(directory / "cache"),
        "POOL__TTL": "-1",
    }


LOCKED_KEY = "sesame"
REFLECTOR_KEY = "reflectors-own-key"


def real_settings(whisper: Path, aligner: Path, diarizer: Path | None = None) -> dict[str, str]:
    """Settings of a server on the fixture models."""
    settings = {
        "WHISPER__MODEL": str(whisper),
        "WHISPER__COMPUTE_TYPE": "int8",
        "WHISPER__CHUNK_SIZE": "8",
        "ALIGNMENT__MODELS": json.dumps({"multilingual": str(aligner)}),
        "POOL__TTL": "-1",
    }
    if diarizer is not None:
        settings["DIARIZATION__MODEL"] = str(diarizer)
        settings["PYTHONPATH"] = str(REPOSITORY / "tests" / "fixtures" / "make")
    return settings
