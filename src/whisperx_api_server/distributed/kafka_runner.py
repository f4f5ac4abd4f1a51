"""The runner of an API replica: workers compute the request, and their events come back.

The request and its recordings go to the bucket, its id to a queue. The end of the run is in the
bucket, and so are its events; messages are only the sign to look there, so that a lost one delays
the answer at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Literal, cast
from uuid import uuid4

from ..audio.uploads import BlobStore
from ..background import BackgroundTasks
from ..domain import Diarization, Transcript, TranscriptionRequest
from ..errors import Unavailable, VersionMismatch
from ..pipeline.events import Emit, Event
from ..pipeline.runner import Checkpoint
from ..text_service import TextRequest
from .files import RunFiles
from .members import PATIENCE, Members
from .notices import EventReader, Following, Gone, Received, RunNotices
from .protocols import Log, Queue
from .retries import until_available
from .stored import AnyRequest, End, PublishedEvent, memory_name
from .topics import QueueChoice
from .wire import CONTROL, TASK, Cancelled, Followed, Kind, Notice, Task

logger = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds without a notice after which the bucket is looked at."""


class KafkaRunner:
    """See `Runner`. `name` is this replica's; a client's requests go to one of the `queues`.

    Cancelling a call cancels its run, unless it is a job that another replica has, or takes over
    after `leave`.

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
        notices: RunNotices,
        members: Members,
    ) -> None:
        self._name = name
        self._queues = queues
        self._choice = QueueChoice(len(queues))
        self._log = log
        self._files = files
        self._blobs = blobs
        self._notices = notices
        self._members = members
        self._leaving = False
        self._later = BackgroundTasks()

    def leave(self) -> None:
        """Leave the jobs that are under way to the other replicas."""
        self._leaving = True

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        end = await self._run(request, "transcribe", emit, checkpoint)
        return cast("Transcript", end.unwrap())

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        end = await self._run(request, "diarize", emit, Checkpoint())
        return cast("Diarization", end.unwrap())

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
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
        with self._choice.of(request.client, request.waits) as number:
            return await self._run_in(self._queues[number], request, kind, emit, checkpoint)

    async def _run_in(
        self,
        queue: Queue,
        request: AnyRequest,
        kind: Kind,
        emit: Emit,
        checkpoint: Checkpoint,
    ) -> End:
        """Run a request, or join an equal one of another replica; anew if that is gone."""
        self._check_workers(request)
        received = Received(emit=emit, checkpoint=checkpoint, reader=EventReader(self._files))
        job = request.id if request.waits else None
        memory = memory_name(request, kind)
        shares = bool(self._files.retry_window) and job is None and memory != request.id
        joined = self._notices.equal(memory) if shares else None
        while True:
            run = joined or request.id
            try:
                async with self._owned(run, job) as following:
                    begin = (
                        partial(self._join, run, memory, following)
                        if joined is not None
                        else partial(
                            self._begin, request, kind, queue, following, checkpoint, memory
                        )
                    )
                    await (until_available(begin) if request.waits else begin())
                    return await self._followed(request, run, following, received)
            except Gone:
                logger.info("run %s is gone: request %s begins anew", run, request.id)
                self._notices.forget(run)
                if joined is None:
                    request = replace(request, id=uuid4().hex)
                joined = None

    @asynccontextmanager
    async def _owned(self, run: str, job: str | None) -> AsyncIterator[Following]:
        """Follow a run; then delete it, or cancel it after an error, unless others see to it."""
        async with self._notices.of(run, self._name) as following:
            try:
                async with self._files.in_use(run):
                    yield following
            except Gone:
                raise
            except BaseException:
                if run == job:
                    if not self._leaving:
                        self._later.start(self._cancel_job(run))
                elif following.owner == self._name:
                    await self._cancel(run)
                raise
            if run != job and following.owner == self._name:  # a job's go once the job has ended
                self._later.start(self._delete(run, LOOK * following.joined))

    async def _delete(self, run: str, delay: float) -> None:
        """Delete a run that has ended, after the other replicas that share it have read its end."""
        await asyncio.sleep(delay)
        await self._files.discard(run)

    async def _begin(
        self,
        request: AnyRequest,
        kind: Kind,
        queue: Queue,
        following: Following,
        checkpoint: Checkpoint,
        memory: str,
    ) -> None:
        """Queue a run; that of a job is queued again by the replica that takes up the job."""
        run = request.id
        stored = await self._files.request(run) if request.waits else None
        if stored is not None:  # a replica that is gone may have had the job
            await self._poll_bucket(run, following)
        else:
            stored = await self._files.store(request, kind, self._blobs, replica=self._name)
        if checkpoint.windows:
            await self._files.remember(stored, checkpoint.windows.values(), None)
        sending = queue.send(TASK.dump(Task(run=run, kind=kind)))
        if request.waits or memory == run:
            await sending
        else:
            await asyncio.gather(sending, self._tell(run, memory))

    async def _join(self, run: str, memory: str, following: Following) -> None:
        """Share a run of another replica.

        Raises:
            Gone: it has ended, or another version of the server has it.
        """
        try:
            if not await self._files.join(run, self._name):
                raise Gone
        except ValueError as error:
            raise Gone from error
        following.joined = True
        await self._tell(run, memory)
        await self._poll_bucket(run, following)

    async def _tell(self, run: str, memory: str) -> None:
        message = Followed(run=run, memory=memory, replica=self._name)
        await self._log.append("control", run, CONTROL.dump(message))

    async def _followed(
        self,
        request: AnyRequest,
        run: str,
        following: Following,
        received: Received,
    ) -> End:
        """Take the events of a run until its end; waits while the bucket is away.

        Raises:
            Gone: the run was cancelled or deleted before.
        """
        while True:
            try:
                async with asyncio.timeout(LOOK):
                    notice = await following.notices.get()
            except TimeoutError:
                self._check_workers(request)
                await self._poll_bucket(run, following)
                continue
            if notice is None:
                raise Gone
            events, end = await self._read(notice, received.reader)
            await received.take(events)
            if end is not None:
                return end

    async def _poll_bucket(self, run: str, following: Following) -> None:
        """Queue notices of a run's objects in the bucket, because a message may have been lost.

        Raises:
            Gone: nothing of the run is there.
        """
        found = await until_available(partial(self._files.notices, run))
        if not found:
            raise Gone
        for notice in found:
            following.notices.put_nowait(notice)

    async def _read(
        self, notice: Notice, reader: EventReader
    ) -> tuple[list[PublishedEvent], End | None]:
        """The events of a notice that are new, and the end."""
        return await asyncio.gather(
            until_available(partial(reader.read, notice)),
            self._end(notice.run) if notice.ended else _none(),
        )

    async def _end(self, run: str) -> End | None:
        try:
            return await until_available(partial(self._files.end, run))
        except ValueError as error:
            logger.error("the end of run %s is of another version: %s", run, error)
            raise VersionMismatch(
                "a worker of another version wrote the result: upgrade all workers and "
                "replicas, and send the request again"
            ) from None

    def _check_workers(self, request: AnyRequest) -> None:
        """See whether a request that does not wait would be computed.

        Raises:
            Unavailable: it would not.
        """
        if not request.waits and self._members.without_workers() > PATIENCE:
            raise Unavailable("no worker is running: start one, or try later", retry_after=PATIENCE)

    async def _cancel_job(self, run: str) -> None:
        """Cancel the run of a job, once that is possible, unless another replica has the job."""
        owner = await until_available(partial(self._files.owner, run))
        if owner in (self._name, None):
            await until_available(partial(self._say_cancelled, run))
            await self._files.discard(run)

    async def _cancel(self, run: str) -> None:
        try:
            await self._say_cancelled(run)
        except Unavailable as error:
            logger.warning("run %s is not cancelled: %s", run, error.message)
        await self._files.discard(run)

    async def _say_cancelled(self, run: str) -> None:
        await self._log.append("control", run, CONTROL.dump(Cancelled(run=run)))


async def _none() -> None:
    """Stand in for what is not asked for."""


async def _unwatched(event: Event) -> None:
    """Take an event that no client sees."""
