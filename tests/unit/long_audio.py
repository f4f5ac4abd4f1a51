"""Transcribes synthetic recordings of so many minutes; prints what each took, as JSON.

A process of its own for `test_pipeline`, since it measures the memory of the whole process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import numpy as np

from whisperx_api_server.audio.sources import SourceOpener
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.catalog import Catalog
from whisperx_api_server.domain import SAMPLE_RATE, AudioClip, Source, TranscriptionRequest, Upload
from whisperx_api_server.pipeline.events import Event
from whisperx_api_server.pipeline.pipeline import Pipeline
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings

SPEC = ModelSpec(name="fake")


class MapOpener(SourceOpener):
    """Clips on a memory map, as the decoder makes them."""

    def __init__(self) -> None:
        pass

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        assert isinstance(source, Upload)
        samples = np.memmap(source.id, dtype=np.float32, mode="r")
        yield AudioClip(samples=samples, sample_rate=SAMPLE_RATE)


class Peak:
    """The most memory, the recording's own pages aside, that the process had."""

    def __init__(self) -> None:
        self.start = self.most = anonymous_bytes()

    async def emit(self, _event: Event) -> None:
        self.most = max(self.most, anonymous_bytes())


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def write_minutes(path: Path, minutes: int) -> None:
    speech = np.concatenate([say("red door open"), silence(2), say("blue night find tree")])
    minute = np.concatenate([speech, silence(60 - len(speech) / SAMPLE_RATE)])
    minute[30 * SAMPLE_RATE : 30 * SAMPLE_RATE + len(speech)] = speech
    with path.open("wb") as file:
        for _ in range(minutes):
            file.write(minute.data)


async def transcribe(path: Path) -> dict[str, float]:
    pool = ModelPool(PoolSettings(), SchedulerSettings())
    pipeline = Pipeline(
        opener=MapOpener(),
        pool=pool,
        catalog=Catalog(
            transcription="fake",
            alignment="fake",
            diarization="fake",
            voice_detection="fake",
            transcribers={"fake": SPEC},
            shared=SPEC,
            diarizer_spec=SPEC,
        ),
        chunk_size=30,
    )
    request = TranscriptionRequest(id="r", source=Upload(id=str(path)), model="fake")
    calls: Counter[str] = Counter()

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls[threading.current_thread().name] += 1

    peak = Peak()
    threading.setprofile(count)
    sys.setprofile(count)
    transcript = await pipeline.run(request, peak.emit, Checkpoint())
    sys.setprofile(None)
    threading.setprofile(None)
    minutes = transcript.duration / 60
    assert len(transcript.words) == 14 * minutes
    done = {status.key.stage: status.lane.stats.entries for status in pool.statuses()}
    await pool.close()
    return {
        "windows": done["transcription"],
        "vad_steps": done["vad"],
        "aligned": done["alignment"],
        "calls": calls.total(),
        "grown": peak.most - peak.start,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for minutes in sys.argv[1:]:
            path = Path(directory) / minutes
            write_minutes(path, int(minutes))
            print(json.dumps(asyncio.run(transcribe(path))), flush=True)


if __name__ == "__main__":
    main()
