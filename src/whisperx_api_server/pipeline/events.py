"""The events of a run, as values: streams, job status and progress bars read the same ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from ..domain import Segment, StageTimes, Transcript, WindowTranscript

Stage = Literal["open", "wait", "transcribe", "diarize", "finish"]
"""The steps of a run. `wait` is for room in the queue. `transcribe` and `diarize` run in parallel,
the others in turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBegan:
    """A step of the run begins; `at` in seconds since the epoch."""

    stage: Stage
    at: float
    kind: Literal["stage_began"] = "stage_began"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The recording is decoded; `duration` in seconds."""

    duration: float
    kind: Literal["opened"] = "opened"


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowDone:
    """The next window, in order, is transcribed; all audio up to `until` seconds is done."""

    transcript: WindowTranscript
    until: float
    kind: Literal["window_done"] = "window_done"


@dataclass(frozen=True, kw_only=True, slots=True)
class PartDiarized:
    """The diarizer has processed this `part` in [0, 1] of the recording."""

    part: float
    kind: Literal["part_diarized"] = "part_diarized"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentsLabelled:
    """The next segments of a diarized run, in order, with their speakers."""

    segments: tuple[Segment, ...]
    kind: Literal["segments_labelled"] = "segments_labelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of a successful run: the transcript, with speakers."""

    transcript: Transcript
    kind: Literal["finished"] = "finished"


ResultEvent = WindowDone | SegmentsLabelled | Finished
"""The events that carry parts of the transcript."""

Event = StageBegan | Opened | PartDiarized | ResultEvent

Emit = Callable[[Event], Awaitable[None]]
"""Takes the events of a run in order; the run awaits each call, and fails with its error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of a run; `reached` and `duration` in seconds of the recording.

    `diarized` is the part in [0, 1]; None before diarization begins and without it.
    """

    stages: tuple[StageTimes, ...] = ()
    duration: float | None = None
    reached: float = 0.0
    diarized: float | None = None

    def after(self, event: Event) -> Progress:
        """Return the progress after one more event."""
        match event:
            case StageBegan(stage=stage, at=at):
                together = {"transcribe", "diarize"}
                ended = (
                    each
                    if each.finished_at is not None or {each.name, stage} == together
                    else replace(each, finished_at=at)
                    for each in self.stages
                )
                stages = (*ended, StageTimes(name=stage, started_at=at))
                diarized = 0.0 if stage == "diarize" else self.diarized
                return replace(self, stages=stages, diarized=diarized)
            case Opened(duration=duration):
                return replace(self, duration=duration)
            case WindowDone(until=until):
                return replace(self, reached=until)
            case PartDiarized(part=part):
                return replace(self, diarized=part)
            case SegmentsLabelled() | Finished():
                return self

    @property
    def waits(self) -> bool:
        """Whether it has not begun, or waits for room in the queue."""
        return not self.stages or self.stages[-1].name == "wait"

    @property
    def part(self) -> float:
        """The transcribed and, once diarization has begun, diarized part in [0, 1]."""
        transcribed = self.reached / self.duration if self.duration else 0.0
        return min(1.0, transcribed, 1.0 if self.diarized is None else self.diarized)

    @property
    def transcribing_since(self) -> float | None:
        """When transcription began, in seconds since the epoch."""
        return next((each.started_at for each in self.stages if each.name == "transcribe"), None)
