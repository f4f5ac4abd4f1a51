"""Voice activity with Silero: the ONNX model inside faster-whisper's wheel, without torch.

The model (v6, https://github.com/snakers4/silero-vad) hears 16 kHz audio in frames of 512 samples,
each with the 64 samples before it, and carries an LSTM state from frame to frame. Carrying that
state from block to block makes the cost per minute and the memory the same for any length.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain import AudioClip, Samples, SpeechRegion, VadOptions
from ..errors import NotInstalled
from .base import ModelSpec, Stage, VoiceDetector, require, translate_memory_errors
from .binarize import BinarizeOptions, Binarizer

SAMPLE_RATE = 16_000
FRAME = 512  # samples
CONTEXT = 64  # samples of the frame before
STATE_SIZE = 128  # of each of the LSTM's two state vectors

BLOCK_FRAMES = 2_048
"""65.5 s a step: short enough to let other clips in between, long enough to be one large call."""

DEFAULTS = BinarizeOptions(onset=0.1, offset=0.07, padding=0.3, min_silence=0.2, min_speech=0.1)
"""Measured: docs/engines.md. Silero's own 0.5 loses speech that is quiet, far or whispered; what is
found too much, Whisper tells by itself."""


class SileroDetector:
    """Finds speech in 16 kHz clips; `session` is the model's onnxruntime.InferenceSession."""

    def __init__(self, session: Any, *, block_frames: int = BLOCK_FRAMES) -> None:
        self._session = session
        self._block_frames = block_frames

    def detect(self, clip: AudioClip, options: VadOptions) -> Iterator[Sequence[SpeechRegion]]:
        """Speech regions, block by block; see `VoiceDetector`."""
        binarizer = Binarizer(DEFAULTS.overridden(options), step=FRAME / SAMPLE_RATE)
        hidden = cell = np.zeros((1, 1, STATE_SIZE), np.float32)
        block = self._block_frames * FRAME
        for first in range(0, len(clip.samples), block):
            frames = _frames(clip.samples, first, first + block)
            with translate_memory_errors("the memory does not suffice to find the speech"):
                probabilities, hidden, cell = self._session.run(
                    None, {"input": frames, "h": hidden, "c": cell}
                )
            regions = list(binarizer.feed(probabilities.ravel().tolist()))
            if first + block >= len(clip.samples):
                regions += binarizer.finish(clip.duration)
            yield regions


def _frames(samples: Samples, first: int, end: int) -> NDArray[np.float32]:
    """What the model hears between two samples: (frames, CONTEXT + FRAME), zeros past the ends."""
    block = samples[first:end]
    frames = np.zeros((-(-len(block) // FRAME), CONTEXT + FRAME), np.float32)
    whole = len(block) // FRAME
    frames[:whole, CONTEXT:] = block[: whole * FRAME].reshape(whole, FRAME)
    if whole < len(frames):
        frames[whole, CONTEXT : CONTEXT + len(block) % FRAME] = block[whole * FRAME :]
    frames[1:, :CONTEXT] = frames[:-1, -CONTEXT:]
    if first:
        frames[0, :CONTEXT] = samples[first - CONTEXT : first]
    return frames


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    """See `backends.base`."""
    require("onnxruntime", extra="embedded")


def load_voice_detector(spec: ModelSpec) -> VoiceDetector:  # noqa: ARG001 - one model, one device
    """The detector; it always runs on one CPU thread, which is faster than it needs to be.

    Raises:
        NotInstalled: faster-whisper or onnxruntime is absent.
    """
    onnxruntime = require("onnxruntime", extra="embedded")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena keeps the largest block's memory for good
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(_model_path()), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return SileroDetector(session)


def _model_path() -> Path:
    # Importing faster_whisper would load CTranslate2 and PyAV for nothing.
    package = importlib.util.find_spec("faster_whisper")
    for folder in (package and package.submodule_search_locations) or ():
        for path in Path(folder).glob("assets/silero_vad_v6*.onnx"):
            return path
    raise NotInstalled(
        "voice activity detection needs the package 'faster-whisper' from version 1.2.1: "
        'pip install "whisperx-api-server[embedded]"'
    )
