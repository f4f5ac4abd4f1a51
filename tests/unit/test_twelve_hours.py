"""Twelve hours of speech through all that is done with a transcript: the event loop goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import pytest
from starlette.types import Message

from whisperx_api_server.domain import (
    OutputOptions,
    Segment,
    SpeakerTurn,
    TokenLogprob,
    Transcript,
    WindowTranscript,
    Word,
)
from whisperx_api_server.formats.render import render
from whisperx_api_server.jobs.store import DiskJobStore
from whisperx_api_server.loop_lag import MAX_BLOCKED
from whisperx_api_server.output_formats import OutputFormat
from whisperx_api_server.pipeline.chunking import stitch
from whisperx_api_server.pipeline.events import Finished, ResultEvent
from whisperx_api_server.routers.events import EventStream, transcript_events
from whisperx_api_server.transcript.speakers import Labeller

T = TypeVar("T")

ID = "0" * 32
WINDOW = 25.0  # s
SENTENCE = 5.0
WORD = 0.4
WINDOWS = round(12 * 3600 / WINDOW)


pytestmark = pytest.mark.usefixtures("without_collector")


def blocks_little(work: Callable[[], T]) -> T:
    """The result of `work` on a thread, which never holds the interpreter's lock for long."""
    return loop_goes_on(partial(asyncio.to_thread, work))


def loop_goes_on(work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which never keeps the event loop for long.

    Measured in CPU time of the process between two turns of the loop: a busy machine adds none.
    """

    async def scenario() -> tuple[T, float]:
        longest = 0.0

        async def turn() -> None:
            nonlocal longest
            while True:
                before = time.process_time()
                await asyncio.sleep(0.001)
                longest = max(longest, time.process_time() - before)

        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        result = await work()
        await asyncio.sleep(0.002)
        turning.cancel()
        return result, longest

    result, longest = asyncio.run(scenario())
    assert longest < MAX_BLOCKED
    return result


def sentence(start: float) -> Segment:
    times = [start + n * WORD for n in range(12)]
    words = tuple(
        Word(text=f"word{n}", start=at, end=at + 0.3, score=0.9) for n, at in enumerate(times)
    )
    return Segment(
        start=start,
        end=words[-1].end,
        text=" ".join(word.text for word in words),
        language="en",
        words=words,
        tokens=tuple(range(14)),
        logprobs=tuple(
            TokenLogprob(token=f" word{n}", logprob=-0.1, bytes=tuple(b" word")) for n in range(14)
        ),
    )


@pytest.fixture(scope="module")
def windows() -> list[WindowTranscript]:
    return [
        WindowTranscript(
            window_index=n,
            language="en",
            language_probability=1.0,
            segments=tuple(
                sentence(n * WINDOW + place * SENTENCE) for place in range(round(WINDOW / SENTENCE))
            ),
        )
        for n in range(WINDOWS)
    ]


@pytest.fixture(scope="module")
def transcript(windows: list[WindowTranscript]) -> Transcript:
    turns = [
        SpeakerTurn(start=n * 4.7, end=n * 4.7 + 4.5, speaker=f"SPEAKER_0{n % 4}")
        for n in range(9000)
    ]
    labeller = Labeller(turns)

    def labelled() -> Sequence[WindowTranscript]:
        return [replace(each, segments=labeller.label(each.segments)) for each in windows]

    return blocks_little(
        lambda: stitch(labelled(), task="transcribe", duration=43_200, default_language="en")
    )


def test_it_is_labelled_and_stitched(transcript: Transcript) -> None:
    words = [word for segment in transcript.segments for word in segment.words or ()]

    assert len(words) == WINDOWS * 5 * 12
    assert {word.speaker for word in words} == {f"SPEAKER_0{n}" for n in range(4)}


def test_it_is_kept_and_read(transcript: Transcript, tmp_path: Path) -> None:
    store = DiskJobStore(tmp_path)

    blocks_little(lambda: asyncio.run(store.save_transcript(ID, transcript)))

    assert blocks_little(lambda: asyncio.run(store.transcript(ID))) == transcript


@pytest.mark.parametrize("kind", get_args(OutputFormat))
def test_it_is_rendered(transcript: Transcript, kind: OutputFormat) -> None:
    options = OutputOptions(format=kind, granularities=frozenset({"segment", "word"}))

    rendered = blocks_little(lambda: render(transcript, options))

    assert rendered.body.count("word11") >= WINDOWS * 5


def test_the_last_event_of_its_stream_is_sent(transcript: Transcript) -> None:
    sent: list[bytes] = []

    async def happening() -> AsyncGenerator[ResultEvent, None]:
        yield Finished(transcript=transcript)

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def stream() -> None:
        events = happening()
        begun = asyncio.ensure_future(anext(events))
        options = OutputOptions(logprobs=True)
        response = EventStream(transcript_events(begun, events, options), AsyncExitStack())
        await response({"type": "http"}, asyncio.Event().wait, send)  # type: ignore[arg-type]

    loop_goes_on(stream)

    assert b"".join(sent).count(b'"logprob":') == WINDOWS * 5 * 14
