"""Transcription as a service: what the routers call, wherever the work is done."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Hashable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from .domain import (
    Diarization,
    Job,
    JobError,
    OutputOptions,
    Source,
    Transcript,
    TranscriptionRequest,
    UploadedFile,
)
from .errors import Cancelled, Conflict, NotFound, ServiceError, ShuttingDown
from .job_store import JobStore
from .pipeline import Pipeline
from .runs import Finished, Heard, Progress, Run, Runs
from .webhooks import Webhooks

logger = logging.getLogger(__name__)

_SAME = UploadedFile(path=Path(), filename="")


class TranscriptionService(Protocol):
    """What can be asked for; `LocalService` does it in this process."""

    async def run(self, request: TranscriptionRequest, *, retry: bool = False) -> Transcript:
        """The transcript. Cancelling the call withdraws the request.

        `retry`: the client says that it sent the same before, and got no answer.
        """
        ...

    def stream(
        self, request: TranscriptionRequest, *, retry: bool = False
    ) -> AsyncGenerator[Heard | Finished, None]:
        """The windows as they are done, then everything. Closing it withdraws the request."""
        ...

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """Who speaks when, without a transcript."""
        ...

    async def submit(
        self,
        request: TranscriptionRequest,
        output: OutputOptions,
        resources: AsyncExitStack,
        callback_url: str | None = None,
    ) -> Job:
        """Start a job; `resources` (its uploads) are closed at its end."""
        ...

    def job(self, job_id: str, client: str) -> Job: ...

    def watch(self, job_id: str, client: str) -> AsyncGenerator[Job, None]:
        """The job, now and after each change, to its end."""
        ...

    async def result(self, job_id: str, client: str) -> Transcript: ...

    async def cancel(self, job_id: str, client: str) -> Job:
        """Withdraw a job that is under way, or delete one that has ended."""
        ...


@dataclass(kw_only=True, slots=True, eq=False)
class _Record:
    job: Job
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class LocalService:
    """Runs requests in this process, and sees them through when the server shuts down."""

    def __init__(
        self, pipeline: Pipeline, *, store: JobStore, webhooks: Webhooks, retry_window: float
    ) -> None:
        self._pipeline = pipeline
        self._runs = Runs(pipeline, retry_window=retry_window)
        self._sharing = retry_window > 0
        self._store = store
        self._webhooks = webhooks
        self._records: dict[str, _Record] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    # -- accepting ----------------------------------------------------------------------------

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

    async def start(self) -> None:
        """Take up the jobs on disk: what was under way when the last process ended has failed."""
        for job in await asyncio.to_thread(self._store.load):
            if not job.ended:
                job = replace(
                    job,
                    state="failed",
                    finished_at=time.time(),
                    error=JobError(
                        message="the server was restarted before the job was done: submit it again",
                        type="server_error",
                        code="interrupted",
                    ),
                )
                await asyncio.to_thread(self._store.save, job)
            self._records[job.id] = _Record(job=job)
            self._notify(job)
        await self._prune()

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

    async def close(self) -> None:
        """End the jobs that are still under way, and the deliveries; the next start resumes those.

        Jobs that are ended here stay unfinished on disk, so the next start says why they failed.
        """
        tasks = [record.task for record in self._records.values() if record.task]
        tasks += self._deliveries
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- answering at once --------------------------------------------------------------------

    async def run(self, request: TranscriptionRequest, *, retry: bool = False) -> Transcript:
        """See `TranscriptionService.run`."""
        with self.accepted():
            identity = await self._identity(request)
            async with self._runs.join(request, identity, retry=retry) as run:
                return await run.result()

    async def stream(
        self, request: TranscriptionRequest, *, retry: bool = False
    ) -> AsyncGenerator[Heard | Finished, None]:
        """See `TranscriptionService.stream`."""
        with self.accepted():
            identity = await self._identity(request)
            async with (
                self._runs.join(request, identity, retry=retry) as run,
                aclosing(run.events()) as events,
            ):
                async for event in events:
                    yield event

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """See `TranscriptionService.diarize`."""
        with self.accepted():
            return await self._pipeline.diarize(request_id, client, source)

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Count a request as under way: a shutdown waits for it."""
        self._active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _identity(self, request: TranscriptionRequest) -> Hashable | None:
        """Equal for requests of one client that ask the same about the same content."""
        if not self._sharing or not isinstance(request.source, UploadedFile):
            return None
        known = request.diarize.known_speakers if request.diarize else ()
        paths = [request.source.path, *(speaker.reference for speaker in known)]
        digests = await asyncio.to_thread(lambda: tuple(_digest(path) for path in paths))
        diarize = request.diarize and replace(request.diarize, known_speakers=())
        names = tuple(speaker.name for speaker in known)
        return digests, names, replace(request, id="", source=_SAME, diarize=diarize)

    # -- jobs ---------------------------------------------------------------------------------

    async def submit(
        self,
        request: TranscriptionRequest,
        output: OutputOptions,
        resources: AsyncExitStack,
        callback_url: str | None = None,
    ) -> Job:
        """See `TranscriptionService.submit`."""
        if callback_url is not None:
            await self._webhooks.check(callback_url)
        job = Job(
            id=request.id,
            client=request.client,
            state="queued",
            submitted_at=time.time(),
            output=output,
            callback_url=callback_url,
            notified=callback_url is None,
        )
        await asyncio.to_thread(self._store.save, job)
        record = self._records[job.id] = _Record(job=job)
        record.task = asyncio.create_task(self._see_through(record, request, resources.pop_all()))
        return job

    def job(self, job_id: str, client: str) -> Job:
        """See `TranscriptionService.job`.

        Raises:
            NotFound: no such job, or another client's.
        """
        return self._record(job_id, client).job

    async def watch(self, job_id: str, client: str) -> AsyncGenerator[Job, None]:
        """See `TranscriptionService.watch`."""
        record = self._record(job_id, client)
        while True:
            changed = record.changed
            yield record.job
            if record.job.ended:
                return
            await changed.wait()

    async def result(self, job_id: str, client: str) -> Transcript:
        """See `TranscriptionService.result`.

        Raises:
            NotFound: no such job, or what it gave is gone.
            Conflict: it is not done, or has failed.
        """
        job = self._record(job_id, client).job
        if job.error is not None:
            raise Conflict(f"the job failed: {job.error.message}")
        if job.state != "completed":
            raise Conflict(f"the job has no result: it is {job.state}")
        transcript = await asyncio.to_thread(self._store.transcript, job_id)
        if transcript is None:
            raise NotFound("the job's result is no longer kept")
        return transcript

    async def cancel(self, job_id: str, client: str) -> Job:
        """See `TranscriptionService.cancel`."""
        record = self._record(job_id, client)
        if not record.job.ended and record.task is not None:
            record.task.cancel(_WITHDRAWN)
            await asyncio.wait([record.task])
        else:
            del self._records[job_id]
            await asyncio.to_thread(self._store.delete, job_id)
        return record.job

    def _record(self, job_id: str, client: str) -> _Record:
        record = self._records.get(job_id)
        if record is None or record.job.client != client:
            raise NotFound("there is no such transcription")
        return record

    async def _see_through(
        self, record: _Record, request: TranscriptionRequest, resources: AsyncExitStack
    ) -> None:
        """Run a job to its end, whatever that is, and tell of it."""
        try:
            async with resources:
                with self.accepted():
                    identity = await self._identity(request)
                    async with self._runs.join(request, identity) as run:
                        async with aclosing(run.changes()) as changes:
                            async for progress in changes:
                                self._show(record, run, progress)
                        transcript = await run.result()
                        await asyncio.to_thread(self._store.save_transcript, request.id, transcript)
            await self._end(record, replace(record.job, state="completed", progress=1.0))
        except ServiceError as error:
            failure = JobError(
                message=error.message, type=error.type, code=error.code, param=error.param
            )
            await self._end(record, replace(record.job, state="failed", error=failure))
        except Cancelled:
            await self._end(record, replace(record.job, state="cancelled"))
        except asyncio.CancelledError as error:
            if error.args != (_WITHDRAWN,):
                raise  # the server ends: the next start finds the job unfinished
            await self._end(record, replace(record.job, state="cancelled"))

    def _show(self, record: _Record, run: Run, progress: Progress) -> None:
        """Update a job from its run."""
        now, since, part = time.time(), progress.transcribing_since, progress.part
        eta = None
        if since is not None and part > 0:
            eta = max(0.0, (now - since) * (1 - part) / part)
        self._change(
            record,
            replace(
                record.job,
                state="running" if progress.stages else "queued",
                stages=progress.stages,
                duration=progress.duration,
                progress=part,
                eta=eta,
                queue_position=0 if progress.reached else self._runs.position(run),
            ),
        )

    async def _end(self, record: _Record, job: Job) -> None:
        now = time.time()
        stages = tuple(
            each if each.finished_at else replace(each, finished_at=now) for each in job.stages
        )
        job = replace(job, finished_at=now, eta=None, queue_position=0, stages=stages)
        await asyncio.to_thread(self._store.save, job)
        self._change(record, job)
        logger.info("job %s: %s", job.id, job.state)
        self._notify(job)
        await self._prune()

    def _change(self, record: _Record, job: Job) -> None:
        record.job = job
        record.changed, changed = asyncio.Event(), record.changed
        changed.set()

    async def _prune(self) -> None:
        jobs = [record.job for record in self._records.values()]
        for job in self._store.surplus(jobs, time.time()):
            self._records.pop(job.id, None)
            await asyncio.to_thread(self._store.delete, job.id)

    # -- webhooks -----------------------------------------------------------------------------

    def _notify(self, job: Job) -> None:
        if job.callback_url is None or job.notified:
            return
        delivery = asyncio.create_task(self._deliver(job, job.callback_url))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def _deliver(self, job: Job, url: str) -> None:
        event = {
            "id": f"evt_{job.id}",
            "object": "event",
            "type": f"transcription.{job.state}",
            "created_at": int(job.finished_at or 0),
            "data": job_object(job),
        }
        await self._webhooks.deliver(url, f"evt_{job.id}", event)
        record = self._records.get(job.id)
        if record is not None:
            record.job = replace(record.job, notified=True)
            await asyncio.to_thread(self._store.save, record.job)


_WITHDRAWN = "withdrawn"
"""Tells a job's task that it is cancelled because its client wants so."""


def job_object(job: Job) -> dict[str, Any]:
    """A job as its client reads it: in the status, in events and in the webhook."""
    base = f"/v1/audio/transcriptions/{job.id}"
    return {
        "request_id": job.id,
        "status": job.state,
        "status_url": f"{base}/status",
        "events_url": f"{base}/events",
        "result_url": f"{base}/result",
        "submitted_at": round(job.submitted_at, 3),
        "finished_at": None if job.finished_at is None else round(job.finished_at, 3),
        "duration": job.duration,
        "percent": round(100 * job.progress, 1),
        "eta_seconds": None if job.eta is None else round(job.eta, 1),
        "queue_position": job.queue_position,
        "stages": [
            {
                "name": stage.name,
                "started_at": round(stage.started_at, 3),
                "finished_at": None if stage.finished_at is None else round(stage.finished_at, 3),
            }
            for stage in job.stages
        ],
        "error": None
        if job.error is None
        else {
            "message": job.error.message,
            "type": job.error.type,
            "param": job.error.param,
            "code": job.error.code,
        },
    }


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
