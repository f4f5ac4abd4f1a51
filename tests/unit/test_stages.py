"""Models as one request uses them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from support import PATIENCE
from whisperx_api_server.backends.base import Transcriber
from whisperx_api_server.backends.fake import FakeTranscriber, say
from whisperx_api_server.domain import (
    DecodeOptions,
    TranscriptionRequest,
    Upload,
    Window,
    WindowTranscript,
)
from whisperx_api_server.errors import Unavailable
from whisperx_api_server.pipeline.stages import Transcribing
from whisperx_api_server.scheduling.batch_policy import BatchLimits
from whisperx_api_server.scheduling.fair_semaphore import FairSemaphore
from whisperx_api_server.scheduling.lane import Lane
from whisperx_api_server.scheduling.lane_worker import Place


class Mortal(FakeTranscriber):
    """Ends its thread at the word white."""

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        answers = super().transcribe(windows, options, features)
        if any("white" in segment.text for answer in answers for segment in answer.segments):
            raise SystemExit("the engine is gone")
        return answers


def window(words: str) -> Window:
    samples = say(words).astype(np.float32)
    return Window(
        request_id="r", index=0, start=0.0, end=len(samples) / 16_000, samples=samples, regions=()
    )


def test_a_window_waits_for_a_model_that_is_loaded_again(caplog: pytest.LogCaptureFixture) -> None:
    """Other requests than the one that ended the lane's thread do not notice."""
    loading = threading.Event()
    may_load = threading.Event()
    may_load.set()

    def load() -> Mortal:
        loading.set()
        assert may_load.wait(PATIENCE)
        return Mortal()

    async def scene(lane: Lane[Transcriber]) -> str:
        source = Upload(id="a")
        request = TranscriptionRequest(id="r", source=source, model="m")
        engine = Transcribing(lane, request, lane.model.capabilities)
        loading.clear()
        may_load.clear()
        with pytest.raises(Unavailable):
            await engine.transcribe(window("white"), DecodeOptions(language="en"))
        assert await asyncio.to_thread(loading.wait, PATIENCE)
        waiting = asyncio.create_task(
            engine.transcribe(window("blue"), DecodeOptions(language="en"))
        )
        await asyncio.sleep(0)
        may_load.set()
        return (await waiting).segments[0].text

    lane: Lane[Transcriber] = Lane(
        "test", [Place(load=load, device=FairSemaphore(1))], limits=lambda _: BatchLimits()
    )
    lane.loaded.result(PATIENCE)
    assert asyncio.run(asyncio.wait_for(scene(lane), PATIENCE)).strip() == "blue."
    lane.close().result(PATIENCE)
