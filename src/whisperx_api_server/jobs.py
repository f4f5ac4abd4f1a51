"""Transcription as a service: what the routers call, wherever the work is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from .domain import Diarization, Source, Transcript, TranscriptionRequest, WindowTranscript
from .errors import ShuttingDown
from .pipeline import Observer, Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """The next window of a stream, in order; all is transcribed up to `until` seconds."""

    transcript: WindowTranscript
    until: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of a stream: everything, speakers included."""

    transcript: Transcript


class TranscriptionService(Protocol):
    """What can be asked for; `LocalService` does it in this process."""

    async def run(
        self, request: TranscriptionRequest, observer: Observer | None = None
    ) -> Transcript:
        """The transcript. Cancelling the call withdraws the request."""
        ...

    def stream(self, request: TranscriptionRequest) -> AsyncGenerator[Heard | Finished, None]:
        """The windows as they are done, then everything. Closing it withdraws the request."""
        ...

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """Who speaks when, without a transcript."""
        ...


class LocalService:
    """Runs requests in this process, and sees them through when the server shuts down."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self._active

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the server shuts down."""
        return self._draining

    def check_open(self) -> None:
        """See whether new requests are taken, before their upload is read.

        Raises:
            ShuttingDown: no.
        """
        if self._draining:
            raise ShuttingDown("the server is shutting down; try again shortly", retry_after=5)

    async def drain(self, grace: float) -> bool:
        """Refuse what is new and wait for what is under way; whether all of it was finished.

        Only the first call waits: what its grace did not suffice for gets no second one.
        """
        if self._draining:
            return not self._active
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout=grace)
        except TimeoutError:
            logger.warning("%d request(s) did not finish within %g s", self._active, grace)
            return False
        return True

    async def run(
        self, request: TranscriptionRequest, observer: Observer | None = None
    ) -> Transcript:
        """See `TranscriptionService.run`."""
        with self._accepted():
            return await self._pipeline.run(request, observer)

    async def stream(self, request: TranscriptionRequest) -> AsyncGenerator[Heard | Finished, None]:
        """See `TranscriptionService.stream`."""
        events: asyncio.Queue[Heard | None] = asyncio.Queue()
        with self._accepted():
            running = asyncio.create_task(self._pipeline.run(request, _Forwarder(events)))
            running.add_done_callback(lambda _: events.put_nowait(None))
            try:
                while (event := await events.get()) is not None:
                    yield event
                yield Finished(transcript=await running)
            finally:
                running.cancel()
                await asyncio.wait([running])

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """See `TranscriptionService.diarize`."""
        with self._accepted():
            return await self._pipeline.diarize(request_id, client, source)

    @contextmanager
    def _accepted(self) -> Iterator[None]:
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()


class _Forwarder(Observer):
    def __init__(self, events: asyncio.Queue[Heard | None]) -> None:
        self._events = events

    def heard(self, transcript: WindowTranscript, until: float) -> None:
        self._events.put_nowait(Heard(transcript=transcript, until=until))
