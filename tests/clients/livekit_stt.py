"""LiveKit's OpenAI plugin, one request per utterance."""

import asyncio
import json
import os
import wave

from livekit import rtc
from livekit.plugins import openai

given = json.loads(os.environ["GIVEN"])


def frame():
    with wave.open(given["audio"]) as file:
        count = file.getnframes()
        return rtc.AudioFrame(
            data=file.readframes(count),
            sample_rate=file.getframerate(),
            num_channels=1,
            samples_per_channel=count,
        )


async def main():
    for model in ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"):
        stt = openai.STT(
            model=model, base_url=given["url"] + "/v1", api_key="unused", use_realtime=False
        )
        event = await stt.recognize(frame())
        assert event.alternatives[0].text == given["text"], model
        await stt.aclose()


asyncio.run(main())
