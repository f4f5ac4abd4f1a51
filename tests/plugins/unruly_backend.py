"""A third party's backend, for tests: the fake one, but it fails in every way there is.

The test says through the environment which files the two sides talk by:

- `UNRULY_LOG`: each load and each batch is written there, as a JSON line.
- `UNRULY_GATE`: while that file is there, no batch ends.
- `UNRULY_MEMORY`: more windows than that do not fit into memory.
- `UNRULY_SECONDS`: how long each window of a batch takes.

In a window in which POISON is said it raises, at KILLER it ends the thread.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from whisperx_api_server.backends.base import Aligner, Capabilities, ModelSpec
from whisperx_api_server.backends.fake import (
    FakeAligner,
    FakeDiarizer,
    FakeTranscriber,
    FakeVoiceDetector,
    align_model,
)
from whisperx_api_server.domain import DecodeOptions, Window, WindowTranscript
from whisperx_api_server.errors import InsufficientMemory

__all__ = [
    "align_model",
    "load_aligner",
    "load_diarizer",
    "load_transcriber",
    "load_voice_detector",
]

POISON = "black"
KILLER = "white"


def note(**event: object) -> None:
    with Path(os.environ["UNRULY_LOG"]).open("a", encoding="utf-8") as log:
        log.write(json.dumps(event) + "\n")


class UnrulyTranscriber(FakeTranscriber):
    """Each window's text is logged when its batch ends, or fails."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(tasks=frozenset({"transcribe"}), detects_language=True)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        answers = super().transcribe(windows, options, features)
        texts = [" ".join(segment.text for segment in answer.segments) for answer in answers]
        note(batch=texts)
        gate = Path(os.environ.get("UNRULY_GATE", "/nonexistent"))
        while gate.exists():
            time.sleep(0.005)
        time.sleep(float(os.environ.get("UNRULY_SECONDS", "0")) * len(windows))
        if len(windows) > int(os.environ.get("UNRULY_MEMORY", "1000")):
            raise InsufficientMemory("the batch does not fit into memory: send shorter audio")
        if any(KILLER in text for text in texts):
            raise SystemExit("the engine is gone")
        if any(POISON in text for text in texts):
            raise ValueError("this cannot be decoded")
        return answers


def load_transcriber(spec: ModelSpec) -> UnrulyTranscriber:
    note(load=spec.name)
    return UnrulyTranscriber()


def load_aligner(spec: ModelSpec) -> Aligner:
    return FakeAligner()


def load_diarizer(spec: ModelSpec) -> FakeDiarizer:
    return FakeDiarizer()


def load_voice_detector(spec: ModelSpec) -> FakeVoiceDetector:
    return FakeVoiceDetector()


def install(directory: Path) -> Mapping[str, str]:
    """Make the backend an installed package's, as pip would; settings of a server that uses it."""
    info = directory / "unruly_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unruly-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[whisperx_api_server.backends]\nunruly = unruly_backend\n"
    )
    return {
        "PYTHONPATH": f"{directory}:{Path(__file__).parent}",
        "UNRULY_LOG": str(directory / "batches.jsonl"),
        "UNRULY_GATE": str(directory / "gate"),
        "BACKENDS__TRANSCRIPTION": "unruly",
        "BACKENDS__ALIGNMENT": "unruly",
        "BACKENDS__DIARIZATION": "unruly",
        "JOBS__RETRY_WINDOW": "0",
        "WHISPER__CHUNK_SIZE": "5",
    }
