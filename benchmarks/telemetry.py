"""What traces, JSON logs and scrapes cost, in CPU seconds of requests to Whisper base."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .common import Row, base, clip, cpu_seconds, server, wav

CLIPS = 16
SECONDS = 20.0
SCRAPE_INTERVAL = 5.0  # s; three times as often as deploy/prometheus


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
    """The row of telemetry; the sides take turns, clip by clip."""
    model = base()
    with (
        collector() as endpoint,
        server(
            model, LOG_LEVEL="info", LOG_FORMAT="json", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as observed,
        server(model) as plain,
        scraped(observed),
    ):
        used = dict.fromkeys((observed, plain), 0.0)
        for number in range(CLIPS):
            sides = list(used)
            audio = wav(clip(SECONDS, seed=number))
            for side in sides if number % 2 else reversed(sides):
                before = cpu_seconds(side.process.pid)
                side.transcribe(audio, language="en").raise_for_status()
                used[side] += cpu_seconds(side.process.pid) - before
    ours, other = used[observed] / CLIPS, used[plain] / CLIPS
    return [
        Row(
            name=f"a clip of {SECONDS:.0f} s with traces, JSON logs and scrapes, vs without",
            ours=ours,
            other=other,
            ratio=ours / other,
            target=1.02,
            better="lower",
            unit="CPU s",
        )
    ]
