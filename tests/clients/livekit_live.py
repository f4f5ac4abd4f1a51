"""LiveKit's OpenAI plugin with `use_realtime=True`: the server finds the turns."""

import asyncio
import json
import os
import wave

from livekit import rtc
from livekit.agents import stt
from livekit.agents.utils import http_context
from livekit.plugins import openai

given = json.loads(os.environ["GIVEN"])


def frames():
    with wave.open(given["audio"]) as file:
        rate = file.getframerate()
        while samples := file.readframes(rate // 10):
            yield rtc.AudioFrame(
                data=samples,
                sample_rate=rate,
                num_channels=1,
                samples_per_channel=len(samples) // 2,
            )


async def main():
    async with http_context.open():
        engine = openai.STT(
            model="gpt-4o-transcribe",
            base_url=given["url"] + "/v1",
            api_key="unused",
            use_realtime=True,
        )
        stream = engine.stream()
        for frame in frames():
            stream.push_frame(frame)
        finals = []
        started = set()
        async for event in stream:
            started.add(event.type)
            if event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                finals.append(event.alternatives[0].text)
                if len(finals) == given["turns"]:
                    break
        assert stt.SpeechEventType.START_OF_SPEECH in started
        assert stt.SpeechEventType.INTERIM_TRANSCRIPT in started
        print(json.dumps(" ".join(finals)))
        await stream.aclose()
        await engine.aclose()


asyncio.run(main())
