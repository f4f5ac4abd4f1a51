"""What metrics, traces, JSON logs and scrapes cost, in CPU seconds of requests to Whisper base."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .common import Row, base, clip, cpu_seconds, server, wav

ROUNDS = 6
CLIPS = 4
"""Clips at once; each side gets those of a round."""

SECONDS = 20.0
SCRAPE_INTERVAL = 5.0  # s; three times as often as deploy/prometheus

UNCOUNTED = """
from prometheus_client import Counter, Histogram
Counter.inc = Histogram.observe = lambda *_, **__: None
"""
"""Python imports a module `sitecustomize` at its start; this one counts nothing."""


class Collector(BaseHTTPRequestHandler):
    """Takes spans, as an OpenTelemetry collector does."""

    def do_POST(self) -> None:
        """Read and forget them."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a collector."""
    host = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=host.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()
    host.server_close()
    thread.join()


@contextmanager
def scraped(running: Any) -> Iterator[None]:
    """While the context is open, the server is scraped."""
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(SCRAPE_INTERVAL):
            running.http.get("/metrics").raise_for_status()

    thread = threading.Thread(target=scrape)
    thread.start()
    yield
    done.set()
    thread.join()


def run() -> list[Row]:
    """The row of telemetry; the sides take turns, round by round."""
    model = base()
    with (
        tempfile.TemporaryDirectory() as directory,
        collector() as endpoint,
        server(
            model, LOG_LEVEL="info", LOG_FORMAT="json", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as observed,
        server(model, PYTHONPATH=_uncounted(directory)) as plain,
        scraped(observed),
    ):
        used = dict.fromkeys((observed, plain), 0.0)
        for number in range(ROUNDS):
            sides = list(used)
            clips = [wav(clip(SECONDS, seed=CLIPS * number + each)) for each in range(CLIPS)]
            for side in sides if number % 2 else reversed(sides):
                used[side] += _cpu_seconds_for(side, clips)
    ours, other = (used[side] / ROUNDS / CLIPS for side in (observed, plain))
    return [
        Row(
            name=f"{CLIPS} clips of {SECONDS:.0f} s at once with metrics, traces, JSON logs and "
            "scrapes, vs without",
            ours=ours,
            other=other,
            ratio=ours / other,
            target=1.02,
            better="lower",
            unit="CPU s",
        )
    ]


def _uncounted(directory: str) -> str:
    (Path(directory) / "sitecustomize.py").write_text(UNCOUNTED)
    return directory


def _cpu_seconds_for(running: Any, clips: Sequence[bytes]) -> float:
    def send(audio: bytes) -> None:
        running.transcribe(audio, language="en").raise_for_status()

    before = cpu_seconds(running.process.pid)
    with ThreadPoolExecutor(len(clips)) as pool:
        list(pool.map(send, clips))
    return cpu_seconds(running.process.pid) - before
