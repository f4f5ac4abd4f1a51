"""Whisper base on real speech: short clips and half an hour, beside peers and the bare engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from .common import Row, base, server
from .sides import BareEngine, FasterWhisper, Ours, WhisperX, compare
from .spoken import between, clips, long_recording

CLIPS = 24
LONGEST = 11.5
AT_A_TIME = 12
SHORT = (2.0, 12.0)
SHORT_AT_A_TIME = 8
ONE = (4.0, 6.0)
LATENCIES = 8
LONG = 1800.0
TRIAL = 120.0
BATCH_SIZES = (4, 8, 16)


def run() -> Iterator[Row]:
    """Measure the rows of throughput and of latency one by one."""
    model = base()
    many, one, long = clips(CLIPS, LONGEST), between(*ONE), long_recording(LONG)
    sequential = FasterWhisper(model)
    with server(model) as running:
        ours, ours_at_once = Ours(running), Ours(running, at_a_time=AT_A_TIME)
        yield compare(
            f"clips of 2–12 s, {SHORT_AT_A_TIME} at once, vs faster-whisper one by one",
            Ours(running, at_a_time=SHORT_AT_A_TIME),
            sequential,
            between(*SHORT),
            target=3.0,
        )
        name = f"{CLIPS} clips of 11 s, {AT_A_TIME} at once"
        yield compare(
            f"{name}, vs WhisperX one by one", ours_at_once, WhisperX(model), many, target=4.0
        )
        engine = BareEngine(model, many, batch_size=AT_A_TIME)
        yield compare(f"{name}, vs the bare engine", ours_at_once, engine, many, target=0.9)
        name = "one clip of 5 s vs faster-whisper"
        yield compare(name, ours, sequential, one, turn=1, target=2.5)
        few = many[:LATENCIES]
        name = "one clip of 11 s vs the bare engine"
        yield compare(name, ours, BareEngine(model, few), few, turn=1, target=0.87)
        name = f"{LONG / 60:g} min of speech vs BatchedInferencePipeline"
        yield compare(name, ours, _best_batches(model), [long], target=1.3, margin=0.0)


def _best_batches(model: Path) -> FasterWhisper:
    """`BatchedInferencePipeline` with the batch size that is fastest on a short recording."""
    trial = [long_recording(TRIAL)]

    def seconds(size: int) -> float:
        side = FasterWhisper(model, batch_size=size)
        begun = time.perf_counter()
        side.texts(trial)
        return time.perf_counter() - begun

    return FasterWhisper(model, batch_size=min(BATCH_SIZES, key=seconds))
