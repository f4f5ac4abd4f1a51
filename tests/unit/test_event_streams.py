"""The event stream against clients that leave, or that read no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import Message

from live import until
from support import PATIENCE
from whisperx_api_server.domain import OutputOptions, Segment, Transcript, WindowTranscript
from whisperx_api_server.errors import TranscriptionFailed
from whisperx_api_server.pipeline.events import Finished, ResultEvent, SegmentsLabelled, WindowDone
from whisperx_api_server.routers.events import EventStream, transcript_events


class Connection:
    """A client's side: what it has been sent, and whether it still reads and listens."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    @property
    def body(self) -> str:
        return b"".join(each.get("body", b"") for each in self.sent).decode()


class Source:
    """Endless events; `closed` says in what order things were let go of."""

    def __init__(self, connection: Connection) -> None:
        self.closed: list[str] = []
        self.stack = AsyncExitStack()
        self.stack.callback(self.closed.append, "upload")
        self._connection = connection

    async def events(self) -> AsyncGenerator[dict[str, Any] | str, None]:
        try:
            while True:
                yield {"n": len(self._connection.sent)}
                await asyncio.sleep(0)
        finally:
            self.closed.append("source")


def respond(connection: Connection, source: Source) -> asyncio.Task[None]:
    response = EventStream(source.events(), source.stack, send_timeout=0.05)
    return asyncio.create_task(response({"type": "http"}, connection.receive, connection.send))


@pytest.mark.parametrize(
    "leave",
    [lambda connection: connection.reads.clear(), lambda connection: connection.gone.set()],
    ids=["stalls", "disconnects"],
)
def test_a_reader_that_leaves_is_dropped(leave: Callable[[Connection], None]) -> None:
    async def scenario() -> None:
        connection = Connection()
        source = Source(connection)
        responding = respond(connection, source)
        await until(lambda: len(connection.sent) >= 3)
        leave(connection)
        await asyncio.wait_for(responding, PATIENCE)
        assert source.closed == ["source", "upload"]

    asyncio.run(scenario())


def test_a_stream_that_waits_sends_comments() -> None:
    async def slow() -> AsyncGenerator[dict[str, Any] | str, None]:
        await pinged.wait()
        yield "at last"

    async def scenario() -> None:
        connection = Connection()
        response = EventStream(slow(), AsyncExitStack(), heartbeat=0.01)
        responding = asyncio.create_task(
            response({"type": "http"}, connection.receive, connection.send)
        )
        await until(lambda: connection.body.count(": ping\n\n") >= 2)
        pinged.set()
        await responding
        assert connection.body.endswith(": ping\n\ndata: at last\n\n")

    pinged = asyncio.Event()
    asyncio.run(scenario())


def test_an_unexpected_error_is_raised() -> None:
    async def broken() -> AsyncGenerator[dict[str, Any] | str, None]:
        yield {}
        raise ZeroDivisionError

    async def scenario() -> None:
        connection = Connection()
        response = EventStream(broken(), AsyncExitStack())
        with pytest.raises(ZeroDivisionError):
            await response({"type": "http"}, connection.receive, connection.send)

    asyncio.run(scenario())


def window(index: int, text: str, language: str) -> WindowTranscript:
    return WindowTranscript(
        window_index=index,
        language=language,
        language_probability=1.0,
        segments=(Segment(start=index, end=index + 1, text=text),),
    )


async def events_sent(events: list[ResultEvent | Exception], **output: Any) -> list[Any]:
    async def happening() -> AsyncGenerator[ResultEvent, None]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    run = happening()
    begun = asyncio.ensure_future(anext(run))
    return [each async for each in transcript_events(begun, run, OutputOptions(**output))]


def test_deltas_join_as_their_languages_are_written() -> None:
    windows = [window(0, "red.", "en"), window(1, " ", "en"), window(2, "赤。", "ja")]
    events: list[ResultEvent | Exception] = [
        WindowDone(transcript=each, until=0.0) for each in windows
    ]

    deltas = asyncio.run(events_sent(events))

    assert [each["delta"] for each in deltas[:-1]] == ["red.", "赤。"]


def test_segments_are_numbered_through_and_only_where_they_are_asked_for() -> None:
    parts = [
        Segment(start=n, end=n + 1, text="x", speaker=speaker)
        for n, speaker in enumerate(["SPEAKER_03", "Ann", "SPEAKER_03"])
    ]
    events: list[ResultEvent | Exception] = [
        SegmentsLabelled(segments=tuple(parts[:1])),
        SegmentsLabelled(segments=tuple(parts[1:])),
    ]

    segments = asyncio.run(events_sent(events, format="diarized_json"))[:-1]

    assert [each["id"] for each in segments] == ["seg_001", "seg_002", "seg_003"]
    assert [each["speaker"] for each in segments] == ["A", "Ann", "A"]
    assert asyncio.run(events_sent(events)) == ["[DONE]"]


def test_the_end_comes_after_a_failure_too() -> None:
    heard = WindowDone(transcript=window(0, "red.", "en"), until=1.0)
    events = asyncio.run(events_sent([heard, TranscriptionFailed("it broke")]))

    assert events[1]["error"]["message"] == "it broke"
    assert events[2:] == ["[DONE]"]


def test_done_has_the_whole_text() -> None:
    transcript = Transcript(
        task="transcribe",
        language="en",
        languages=("en",),
        duration=1.0,
        segments=(Segment(start=0, end=1, text="red."),),
    )

    (done, end) = asyncio.run(events_sent([Finished(transcript=transcript)]))

    assert (done["type"], done["text"], end) == ("transcript.text.done", "red.", "[DONE]")
