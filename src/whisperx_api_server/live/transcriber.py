"""Decodes the windows of one live session, one at a time, and sends what becomes certain."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from ..backends.base import CLEAR_LANGUAGE
from ..domain import SAMPLE_RATE, DecodeOptions, Window, WindowTranscript
from ..errors import ServiceError
from ..formats.openai_json import error_detail, token_logprobs
from ..pipeline.stages import Engines, Transcribing
from ..pipeline.supported import check_options
from .audio import SampleBuffer
from .events import (
    Completed,
    Delta,
    DurationUsage,
    Failed,
    ServerEvent,
)
from .items import Decoding, Item, ItemOptions, LiveWindow

logger = logging.getLogger(__name__)

CLEAR_SECONDS = 2 * SAMPLE_RATE
"""Samples from which on the language of a window that goes on is taken as its own."""

DRAFT_BEAM = 1
"""Beam of the decodings of speech that goes on: greedy, as they are to be quick."""

Send = Callable[[ServerEvent], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveRequest:
    """A live session, as the stages see it; see `EngineRequest`."""

    id: str
    client: str
    model: str
    decode: DecodeOptions
    batch_size: int | None = None
    watched: bool = True


class LiveTranscriber:
    """Decodes closed windows in order, and the one that grows whenever the lane has answered.

    So a session never has two windows in the lane's queue. A draft that waits there gives its place
    to one of the newest audio, and a decoding that a closed or cleared window has made useless
    leaves the queue.
    """

    def __init__(
        self,
        session_id: str,
        client: str,
        *,
        engines: Callable[[LiveRequest], Engines],
        buffer: SampleBuffer,
        send: Send,
    ) -> None:
        self._session_id = session_id
        self._client = client
        self._engines = engines
        self._buffer = buffer
        self._send = send
        self._queue: deque[LiveWindow | Item] = deque()  # an item stands for its end
        self._growing: LiveWindow | None = None
        self._changed = asyncio.Event()
        self._answered = asyncio.Event()
        self._language: str | None = None  # of the item before
        self._flight: tuple[Decoding, asyncio.Task[WindowTranscript]] | None = None
        self._leases = AsyncExitStack()
        self._leased: tuple[str, Transcribing] | None = None

    # -- called by the listener ---------------------------------------------------------------

    def grow(self, window: LiveWindow | None) -> None:
        """Note that the window that is open has grown, or that none is open."""
        self._growing = window
        self._cancel_if_stale()
        self._renew()
        self._changed.set()

    def close(self, window: LiveWindow) -> None:
        """Decode a window that will not grow any more."""
        self._growing = None
        self._queue.append(window)
        self._answered.clear()
        self._cancel_if_stale()
        self._changed.set()

    def end(self, item: Item) -> None:
        """Answer an item once all its windows, which are closed, are decoded."""
        self._queue.append(item)
        self._answered.clear()
        self._changed.set()

    def abandon(self, item: Item) -> None:
        """Drop an item, which its client cleared."""
        item.abandoned = True
        self._growing = None
        self._cancel_if_stale()
        self._changed.set()

    async def until_answered(self) -> None:
        """Wait until all items that ended are answered."""
        await self._answered.wait()

    @property
    def waiting(self) -> int:
        """Samples in closed windows that are not decoded yet."""
        windows = (each for each in self._queue if isinstance(each, LiveWindow))
        return sum(each.span.end - each.span.first for each in windows)

    @property
    def first_needed(self) -> int:
        """The first sample that is still to be decoded."""
        windows = [each for each in (*self._queue, self._growing) if isinstance(each, LiveWindow)]
        return min((each.span.first for each in windows), default=self._buffer.end)

    def _cancel_if_stale(self) -> None:
        """Take the decoding that is under way off its lane if it is stale."""
        if self._flight is not None and self._flight[0].is_stale:
            self._flight[1].cancel()

    def _renew(self) -> None:
        """Let the newest audio of a window take the place of its draft that waits on the lane."""
        if self._flight is None or self._leased is None or not self._leased[1].waits:
            return
        waiting = self._flight[0]
        if waiting.is_outdated:
            self._start(waiting.window.decoding)

    # -- the transcriber's own task -----------------------------------------------------------

    async def run(self, options: ItemOptions) -> None:
        """Decode until cancelled; the model of `options` is loaded at once."""
        async with self._leases:
            try:
                await self._engine(options)
            except ServiceError as error:  # each item that needs the model will say so
                logger.warning("the model of a live session cannot be used: %s", error.message)
            while True:
                work = self._next()
                if work is None:
                    if not self._queue:
                        self._answered.set()
                    self._changed.clear()
                    await self._changed.wait()
                elif isinstance(work, Item):
                    self._queue.popleft()
                    await self._answer(work)
                else:
                    await self._decode(work)

    def _next(self) -> LiveWindow | Item | None:
        while self._queue:
            first = self._queue[0]
            item = first if isinstance(first, Item) else first.item
            if not item.abandoned:
                return first
            self._queue.popleft()
        growing = self._growing
        return growing if growing is not None and growing.is_due else None

    async def _decode(self, window: LiveWindow) -> None:
        """Decode a window as it is now, unless that has been done, and send what is certain."""
        if window.span.closed and window.final is not None:
            await self._take(window.decoding, window.final)
            return
        decoding, flight = await self._decode_newest(window.decoding)
        if flight.cancelled():
            return
        try:
            transcript = flight.result()
        except ServiceError as error:
            self._note_failure(decoding, error)
            return
        if not decoding.is_stale:
            await self._take(decoding, transcript)

    def _note_failure(self, decoding: Decoding, error: ServiceError) -> None:
        """Fail the item if the decoding was the last one of its window."""
        window = decoding.window
        if decoding.is_stale:
            return
        if window.span.closed:
            self._queue.popleft()
            window.item.error = window.item.error or error
        else:
            window.skip(decoding.end)
            logger.info("a partial transcript failed: %s", error.message)

    async def _take(self, decoding: Decoding, transcript: WindowTranscript) -> None:
        window, end = decoding.window, decoding.end
        clear = not 0 < transcript.language_probability < CLEAR_LANGUAGE
        if window.span.closed:
            self._queue.popleft()
            if clear and transcript.segments:
                self._language = transcript.language
            delta = window.finish(transcript)
        else:
            if clear and end - window.span.first >= CLEAR_SECONDS and transcript.segments:
                window.language = transcript.language
            if not clear or (decoding.draft and not transcript.segments):
                window.skip(end)
                return
            delta = window.hear(transcript, end, draft=decoding.draft)
        if delta:
            await self._send(Delta(item_id=window.item.id, delta=delta))

    def _start(self, decoding: Decoding) -> None:
        """Start a decoding, in place of the one that is under way."""
        before = self._flight
        self._flight = decoding, asyncio.ensure_future(self._transcribe(decoding))
        if before is not None:  # it leaves the queue later, so the session keeps its turn
            before[1].cancel()

    async def _decode_newest(
        self, decoding: Decoding
    ) -> tuple[Decoding, asyncio.Task[WindowTranscript]]:
        """Run a decoding, or those that take its place; the last one, and its task, which ended."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        self._start(decoding)
        ended = None
        try:
            while ended is not self._flight:
                ended = self._flight
                assert ended is not None
                await asyncio.wait({ended[1]})
        finally:
            newest, self._flight = self._flight, None
            assert newest is not None
            newest[1].cancel()
        if decoding.draft:
            decoding.window.took(clock() - begun)
        return newest

    async def _transcribe(self, decoding: Decoding) -> WindowTranscript:
        window, end = decoding.window, decoding.end
        options = window.item.options
        engine = await self._engine(options)
        decode = check_options(options.model, options.decode, engine.capabilities)
        if decode.language is None and window.language is not None:
            decode = replace(decode, language=window.language)
        if decoding.draft:
            decode = replace(decode, draft=True, beam_size=DRAFT_BEAM, logprobs=False)
        span = window.span
        audio = Window(
            request_id=self._session_id,
            index=window.index,
            start=span.first / SAMPLE_RATE,
            end=end / SAMPLE_RATE,
            samples=self._buffer.copy(span.first, end),
            regions=tuple(span.regions),
        )
        if not engine.capabilities.accepts(audio):
            return WindowTranscript(
                window_index=window.index,
                language=decode.language or "en",
                language_probability=0.0,
                segments=(),
            )
        transcript = await engine.transcribe(audio, decode, urgent=not decoding.draft)
        unclear = 0 < transcript.language_probability < CLEAR_LANGUAGE
        known = self._language
        if span.closed and unclear and decode.language is None and known is not None:
            again = replace(decode, language=known)
            return await engine.transcribe(audio, again, repeated=True, urgent=True)
        return transcript

    async def _engine(self, options: ItemOptions) -> Transcribing:
        """The leased model of an item; the one before is given back if it is another."""
        if self._leased is None or self._leased[0] != options.model:
            self._leased = None
            await self._leases.aclose()
            transcriber = self._engines(self._request(options)).transcriber()
            engine = await self._leases.enter_async_context(transcriber)
            self._leases.enter_context(engine.lane.live())
            self._leased = options.model, engine
        return self._leased[1]

    def _request(self, options: ItemOptions) -> LiveRequest:
        return LiveRequest(
            id=self._session_id, client=self._client, model=options.model, decode=options.decode
        )

    async def _answer(self, item: Item) -> None:
        if item.error is not None:
            error = item.error
            await self._send(Failed(item_id=item.id, error=error_detail(error.failure())))
            return
        await self._send(
            Completed(
                item_id=item.id,
                transcript=item.transcript,
                languages=[{"code": item.language}] if item.language else [],
                logprobs=token_logprobs(item.logprobs) if item.options.decode.logprobs else None,
                usage=DurationUsage(seconds=round(item.seconds, 3)),
            )
        )
