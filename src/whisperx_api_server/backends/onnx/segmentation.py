"""Speaker segmentation: which of up to three voices speak in each frame of a 10 s window.

The model is pyannote's segmentation-3.0 (Plaquet and Bredin, "Powerset multi-class cross entropy
loss for neural speaker diarization", Interspeech 2023). Its voices are local: the first voice of
one window need not be the first of the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, Samples

WINDOW = 10 * SAMPLE_RATE
"""Samples of a window, the length that the model was trained on."""

FRAME = 270
"""Samples between two frames of the model's output."""

FRAME_SIZE = 991
"""Samples that one frame sees."""

FRAMES = 589
"""Frames of a window."""

HOP_FRAMES = 148
"""Frames between two windows (2.5 s): four windows vote on each frame. A hop of 5 s halves the
cost, for a DER on `../shared/real/meetings` of 0.286 instead of 0.244."""

HOP = HOP_FRAMES * FRAME

VOICES = 3

Activity = NDArray[np.bool_]
"""(windows, FRAMES, VOICES): whether a voice speaks in a frame."""

_POWERSET = np.array(
    [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool
)
"""The voices of each of the model's seven classes."""


def count_windows(samples: int) -> int:
    """How many windows cover so many samples; the last one may reach past their end."""
    return 1 + max(0, -(-(samples - WINDOW) // HOP))


class Segmentation:
    """Runs the model; `session` is its onnxruntime.InferenceSession."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def activity(self, samples: Samples, first: int, count: int) -> Activity:
        """Return the activity in windows `first` to `first + count` of a recording."""
        windows = np.zeros((count, 1, WINDOW), np.float32)
        for row in range(count):
            start = (first + row) * HOP
            part = samples[start : start + WINDOW]
            windows[row, 0, : len(part)] = part
        (scores,) = self._session.run(None, {"samples": windows})
        activity: Activity = _POWERSET[scores.argmax(axis=-1)]
        return activity
