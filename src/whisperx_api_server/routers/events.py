"""Server-sent events: transcripts as they grow."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..domain import OutputOptions
from ..errors import ServiceError
from ..formats import delta_event, done_event, letters, segment_event, text_delta
from ..runs import Finished, Heard
from .errors import service_error_body

logger = logging.getLogger(__name__)

STALLED = 60.0
"""Seconds that a client may leave an event unread before it counts as gone."""

DONE = "[DONE]"
"""The last event's data, as OpenAI's API ends a stream."""


class EventStream(Response):
    """Sends events as they come; when the client leaves, or reads no more, the source is closed.

    `stack` holds what the source needs (uploads); it is closed after the source in any case.
    """

    media_type = "text/event-stream"

    def __init__(
        self, source: AsyncGenerator[dict[str, Any] | str, None], stack: AsyncExitStack
    ) -> None:
        super().__init__(
            media_type=self.media_type,
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._source = source
        self._stack = stack

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack, aclosing(self._source):
            sending = asyncio.create_task(self._send(send))
            gone = asyncio.create_task(_until_disconnected(receive))
            try:
                await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, gone):
                    task.cancel()
                await asyncio.wait({sending, gone})
            if not sending.cancelled() and (error := sending.exception()):
                if isinstance(error, TimeoutError):
                    logger.info("the client reads no more: its stream is closed")
                else:
                    raise error

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._source:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            async with asyncio.timeout(STALLED):
                await send(
                    {
                        "type": "http.response.body",
                        "body": f"data: {data}\n\n".encode(),
                        "more_body": True,
                    }
                )
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def started(
    events: AsyncGenerator[Heard | Finished, None],
) -> AsyncGenerator[Heard | Finished, None]:
    """The same events, once the first is there: what fails before it can still get a status.

    Raises:
        ServiceError: the request failed before anything was heard.
    """
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise

    async def rest() -> AsyncGenerator[Heard | Finished, None]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    return rest()


async def transcript_events(
    events: AsyncGenerator[Heard | Finished, None], output: OutputOptions
) -> AsyncGenerator[dict[str, Any] | str, None]:
    """OpenAI's transcription events; a failure is an error event, and the stream ends."""
    first = True
    async with aclosing(events):
        try:
            async for event in events:
                if isinstance(event, Heard):
                    segments = event.transcript.segments
                    delta = text_delta(segments, first=first)
                    if not delta:
                        continue
                    first = False
                    logprobs = [each for segment in segments for each in segment.logprobs]
                    yield delta_event(delta, logprobs=logprobs if output.logprobs else None)
                    continue
                if output.format == "diarized_json":
                    spoken = event.transcript.segments
                    names = letters(segment.speaker for segment in spoken)
                    for index, segment in enumerate(spoken):
                        yield segment_event(segment, index, names)
                yield done_event(event.transcript, output)
        except ServiceError as error:
            logger.error("the stream ends: %s", error.message, exc_info=error.__cause__)
            yield service_error_body(error)
    yield DONE
