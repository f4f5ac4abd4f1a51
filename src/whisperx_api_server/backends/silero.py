"""Voice activity with Silero: the ONNX model inside faster-whisper's wheel, without torch.

The model (v6, https://github.com/snakers4/silero-vad) processes 16 kHz audio in frames of 512
samples, each with the 64 samples before it, and has an LSTM state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..domain import SAMPLE_RATE, Samples, VadOptions
from .base import Declaration, Detection, ModelSpec, Stage, VoiceDetector
from .binarize import BinarizeOptions, Binarizer, FrameDetection
from .vendors import package_file, require, translate_memory_errors

DECLARATIONS: Mapping[Stage, Declaration] = {
    "vad": Declaration(packages=("onnxruntime", "faster_whisper"), extra="embedded"),
}

FRAME = 512  # samples
CONTEXT = 64  # samples of the frame before
STATE_SIZE = 128  # of each of the LSTM's two state vectors

DEFAULTS = BinarizeOptions(onset=0.1, offset=0.07, padding=0.3, min_silence=0.2, min_speech=0.1)
"""Measured: docs/engines.md. Silero's default of 0.5 loses quiet, distant and whispered speech;
Whisper recognises silence that is passed to it."""


class SileroDetector:
    """Finds speech; `session` is the model's onnxruntime.InferenceSession."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def start(self, options: VadOptions) -> Detection:
        binarizer = Binarizer(DEFAULTS.overridden(options), step=FRAME / SAMPLE_RATE)
        return FrameDetection(_Scorer(self._session), binarizer)


class _Scorer:
    """Keeps the model's state and its context between pushes."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._hidden = self._cell = np.zeros((1, 1, STATE_SIZE), np.float32)
        self._samples = np.zeros(CONTEXT, np.float32)  # the next frame's context, and its beginning

    def push(self, samples: Samples) -> list[float]:
        known = np.concatenate([self._samples, samples])
        count = (len(known) - CONTEXT) // FRAME
        self._samples = known[count * FRAME :].copy()
        if not count:
            return []
        frames = np.ascontiguousarray(sliding_window_view(known, CONTEXT + FRAME)[::FRAME])
        with translate_memory_errors(
            "there is not enough memory to find the speech: try again later"
        ):
            probabilities, self._hidden, self._cell = self._session.run(
                None, {"input": frames, "h": self._hidden, "c": self._cell}
            )
        scores: list[float] = probabilities.ravel().tolist()
        return scores

    def finish(self) -> list[float]:
        """Score the last frame, padded with zeros."""
        return self.push(np.zeros((CONTEXT - len(self._samples)) % FRAME, np.float32))


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    require("onnxruntime", extra="embedded")


def load_voice_detector(spec: ModelSpec) -> VoiceDetector:  # noqa: ARG001 - one model, one device
    """Load the detector; it runs on one CPU thread, which is fast enough.

    Raises:
        NotInstalled: faster-whisper or onnxruntime is absent.
    """
    onnxruntime = require("onnxruntime", extra="embedded")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena never frees the largest block's memory
    options.log_severity_level = 3
    weights = package_file("faster_whisper", "assets/silero_vad_v6*.onnx", extra="embedded")
    session = onnxruntime.InferenceSession(
        str(weights), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return SileroDetector(session)
