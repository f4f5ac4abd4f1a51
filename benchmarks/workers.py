"""How throughput grows with workers, and what the queue between costs: MODE=kafka beside direct.

Workers compute on a simulated engine that sleeps as long as a GPU would compute, so that a few
cores show what a rack of GPUs does. Each measurement has many full batches for each worker.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import simulated_backend
from .common import TESTS, Row
from .machines import Machines, machines, wait_until_ready
from .queue_times import move, pick_up

sys.path.insert(0, str(TESTS))

from server import Server
from tones import CHUNK, sentences, text

BATCH, WINDOW = 0.8, 0.05
"""Seconds of a batch and of each window in it: a full one of 16 takes 1.6 s."""

WINDOWS = 16
"""Windows of a recording."""

RECORDINGS = 24
"""Recordings for each worker, each a full batch: more than a worker takes at once."""

CLIPS = 30


def run() -> list[Row]:
    """Measure on a broker and a bucket of its own.

    Raises:
        RuntimeError: an answer is wrong.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        engine = simulated_backend.settings(directory / "engine", batch=BATCH, window=WINDOW)
        engine["JOBS__RETRY_WINDOW"] = "0"  # equal requests are computed one by one
        with Server(directory / "direct", engine) as direct:
            clip_alone = _latency(direct)
            alone = _speed(direct, 1)
        with machines(directory, {"LOG_LEVEL": "warning", "JOBS__RETRY_WINDOW": "0"}) as start:
            found = _measure(start, engine, alone, clip_alone)
    return found


def _measure(
    start: Machines, engine: Mapping[str, str], alone: float, clip_alone: float
) -> list[Row]:
    replica = start.replica()
    speeds: dict[int, float] = {}
    workers: list[Server] = []
    for count in (1, 2, 4):
        workers += [start.worker(engine) for _ in range(count - len(workers))]
        wait_until_ready(replica, *workers)
        for _ in range(count * 2):  # each worker loads its models
            _latency(replica, 1)
        if count == 1:
            clip = _latency(replica)
        speeds[count] = _speed(replica, count)
    made = [
        Row(
            name=f"workers: {count} beside direct mode",
            ours=speed,
            other=alone,
            ratio=speed / alone,
            target=target,
            better="higher",
            unit="s of audio/s",
        )
        for (count, speed), target in zip(speeds.items(), (0.95, 1.9, 3.6), strict=True)
    ]
    extra = clip - clip_alone
    made.append(
        Row(
            name="workers: extra latency of a 5 s clip",
            ours=1000 * clip,
            other=1000 * clip_alone,
            ratio=1000 * extra,
            target=50.0,
            better="lower",
            unit="ms",
        )
    )
    made.append(_time("a record's pick-up", pick_up(start.brokers), 0.010))
    made.append(_time("a killed worker's run elsewhere", move(start.brokers, replica, workers), 1))
    return made


def _time(name: str, seconds: float, limit: float) -> Row:
    return Row(
        name=f"workers: {name}, vs {1000 * limit:.0f} ms",
        ours=1000 * seconds,
        other=1000 * limit,
        ratio=seconds / limit,
        target=1.0,
        better="lower",
        unit="ms",
    )


def _speed(server: Server, workers: int) -> float:
    """Seconds of audio transcribed in a second while many recordings are under way."""
    audio, count = sentences(WINDOWS), RECORDINGS * workers
    with ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        answers = list(pool.map(lambda _: server.transcribe(audio, **CHUNK), range(count)))
        elapsed = time.perf_counter() - began
    for answer in answers:
        if answer.json().get("text") != text(WINDOWS):
            raise RuntimeError(answer.text)
    return count * WINDOWS * 5 / elapsed


def _latency(server: Server, count: int = CLIPS) -> float:
    """The median seconds of a 5 s clip on an idle server."""
    audio = sentences(1)
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        answer = server.transcribe(audio)
        seconds.append(time.perf_counter() - began)
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
    return statistics.median(seconds)


if __name__ == "__main__":
    for row in run():
        print(f"{row.name:40} {row.ours:8.1f} {row.other:8.1f} {row.unit}  {row.ratio:.2f}")
