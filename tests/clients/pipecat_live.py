"""Pipecat's realtime OpenAI service, in which the server finds the turns."""

import asyncio
import json
import os
import wave

from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

given = json.loads(os.environ["GIVEN"])


class Collector(FrameProcessor):
    def __init__(self):
        super().__init__()
        self.finals = []
        self.interim = 0
        self.done = asyncio.Event()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            self.finals.append(frame.text)
            if len(self.finals) == given["turns"]:
                self.done.set()
        elif isinstance(frame, InterimTranscriptionFrame):
            self.interim += 1
        await self.push_frame(frame, direction)


async def main():
    service = OpenAIRealtimeSTTService(
        base_url=given["url"].replace("http", "ws") + "/v1/realtime",
        api_key="unused",
        turn_detection={"type": "server_vad"},
        settings=OpenAIRealtimeSTTService.Settings(model="gpt-4o-transcribe"),
    )
    collector = Collector()
    with wave.open(given["audio"]) as file:
        rate = file.getframerate()
        pieces = list(iter(lambda: file.readframes(rate // 10), b""))
    task = PipelineTask(
        Pipeline([service, collector]),
        params=PipelineParams(audio_in_sample_rate=rate),
    )

    async def speak():
        while not service._session_ready:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.05)
        for piece in pieces:
            await task.queue_frame(
                InputAudioRawFrame(audio=piece, sample_rate=rate, num_channels=1)
            )
        await collector.done.wait()
        await task.queue_frame(EndFrame())

    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), speak())
    assert collector.interim
    print(json.dumps(" ".join(collector.finals)))


asyncio.run(main())
