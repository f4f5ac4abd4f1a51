"""Server-sent events: transcripts as they grow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..domain import OutputOptions, Segment, WindowTranscript
from ..errors import Cancelled, ServiceError
from ..formats.openai_json import SpeakerNames, delta_event, done_event, segment_event, text_delta
from ..formats.render import dump
from ..pipeline.events import ResultEvent, SegmentsLabelled, WindowDone
from .deps import cancel_on_disconnect
from .errors import service_error_body

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 60.0
"""Seconds until a client that reads nothing counts as disconnected."""

HEARTBEAT = 15.0
"""Seconds without an event after which a comment is sent: proxies cut connections that are idle for
a minute."""

DONE = "[DONE]"
"""The last event's data, as OpenAI's API ends a stream."""

SentEvent = Mapping[str, object] | str
"""A JSON object, or `DONE`."""


class EventStream(Response):
    """Sends events as they come; closes the source when the client disconnects or stalls.

    `stack` holds the source's uploads; it is always closed, after the source.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AsyncGenerator[SentEvent, None],
        stack: AsyncExitStack,
        *,
        send_timeout: float = SEND_TIMEOUT,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        super().__init__(
            media_type=self.media_type,
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._source = source
        self._stack = stack
        self._send_timeout = send_timeout
        self._heartbeat = heartbeat

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack, aclosing(self._source):
            try:
                await cancel_on_disconnect(receive, self._send(send))
            except Cancelled:
                return
            except TimeoutError:
                logger.info("the client does not read: its stream is closed")

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while (event := await self._next(send)) is not None:
            await self._write(await asyncio.to_thread(_framed, event), send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self, send: Send) -> SentEvent | None:
        """The next event, after a comment for each interval without one; None at the end."""
        coming = asyncio.ensure_future(anext(self._source, None))
        try:
            while not (await asyncio.wait({coming}, timeout=self._heartbeat))[0]:
                await self._write(": ping\n\n", send)
            return coming.result()
        finally:
            coming.cancel()
            await asyncio.wait({coming})

    async def _write(self, text: str, send: Send) -> None:
        async with asyncio.timeout(self._send_timeout):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _framed(event: SentEvent) -> str:
    """An event as it is sent: its type is also its name, for parsers that go by names."""
    if isinstance(event, str):
        return f"data: {event}\n\n"
    data = dump(event)
    return f"event: {event.get('type', 'error')}\ndata: {data}\n\n"


async def transcript_events(
    begun: Awaitable[ResultEvent], events: AsyncGenerator[ResultEvent, None], output: OutputOptions
) -> AsyncGenerator[SentEvent, None]:
    """Yield OpenAI's transcription events for `begun` and `events`; a failure becomes the last.

    The first event is separate, so that its failure can still be answered with a status.
    """
    converted = TranscriptEvents(output)
    try:
        event: ResultEvent | None = await begun
        while event is not None:
            # On a thread: the last event may have megabytes of log probabilities.
            for each in await asyncio.to_thread(list, converted.of(event)):
                yield each
            event = await anext(events, None)
    except ServiceError as error:
        logger.error("the stream ends: %s", error.message, exc_info=error.__cause__)
        yield service_error_body(error)
    yield DONE


class TranscriptEvents:
    """Converts a run's events to OpenAI's streaming events."""

    def __init__(self, output: OutputOptions) -> None:
        self._output = output
        self._silent = True
        self._segment_count = 0
        self._names = SpeakerNames(output.known_speakers)

    def of(self, event: ResultEvent) -> Iterator[Mapping[str, object]]:
        if isinstance(event, WindowDone):
            yield from self._delta(event.transcript)
        elif isinstance(event, SegmentsLabelled):
            yield from self._segments(event.segments)
        else:
            yield done_event(event.transcript, self._output)

    def _delta(self, transcript: WindowTranscript) -> Iterator[Mapping[str, object]]:
        segments = [
            replace(segment, language=segment.language or transcript.language)
            for segment in transcript.segments
        ]
        text = text_delta(segments, first=self._silent)
        if not text:
            return
        self._silent = False
        logprobs = [each for segment in segments for each in segment.logprobs]
        yield delta_event(text, logprobs=logprobs if self._output.logprobs else None)

    def _segments(self, segments: Sequence[Segment]) -> Iterator[Mapping[str, object]]:
        if self._output.format != "diarized_json":
            return
        for segment in segments:
            yield segment_event(segment, self._segment_count, self._names)
            self._segment_count += 1
