"""Pipecat's OpenAI service, one request per utterance."""

import asyncio
import json
import os
from pathlib import Path

from pipecat.frames.frames import TranscriptionFrame
from pipecat.services.openai.stt import OpenAISTTService

given = json.loads(os.environ["GIVEN"])
audio = Path(given["audio"]).read_bytes()


async def main():
    for model in ("whisper-1", "gpt-4o-transcribe"):
        service = OpenAISTTService(
            base_url=given["url"] + "/v1",
            api_key="unused",
            settings=OpenAISTTService.Settings(model=model),
        )
        frames = [frame async for frame in service.run_stt(audio)]
        texts = [frame.text for frame in frames if isinstance(frame, TranscriptionFrame)]
        assert texts == [given["text"]], frames


asyncio.run(main())
