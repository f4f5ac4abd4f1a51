"""Voice activity detection in tests: recordings, and their regions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from whisperx_api_server.backends.base import VoiceDetector
from whisperx_api_server.domain import SAMPLE_RATE, AudioClip, Samples, SpeechRegion, VadOptions


def clip_of(samples: Samples) -> AudioClip:
    return AudioClip(samples=samples, sample_rate=SAMPLE_RATE)


def noise(seconds: float, decibels: float) -> Samples:
    rng = np.random.default_rng(0)
    shape = round(seconds * SAMPLE_RATE)
    return rng.standard_normal(shape).astype(np.float32) * np.float32(10 ** (decibels / 20))


def pieces(samples: Samples, size: int) -> Iterator[Samples]:
    for first in range(0, len(samples), size):
        yield samples[first : first + size]


def regions_of(
    detector: VoiceDetector,
    clip: AudioClip,
    options: VadOptions | None = None,
    *,
    size: int = 1_000_000,
) -> list[SpeechRegion]:
    """The regions of a clip that is pushed in pieces of a size in samples."""
    detection = detector.start(options or VadOptions())
    found = [region for piece in pieces(clip.samples, size) for region in detection.push(piece)]
    return [*found, *detection.finish()]
