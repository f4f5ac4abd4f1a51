"""wyoming-openai, Home Assistant's bridge, asked over TCP; one model streams, one is live."""

import asyncio
import json
import os
import socket
import sys
import wave

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

given = json.loads(os.environ["GIVEN"])
FORMAT = {"rate": 16_000, "width": 2, "channels": 1}


async def heard(port, model):
    with wave.open(given["audio"]) as file:
        samples = file.readframes(file.getnframes())
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Transcribe(name=model, language="en").event())
        await client.write_event(AudioStart(**FORMAT).event())
        await client.write_event(AudioChunk(audio=samples, **FORMAT).event())
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    return None


async def main():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "--uri": [f"tcp://127.0.0.1:{port}"],
        "--languages": ["en"],
        "--stt-openai-key": ["unused"],
        "--stt-openai-url": [given["url"] + "/v1"],
        "--stt-models": ["whisper-1"],
        "--stt-streaming-models": ["gpt-4o-transcribe"],
        "--stt-realtime-models": ["gpt-live-transcribe"],
    }
    arguments = [part for name, values in options.items() for part in (name, *values)]
    bridge = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wyoming_openai", *arguments
    )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    first = await heard(port, "whisper-1")
                    break
                except OSError:  # the bridge does not listen yet
                    assert bridge.returncode is None
                    await asyncio.sleep(0.05)
            texts = {"whisper-1": first}
            for model in ("gpt-4o-transcribe", "gpt-live-transcribe"):
                texts[model] = await heard(port, model)
            print(json.dumps(texts))
    finally:
        bridge.terminate()
        await bridge.wait()


asyncio.run(main())
