"""Ten hours at once: what a minute of it costs, and how much memory it takes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .common import BUILD, Row, clip, cpu_seconds, server, wav
from .speed_model import speed_model

HOURS = 10
MINUTES = 20
BATCH = 16
LIMIT = 400.0  # MB


def run() -> list[Row]:
    """The rows of cost and of memory."""
    # The smallest model: the cost around it is what is measured here.
    model = speed_model("micro", BUILD / "speed-micro", tokens=20)
    minutes = [wav(clip(60, seed)) for seed in range(MINUTES)]
    hour = clip(3600, seed=5)
    with server(model, LIMITS__UPLOAD_BYTES=str(4 * 1024**3)) as running:
        short_cost = _cpu_seconds_for(running, minutes) / MINUTES
        # The engine's memory for a full batch is part of the loaded model: any sixteen clips at
        # once make it allocate that.
        _send_at_once(running, [wav(clip(20, seed)) for seed in range(BATCH)])
        base = _resident(running.process.pid)
        long = wav(np.tile(hour, HOURS))
        peak = _Peak(running.process.pid)
        long_cost = _cpu_seconds_for(running, [long]) / (60 * HOURS)
        grown = (peak.stop() - base) / 1e6
    return [
        Row(
            name="CPU time per audio minute, 10 h file vs 1 min files",
            ours=long_cost,
            other=short_cost,
            ratio=long_cost / short_cost,
            target=1.1,
            better="lower",
            unit="s",
        ),
        Row(
            name="resident memory of a 10 h file above the loaded model, vs 400 MB",
            ours=grown,
            other=LIMIT,
            ratio=grown / LIMIT,
            target=1.0,
            better="lower",
            unit="MB",
        ),
    ]


def _send_at_once(running: object, uploads: list[bytes]) -> None:
    def send(upload: bytes) -> None:
        running.transcribe(upload, language="en").raise_for_status()  # type: ignore[attr-defined]

    with ThreadPoolExecutor(len(uploads)) as pool:
        list(pool.map(send, uploads))


def _cpu_seconds_for(running: object, uploads: list[bytes]) -> float:
    """CPU seconds of the server and its ffmpeg children while it transcribes these."""
    begun = cpu_seconds(running.process.pid)  # type: ignore[attr-defined]
    for upload in uploads:
        running.http.post(  # type: ignore[attr-defined]
            "/v1/audio/transcriptions",
            files={"file": ("audio.wav", upload)},
            data={"language": "en", "response_format": "text"},
            timeout=None,
        ).raise_for_status()
    return cpu_seconds(running.process.pid) - begun  # type: ignore[attr-defined]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


class _Peak:
    """The most resident memory that a process has while it is watched, in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self._peak = max(self._peak, _resident(self._pid))

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak
