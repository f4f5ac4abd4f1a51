"""Bytes of a live session -> samples, without drift; what is kept of them."""

from __future__ import annotations

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from whisperx_api_server.domain import SAMPLE_RATE, Samples
from whisperx_api_server.errors import InvalidAudio
from whisperx_api_server.live.audio import AudioReader, SampleBuffer
from whisperx_api_server.live.messages import ALawFormat, AudioFormat, MuLawFormat, PcmFormat


def tone(rate: int, seconds: float = 3.0) -> Samples:
    clock = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * clock)).astype(np.float32)


def read(audio_format: AudioFormat, content: bytes, size: int) -> Samples:
    reader = AudioReader(audio_format)
    pieces = [reader.push(content[i : i + size]) for i in range(0, len(content), size)]
    return np.concatenate([*pieces, reader.finish()])


@pytest.mark.parametrize("rate", [24_000, 16_000, 8_000])
@pytest.mark.parametrize("size", [2, 642, 1_000_000])
def test_pcm_of_each_rate_is_heard_in_time_however_it_is_cut(rate: int, size: int) -> None:
    content = (tone(rate) * 32767).astype("<i2").tobytes()
    audio_format = PcmFormat.model_validate({"rate": rate})

    samples = read(audio_format, content, size)

    assert len(samples) == pytest.approx(3 * SAMPLE_RATE, abs=2)
    middle = slice(SAMPLE_RATE, 2 * SAMPLE_RATE)
    assert np.abs(samples[middle] - tone(SAMPLE_RATE)[middle]).max() < 0.005


@pytest.mark.parametrize(("audio_format", "codec"), [("pcmu", "mulaw"), ("pcma", "alaw")])
def test_g711_is_decoded_as_ffmpeg_does(audio_format: str, codec: str) -> None:
    codes = bytes(range(256))
    decoded = subprocess.run(
        [
            imageio_ffmpeg.get_ffmpeg_exe(),
            *("-v", "error", "-f", codec, "-ar", "8000", "-i", "-"),
            *("-f", "s16le", "-"),
        ],
        input=codes,
        capture_output=True,
        check=True,
    ).stdout
    wanted = np.repeat(np.frombuffer(decoded, "<i2").astype(np.float32) / 32768, 100)
    formats: dict[str, AudioFormat] = {
        "pcmu": MuLawFormat(type="audio/pcmu"),
        "pcma": ALawFormat(type="audio/pcma"),
    }

    samples = read(formats[audio_format], bytes(np.repeat(np.frombuffer(codes, np.uint8), 100)), 7)

    assert np.abs(samples[100::200] - wanted[50::100]).max() < 0.01


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="odd number of bytes"):
        AudioReader(PcmFormat()).push(b"\0\0\0")


def test_the_buffer_keeps_the_latest_samples_under_their_own_numbers() -> None:
    buffer = SampleBuffer()
    count = 100 * SAMPLE_RATE
    for first in range(0, count, 1000):
        buffer.append(np.arange(first, first + 1000, dtype=np.float32))
        buffer.drop_before(buffer.end - 2 * SAMPLE_RATE)
        assert buffer.end - buffer.start <= 5 * SAMPLE_RATE

    assert buffer.end == count
    assert buffer.copy(count - 20_000, count - 19_997).tolist() == [
        count - 20_000,
        count - 19_999,
        count - 19_998,
    ]
    assert buffer.copy(0, 10).tolist() == []
