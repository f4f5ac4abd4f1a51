"""Voice vectors: CAM++ on the frames in which a voice speaks alone.

The model (Wang et al., "CAM++: A fast and efficient network for speaker verification using
context-aware masking", Interspeech 2023) was trained on 200,000 Chinese and English speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fbank import MELS, SHIFT, Features
from .segmentation import FRAME, FRAME_SIZE, FRAMES, WINDOW

SIZE = 192
"""Numbers in a vector."""

SEGMENT = 200
"""The model pools over segments of that many frames; its input is a multiple of them."""

MAX_FRAMES = 2 * SEGMENT
"""Frames (4 s) that a vector is made from at most: more cost time and do not lower the DER."""

BATCH = 8
"""Voices per call of the model; the layers' outputs take 6 MB for each."""

MIN_FRAMES = 10
"""Frames (0.1 s) that a voice needs at least."""

Vectors = NDArray[np.float32]
"""(voices, SIZE), of unit length."""

_WINDOW_FRAMES = WINDOW // SHIFT

_CENTRES = np.arange(_WINDOW_FRAMES) * SHIFT + SHIFT // 2
FRAME_OF_FEATURE = np.clip(
    np.rint((_CENTRES - FRAME_SIZE / 2) / FRAME).astype(np.intp), 0, FRAMES - 1
)
"""For each feature frame of a window, the segmentation's frame at the same time."""


class VoiceEncoder:
    """Runs the model; `session` is its onnxruntime.InferenceSession."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def embed(self, voices: Sequence[Features]) -> Vectors:
        """Return one vector per voice, in order; each voice has at least MIN_FRAMES frames."""
        vectors = np.empty((len(voices), SIZE), np.float32)
        inputs = [_fitted(features) for features in voices]
        for length in {len(each) for each in inputs}:
            same = [row for row, each in enumerate(inputs) if len(each) == length]
            for first in range(0, len(same), BATCH):
                rows = same[first : first + BATCH]
                batch = np.stack([inputs[row] for row in rows])
                (vectors[rows],) = self._session.run(None, {"features": batch})
        return unit(vectors)


def unit(vectors: Vectors) -> Vectors:
    """Return the vectors scaled to unit length."""
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def _fitted(features: Features) -> Features:
    """Centre the features, take the middle of a long voice and repeat a short one."""
    features = features - features.mean(axis=0)
    if len(features) > MAX_FRAMES:
        first = (len(features) - MAX_FRAMES) // 2
        features = features[first : first + MAX_FRAMES]
    length = -(-len(features) // SEGMENT) * SEGMENT
    return np.resize(features, (length, MELS))
