"""Events of a run as JSON, and the progress that they tell."""

from __future__ import annotations

from functools import reduce

import pytest
from pydantic import TypeAdapter

from whisperx_api_server.domain import Segment, TokenLogprob, Transcript, WindowTranscript, Word
from whisperx_api_server.pipeline.events import (
    Event,
    Finished,
    Opened,
    PartDiarized,
    Progress,
    SegmentsLabelled,
    StageBegan,
    WindowDone,
)

SEGMENT = Segment(
    start=1.0,
    end=2.5,
    text="Grüße, 世界.",
    language="de",
    words=(Word(text="Grüße,", start=1.0, end=1.5, score=0.5, speaker="SPEAKER_00", tokens=(7,)),),
    speaker="SPEAKER_00",
    tokens=(7, 8),
    logprobs=(TokenLogprob(token="�", logprob=-0.5, bytes=(0xE4,)),),
)
WINDOW = WindowTranscript(
    window_index=3, language="de", language_probability=0.9, segments=(SEGMENT,), warnings=("a",)
)
TRANSCRIPT = Transcript(
    task="transcribe",
    language="de",
    languages=("de", "en"),
    duration=4.0,
    segments=(SEGMENT, Segment(start=3.0, end=4.0, text="Red.")),
    speaker_embeddings={"SPEAKER_00": (0.25, -1.0)},
)
EVENTS: list[Event] = [
    StageBegan(stage="open", at=1000.0),
    Opened(duration=4.0),
    StageBegan(stage="wait", at=1001.0),
    StageBegan(stage="transcribe", at=1002.0),
    StageBegan(stage="diarize", at=1003.0),
    WindowDone(transcript=WINDOW, until=2.5),
    PartDiarized(part=0.5),
    SegmentsLabelled(segments=(SEGMENT,)),
    StageBegan(stage="finish", at=1004.0),
    Finished(transcript=TRANSCRIPT),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_events_survive_json(event: Event) -> None:
    adapter: TypeAdapter[Event] = TypeAdapter(Event)
    assert adapter.validate_json(adapter.dump_json(event)) == event


def test_progress_follows_from_the_events() -> None:
    progress = reduce(Progress.after, EVENTS[:3], Progress())
    assert progress.waits
    progress = reduce(Progress.after, EVENTS[3:6], progress)
    assert not progress.waits
    assert (progress.duration, progress.transcribing_since) == (4.0, 1002.0)
    assert progress.part == 0  # nothing is diarized yet
    progress = progress.after(EVENTS[6])
    assert progress.part == 0.5
    assert progress.after(PartDiarized(part=1.0)).part == 0.625  # transcribed so far
    unfinished = [each.name for each in progress.stages if each.finished_at is None]
    assert unfinished == ["transcribe", "diarize"]
