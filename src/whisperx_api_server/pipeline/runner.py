"""The protocol of what computes a request, on this machine or on another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..domain import Diarization, Transcript, TranscriptionRequest, WindowTranscript
from .events import Emit


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """Results of a run so far; another run of the same request resumes from them."""

    windows: dict[int, WindowTranscript] = field(default_factory=dict)
    diarization: Diarization | None = None


class Runner(Protocol):
    """Computes requests, any number at a time, here or on another machine.

    Cancelling a call removes its waiting work. Each method emits events, and raises ServiceError
    for an invalid request or a failed stage, and the errors of `emit`.
    """

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        """Transcribe one recording.

        Results in `checkpoint`, of an earlier run of the same request, are not computed again; new
        results are added to it.
        """

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        """Return who speaks when, without a transcript."""

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
        """Return the probability of each language in the first speech; empty for silence."""
