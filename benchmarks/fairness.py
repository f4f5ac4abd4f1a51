"""Short clips while an hour is being transcribed, beside the same clips on an idle server."""

from __future__ import annotations

import statistics
import threading
import time

import httpx

from .common import RATE, Row, base, server, wav
from .spoken import long_recording

CLIPS = 40
SECONDS = 5
HOUR = 3600.0


def run() -> list[Row]:
    """The row of fairness."""
    hour = long_recording(HOUR).samples
    length = SECONDS * RATE
    shorts = [wav(hour[first : first + length]) for first in range(0, CLIPS * length, length)]
    with server(base()) as running:

        def send(upload: bytes) -> float:
            begun = time.perf_counter()
            running.transcribe(upload, language="en", response_format="text").raise_for_status()
            return time.perf_counter() - begun

        idle = [send(upload) for upload in shorts]
        stop = threading.Event()
        client = threading.Thread(
            target=stream_until, args=(running.url, wav(hour), stop), daemon=True
        )
        client.start()
        while not any(lane["waiting"] > 10 for lane in running.info()["queue"]["lanes"]):
            time.sleep(0.2)
        busy = [send(upload) for upload in shorts]
        waiting = running.lane()["waiting"]
        stop.set()
        client.join()
    if not waiting:
        raise RuntimeError("the hour was over before the clips: make it longer")
    p95_idle, p95_busy = _p95(idle), _p95(busy)
    return [
        Row(
            name="5 s clips beside a 1-hour file: p95 vs idle p95",
            ours=p95_busy,
            other=p95_idle,
            ratio=p95_busy / p95_idle,
            target=2.5,
            better="lower",
            unit="s",
        )
    ]


def stream_until(url: str, upload: bytes, stop: threading.Event) -> None:
    """Ask for a stream and hang up when told to."""
    fields = {"language": "en", "stream": "true"}
    files = {"file": ("hour.wav", upload)}
    with httpx.stream(
        "POST", f"{url}/v1/audio/transcriptions", data=fields, files=files, timeout=None
    ) as response:
        for _ in response.iter_raw():
            if stop.is_set():
                return


def _p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]
