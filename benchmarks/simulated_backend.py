"""A transcriber that hears the tones of the fake backend and takes as long as a GPU would.

A batch of n windows takes `SIMULATED_BATCH_SECONDS` + n · `SIMULATED_WINDOW_SECONDS`, asleep: any
number of workers can share a machine without sharing its cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whisperx_api_server.backends.base import Capabilities, ModelSpec
from whisperx_api_server.backends.fake import (
    FakeTranscriber,
    align_model,
    load_aligner,
    load_diarizer,
    load_voice_detector,
)
from whisperx_api_server.domain import DecodeOptions, Window, WindowTranscript

__all__ = ["align_model", "load_aligner", "load_diarizer", "load_voice_detector"]

BATCH = "SIMULATED_BATCH_SECONDS"
WINDOW = "SIMULATED_WINDOW_SECONDS"
LIMIT = 16


class SimulatedTranscriber(FakeTranscriber):
    """Sleeps for a batch, then hears it."""

    def __init__(self, batch: float, window: float) -> None:
        super().__init__()
        self._batch = batch
        self._window = window

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_batch=LIMIT)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        time.sleep(self._batch + self._window * len(windows))
        return super().transcribe(windows, options, features)


def load_transcriber(spec: ModelSpec) -> SimulatedTranscriber:
    """See `backends.base`."""
    del spec
    return SimulatedTranscriber(float(os.environ[BATCH]), float(os.environ[WINDOW]))


def settings(directory: Path, *, batch: float, window: float) -> dict[str, str]:
    """The environment of a process that computes so, plugged in like a third party's backend."""
    metadata = directory / "simulated_backend-1.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: simulated-backend\nVersion: 1\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[whisperx_api_server.backends]\nsimulated = simulated_backend\n"
    )
    return {
        "BACKENDS__TRANSCRIPTION": "simulated",
        "BACKENDS__ALIGNMENT": "fake",
        "BACKENDS__DIARIZATION": "fake",
        BATCH: str(batch),
        WINDOW: str(window),
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(directory))),
    }
