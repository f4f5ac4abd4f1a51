"""The protocol of runners, which compute requests on this machine or on another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ..domain import Diarization, Transcript, TranscriptionRequest, WindowTranscript
from .events import Emit

RunKind = Literal["transcription", "diarization", "language_detection"]
"""The method of a `Runner`."""


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


class RunnerAround(ABC):
    """A runner around another one; `around` is the context of each of its calls."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @abstractmethod
    def around(
        self, kind: RunKind, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> AbstractAsyncContextManager[Emit]:
        """Return the context of a call; its value is the `emit` of the inner runner."""

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        async with self.around("transcription", request, emit, checkpoint) as inner:
            return await self._runner.run(request, inner, checkpoint)

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        async with self.around("diarization", request, emit, Checkpoint()) as inner:
            return await self._runner.diarize(request, inner)

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
        async with self.around("language_detection", request, emit, Checkpoint()) as inner:
            return await self._runner.detect_language(request, inner)
