"""From the command to the first answer: an installed server, and `make serve` in a fresh clone.

And the speakers of an hour, which a newcomer tries next.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from .common import REPOSITORY, TESTS, Row, wav

LIMIT = 2.0  # s
ROUNDS = 5

FRESH_LIMIT = 90.0  # s
FRESH_MEMORY_LIMIT = 1000.0  # MB

HOUR_LIMIT = 180.0  # s

SAMPLE = Path("examples") / "sample.flac"


def run() -> list[Row]:
    """The rows of start-up."""
    sys.path.insert(0, str(TESTS))
    seconds = statistics.median(_seconds_until_healthy() for _ in range(ROUNDS))
    answered, memory = _first_minute()
    return [
        _row("start to the first 200 from /healthcheck, vs 2 s", seconds, LIMIT, "s"),
        _row(
            "make serve in a fresh clone to its first transcript, vs 90 s",
            answered,
            FRESH_LIMIT,
            "s",
        ),
        _row("its memory after words and speakers, vs 1 GB", memory, FRESH_MEMORY_LIMIT, "MB"),
        _row("the speakers of an hour, vs 3 min", _seconds_for_an_hour(), HOUR_LIMIT, "s"),
    ]


def _row(name: str, ours: float, limit: float, unit: str) -> Row:
    return Row(
        name=name,
        ours=ours,
        other=limit,
        ratio=ours / limit,
        target=1.0,
        better="lower",
        unit=unit,
    )


def _seconds_until_healthy() -> float:
    """Start a server with nothing preloaded."""
    from server import Server

    with tempfile.TemporaryDirectory() as directory:
        begun = time.perf_counter()
        with Server(Path(directory), {}):
            return time.perf_counter() - begun


def _first_minute() -> tuple[float, float]:
    """Seconds until `make serve` answers in an empty folder, and its highest memory in MB.

    The last commit is served. Caches are empty and the hub is out of reach; packages are downloaded
    from the configured registry.
    """
    from support import free_port

    with tempfile.TemporaryDirectory(prefix="fresh-") as name:
        begun = time.perf_counter()
        clone = Path(name) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        port = free_port()
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        with _served(clone, port) as pid, http:
            said = _transcript(http, clone / SAMPLE, response_format="text")
            seconds = time.perf_counter() - begun
            print(f"first transcript after {seconds:.0f} s: {said.strip()}", flush=True)
            _transcript(http, _call(Path(name), minutes=2), response_format="diarized_json")
            words = {"timestamp_granularities[]": "word"}
            _transcript(http, clone / SAMPLE, response_format="verbose_json", **words)
            status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return seconds, int(peak.split()[1]) * 1024 / 1e6


def _call(directory: Path, *, minutes: int) -> Path:
    """A telephone call of two, repeated: as much at once as a step of the diarizer takes."""
    from real_speech import TELEPHONE

    path = directory / "call.wav"
    path.write_bytes(wav(np.tile(TELEPHONE.samples, 2 * minutes)))
    return path


def _seconds_for_an_hour() -> float:
    """Seconds in which the diarizer tells the speakers of an hour, in this process."""
    from real_speech import TELEPHONE
    from support import diarize
    from whisperx_api_server.backends.base import ModelSpec
    from whisperx_api_server.backends.onnx import load_diarizer
    from whisperx_api_server.domain import SAMPLE_RATE, AudioClip, DiarizeOptions

    samples = np.tile(TELEPHONE.samples, 2 * 60)
    diarizer = load_diarizer(ModelSpec(name="onnx"))
    begun = time.perf_counter()
    diarize(diarizer, AudioClip(samples=samples, sample_rate=SAMPLE_RATE), DiarizeOptions())
    return time.perf_counter() - begun


@contextmanager
def _served(clone: Path, port: int) -> Iterator[int]:
    """`make serve` in a clone, once it is healthy; yields the server's process id."""
    caches = clone.parent / "caches"
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    make = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=clone,
        env=inherited
        | {name: str(caches) for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME")}
        | {"UV_CACHE_DIR": str(caches / "uv"), "HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    try:
        while not _is_healthy(port):
            if make.poll() is not None:
                raise RuntimeError(f"make serve ended with status {make.returncode}")
            time.sleep(0.1)
        yield int(Path(f"/proc/{make.pid}/task/{make.pid}/children").read_text())
    finally:
        make.terminate()  # make passes it on to the server
        make.wait()


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthcheck").status_code == 200
    except httpx.TransportError:
        return False


def _transcript(http: httpx.Client, file: Path, **fields: str) -> str:
    answer = http.post(
        "/v1/audio/transcriptions", files={"file": (file.name, file.read_bytes())}, data=fields
    )
    return answer.raise_for_status().text
