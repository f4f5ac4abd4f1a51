"""Kaldi's log mel filter bank in numpy: the features that CAM++ was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, Samples

MELS = 80
SHIFT = 160
"""Samples between two frames."""

SIZE = 400
"""Samples that one frame sees."""

_FFT = 512
_LOWEST = 20.0  # Hz
_PRE_EMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)

Features = NDArray[np.float32]
"""(frames, MELS)."""


class FilterBank:
    """Computes features as `compute-fbank-feats --num-mel-bins=80 --dither=0` does."""

    def __init__(self) -> None:
        self._window = (np.hanning(SIZE) ** 0.85).astype(np.float32)  # Kaldi's "povey" window
        self._triangles = _triangles()

    def features(self, samples: Samples) -> Features:
        """Return one row per whole frame; none when there are fewer samples than a frame sees."""
        if len(samples) < SIZE:
            return np.empty((0, MELS), np.float32)
        scaled = np.asarray(samples, np.float32) * 32_768  # Kaldi's samples are 16-bit integers
        frames = np.lib.stride_tricks.sliding_window_view(scaled, SIZE)[::SHIFT]
        frames = frames - frames.mean(axis=1, keepdims=True)
        previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        frames = (frames - _PRE_EMPHASIS * previous) * self._window
        power = np.square(np.abs(np.fft.rfft(frames, _FFT))).astype(np.float32)
        features: Features = np.log(np.maximum(power[:, : _FFT // 2] @ self._triangles, _FLOOR))
        return features


def _triangles() -> NDArray[np.float32]:
    """(FFT bins, MELS) weights; triangles of equal width on the mel scale."""
    bins = _mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)[:, None]
    edges = np.linspace(_mel(np.float64(_LOWEST)), _mel(np.float64(SAMPLE_RATE / 2)), MELS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(hertz: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(hertz / 700))
