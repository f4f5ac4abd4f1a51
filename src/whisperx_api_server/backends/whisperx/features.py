"""Log-mel spectrograms for Whisper, at a cost proportional to the length of the speech."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, Samples
from ..vendors import require

HOP = 160  # 10 ms
N_FFT = 400  # 25 ms
N_SAMPLES = 30 * SAMPLE_RATE
N_FRAMES = N_SAMPLES // HOP

Mel = NDArray[np.float32]
"""Shape (n_mels, N_FRAMES)."""


def mel_filters(n_mels: int) -> NDArray[np.float32]:
    """Whisper's mel filter bank, (n_mels, N_FFT // 2 + 1)."""
    extractor = require("faster_whisper.feature_extractor", extra="cpu").FeatureExtractor
    filters: NDArray[np.float64] = extractor.get_mel_filters(SAMPLE_RATE, N_FFT, n_mels)
    return filters.astype(np.float32)


class LogMel:
    """openai/whisper's `log_mel_spectrogram` of a window padded to 30 s. Thread-safe.

    All frames of the padding are equal, so only those that overlap with sound are computed.
    """

    def __init__(self, n_mels: int) -> None:
        self._filters = mel_filters(n_mels)
        self._hann = np.hanning(N_FFT + 1)[:-1].astype(np.float32)

    def __call__(self, samples: Samples) -> Mel:
        """Mono 16 kHz audio of any length (only the first 30 s are used) -> (n_mels, N_FRAMES)."""
        frames = sliding_window_view(_padded(samples[:N_SAMPLES]), N_FFT)[::HOP][:N_FRAMES]
        spectrum = np.fft.rfft(frames * self._hann)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        heard = np.log10(np.maximum(self._filters @ power.T, 1e-10))
        floor = max(heard.max() - 8.0, -10.0)  # -10 is the padding's
        mel = np.full((len(self._filters), N_FRAMES), floor, dtype=np.float32)
        np.maximum(heard, floor, out=mel[:, : heard.shape[1]])
        return (mel + 4.0) / 4.0


def _padded(samples: Samples) -> Samples:
    """Pad the samples with half a mirrored frame before, and for the last frames after."""
    half = N_FFT // 2
    body = np.zeros(min(N_SAMPLES, len(samples) + N_FFT), dtype=np.float32)
    body[: len(samples)] = samples
    behind = body[-half - 1 : -1][::-1] if len(body) == N_SAMPLES else np.zeros(half, np.float32)
    return np.concatenate([body[half:0:-1], body, behind])
