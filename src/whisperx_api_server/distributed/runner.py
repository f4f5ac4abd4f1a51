"""The runner of an API replica: workers compute the request, and their events come back.

The request and its recordings go to the bucket, its id to a queue. The end of the run is in the
bucket; its message is only the sign to look there, so that a lost one delays the answer at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal, cast

from ..audio.uploads import BlobStore
from ..domain import Diarization, Transcript, TranscriptionRequest
from ..errors import Unavailable, VersionMismatch
from ..pipeline.events import Emit, Event, WindowDone
from ..pipeline.runner import Checkpoint
from ..text_service import TextRequest
from .files import RunFiles
from .members import PATIENCE, Members
from .membership import read_forever
from .protocols import CaughtUp, Log, Queue
from .wire import (
    CONTROL,
    RUN_EVENT,
    TASK,
    AnyRequest,
    Cancelled,
    End,
    Ended,
    Kind,
    RunEvent,
    Task,
    event_name,
    queue_number,
)

logger = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds without an event after which the end of a run is looked for."""


class RunEvents:
    """The events of the topic `events`, handed to the runs of this process that wait for them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: dict[str, asyncio.Queue[RunEvent]] = {}
        self.ready = asyncio.Event()

    async def read_forever(self) -> None:
        """Read the topic from now on."""
        async for message in read_forever(self._log, "events", since="latest"):
            if isinstance(message, CaughtUp):
                self.ready.set()
            elif message.key in self._waiting and message.value is not None:
                try:
                    event = RUN_EVENT.load(message.value)
                except ValueError as error:  # of a newer version
                    logger.warning("an event of %s is not understood: %s", message.key, error)
                    continue
                self._waiting[message.key].put_nowait(event)

    @asynccontextmanager
    async def of(self, run: str) -> AsyncIterator[asyncio.Queue[RunEvent]]:
        """The events of a run while the context is open."""
        events = self._waiting[run] = asyncio.Queue()
        try:
            yield events
        finally:
            del self._waiting[run]


class KafkaRunner:
    """See `Runner`. `name` is this replica's; a client's requests go to one of the `queues`.

    A run whose call is cancelled is cancelled, except that of a job that another replica has, or
    will have after `leave`.

    Raises, beside the errors of a run:
        Unavailable: no worker is alive, or the broker or the bucket cannot be reached.
    """

    def __init__(
        self,
        *,
        name: str,
        queues: Sequence[Queue],
        log: Log,
        files: RunFiles,
        blobs: BlobStore,
        events: RunEvents,
        members: Members,
    ) -> None:
        self._name = name
        self._queues = queues
        self._log = log
        self._files = files
        self._blobs = blobs
        self._events = events
        self._members = members
        self._leaving = False
        self._deleting: set[asyncio.Task[None]] = set()

    def leave(self) -> None:
        """Leave the jobs that are under way to the other replicas."""
        self._leaving = True

    async def store(self, request: TranscriptionRequest) -> None:
        """Store a job's request and recordings, so that any replica can run it."""
        await self._files.store(request, "transcribe", self._blobs, replica=self._name)

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        """See `Runner.run`."""
        end = await self._run(request, "transcribe", emit, checkpoint)
        return cast("Transcript", end.unwrap())

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        """See `Runner.diarize`."""
        end = await self._run(request, "diarize", emit, Checkpoint())
        return cast("Diarization", end.unwrap())

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
        """See `Runner.detect_language`."""
        end = await self._run(request, "detect_language", emit, Checkpoint())
        return cast("Mapping[str, float]", end.unwrap())

    async def text(self, request: TextRequest, kind: Literal["translate", "generate"]) -> str:
        """Translate a text, or answer a prompt."""
        return cast("str", (await self._run(request, kind, _unwatched, Checkpoint())).unwrap())

    async def _run(
        self,
        request: AnyRequest,
        kind: Kind,
        emit: Emit,
        checkpoint: Checkpoint,
    ) -> End:
        run = request.id
        self._check_workers(request)
        try:
            async with self._files.in_use(run), self._events.of(run) as events:
                stored = await self._files.request(run) if request.waits else None
                if stored is None:
                    stored = await self._files.store(request, kind, self._blobs, replica=self._name)
                if checkpoint.windows:
                    await self._files.remember(stored, checkpoint.windows.values(), None)
                queue = queue_number(request.client, request.waits, len(self._queues))
                await self._queues[queue].send(TASK.dump(Task(run=run, kind=kind)))
                end = await self._followed(request, events, emit, checkpoint)
        except BaseException:
            if not request.waits or await self._has_job(run):
                await self._cancel(run)
            raise
        if not request.waits:  # a job's are deleted once the job has ended
            deleting = asyncio.create_task(self._files.discard(run))
            self._deleting.add(deleting)
            deleting.add_done_callback(self._deleting.discard)
        return end

    async def _followed(
        self,
        request: AnyRequest,
        events: asyncio.Queue[RunEvent],
        emit: Emit,
        checkpoint: Checkpoint,
    ) -> End:
        """Emit the events of a run, each once, until its end.

        An attempt that resumes repeats the events of the one before it.
        """
        places: Counter[str] = Counter()
        looked: End | None = None
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    message = await events.get()
            except TimeoutError:
                if looked is not None:  # its message does not come any more
                    return looked
                self._check_workers(request)
                # Events that are late come before the message of the end.
                looked = await self._end(request.id)
                continue
            event = message.event
            if isinstance(event, Ended):
                end = await self._end(request.id)
                if end is not None:
                    return end
                continue
            name = event_name(event)
            if message.place != places[name]:
                continue
            places[name] += 1
            if isinstance(event, WindowDone):
                transcript = event.transcript
                checkpoint.windows[transcript.window_index] = transcript
            await emit(event)

    async def _end(self, run: str) -> End | None:
        try:
            return await self._files.end(run)
        except Unavailable as error:  # it is looked for again
            logger.warning("the end of run %s cannot be read: %s", run, error.message)
            return None
        except ValueError as error:
            logger.error("the end of run %s is of another version: %s", run, error)
            raise VersionMismatch(
                "the answer is of another version of the server: send the request again"
            ) from None

    def _check_workers(self, request: AnyRequest) -> None:
        """See whether a request that does not wait would be computed.

        Raises:
            Unavailable: it would not.
        """
        if not request.waits and self._members.without_workers() > PATIENCE:
            raise Unavailable("no worker is running: start one, or try later", retry_after=PATIENCE)

    async def _has_job(self, run: str) -> bool:
        """Whether the run of a job is still this replica's to cancel."""
        if self._leaving:
            return False
        try:
            return await self._files.owner(run) in (self._name, None)
        except Unavailable as error:
            logger.warning("run %s is not cancelled: %s", run, error.message)
            return False

    async def _cancel(self, run: str) -> None:
        cancelled = CONTROL.dump(Cancelled(run=run))
        try:
            await self._log.append("control", run, cancelled)
        except Unavailable as error:
            logger.warning("run %s is not cancelled: %s", run, error.message)
        await self._files.discard(run)


async def _unwatched(event: Event) -> None:
    """Take an event that no client sees."""
