"""The audio of a live session: bytes as clients send them -> 16 kHz samples, and what is kept."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from ..domain import SAMPLE_RATE, Samples
from ..errors import InvalidAudio
from .messages import AudioFormat, PcmFormat

_G711_RATE = 8000


class AudioReader:
    """Decodes one stream of audio, piece by piece; its resampler keeps its state between pieces.

    PCM is 16-bit little-endian mono; G.711 has 8 kHz. The output lags behind by some 20 ms.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        rate = audio_format.rate if isinstance(audio_format, PcmFormat) else _G711_RATE
        self.values = None if isinstance(audio_format, PcmFormat) else _g711(audio_format.type)
        """What each byte of G.711 means; None for PCM."""
        self._resampler = (
            None
            if rate == SAMPLE_RATE
            else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )

    def push(self, content: bytes) -> Samples:
        """The samples of the next bytes, at 16 kHz.

        Raises:
            InvalidAudio: half a sample.
        """
        if self.values is not None:
            samples = self.values[np.frombuffer(content, np.uint8)]
        elif len(content) % 2:
            raise InvalidAudio(
                f"the audio has an odd number of bytes ({len(content)}): send whole 16-bit samples",
                param="audio",
            )
        else:
            samples = np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)
        return samples if self._resampler is None else self._resample(samples)

    def finish(self) -> Samples:
        """What the resampler holds back."""
        rest = np.zeros(0, np.float32)
        return rest if self._resampler is None else self._resample(rest, last=True)

    def _resample(self, samples: Samples, *, last: bool = False) -> Samples:
        assert self._resampler is not None
        resampled: Samples = self._resampler.resample_chunk(samples, last=last)
        return resampled


def _g711(name: str) -> NDArray[np.float32]:
    """The 256 values of a G.711 code (ITU-T G.711), in [-1, 1]."""
    code = np.arange(256)
    if name == "audio/pcmu":
        code = ~code & 0xFF
        exponent, mantissa = code >> 4 & 7, code & 15
        level = ((2 * mantissa + 33) << exponent) - 33
        positive = code & 0x80 == 0
        scale = 8192
    else:
        code = code ^ 0x55
        exponent, mantissa = code >> 4 & 7, code & 15
        level = np.where(
            exponent == 0,
            2 * mantissa + 1,
            (2 * mantissa + 33) << np.maximum(exponent - 1, 0),
        )
        positive = code & 0x80 != 0
        scale = 4096
    return (np.where(positive, level, -level) / scale).astype(np.float32)


class SampleBuffer:
    """The latest samples of a session, counted from its beginning."""

    def __init__(self) -> None:
        self.start = 0
        """The first sample that is kept."""
        self.end = 0
        """How many samples there have been."""
        self._kept = np.zeros(SAMPLE_RATE, np.float32)

    def append(self, samples: Samples) -> None:
        count = self.end - self.start
        if count + len(samples) > len(self._kept):
            grown = np.zeros(2 * (count + len(samples)), np.float32)
            grown[:count] = self._kept[:count]
            self._kept = grown
        self._kept[count : count + len(samples)] = samples
        self.end += len(samples)

    def copy(self, first: int, last: int) -> Samples:
        """The samples from `first` up to `last`, as far as they are kept."""
        first = max(first, self.start)
        return self._kept[first - self.start : max(first, last) - self.start].copy()

    def drop_before(self, first: int) -> None:
        """Forget the samples before `first`, when that is worth moving the others."""
        first = min(first, self.end)
        kept = self.end - first
        if first - self.start < SAMPLE_RATE or first - self.start < kept:
            return
        samples = self.copy(first, self.end)
        self._kept = np.zeros(max(SAMPLE_RATE, 2 * kept), np.float32)
        self._kept[:kept] = samples
        self.start = first
