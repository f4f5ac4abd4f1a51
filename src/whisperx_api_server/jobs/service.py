"""The service behind the routers: runs, streams and jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from typing import get_args

from .. import logging_setup
from ..active_requests import ActiveRequests
from ..audio.uploads import BlobStore
from ..domain import (
    AlignMode,
    Diarization,
    DiarizeOptions,
    Job,
    JobState,
    OutputOptions,
    Source,
    Transcript,
    TranscriptionRequest,
)
from ..errors import Conflict, NotFound, Overloaded, ServiceError, Unavailable
from ..pipeline.events import Event, Opened, ResultEvent, WindowDone
from ..pipeline.runner import Runner
from ..scheduling.tracebacks import released
from . import states as job_states
from .admission import AdmissionControl
from .records import JobRecord, JobRecords
from .run_registry import RunRegistry
from .store import JobSettings, JobStore, SharedJobStore
from .watching import POLL_INTERVAL, JobWatch
from .webhooks import Webhooks

logger = logging.getLogger(__name__)

CANCEL_WAIT = 10.0
"""Seconds for which a cancellation waits until a shared store has the end of the job."""

PRUNE_INTERVAL = 60.0
"""Seconds between two sweeps of jobs and results that have grown too old."""


class TranscriptionService:
    """Runs requests and jobs in this process."""

    def __init__(
        self,
        runner: Runner,
        *,
        active: ActiveRequests,
        admission: AdmissionControl,
        blobs: BlobStore,
        store: JobStore,
        shared: SharedJobStore | None = None,
        webhooks: Webhooks,
        settings: JobSettings,
    ) -> None:
        self._runner = runner
        self._active = active
        self._admission = admission
        self._runs = RunRegistry(runner, blobs, retry_window=settings.retry_window)
        self._store = store
        self._shared = shared
        self._webhooks = webhooks
        self._most_jobs = settings.max_count
        self._records = JobRecords(store, webhooks, settings)

    def admit(self, *, retry: bool = False) -> None:
        """Check that a new request would be accepted, before its upload is read.

        The queue is not checked for a `retry`, since it may join a run; a new run checks it.

        Raises:
            ShuttingDown: new requests are not taken.
            Overloaded: the queue is full.
        """
        self._active.ensure_accepting()
        if not retry:
            self._admission.check()

    async def start(self) -> None:
        """Load the stored jobs; those that the last process did not finish become failed.

        Raises:
            ConfigurationError: another server, or another user, has them.
        """
        await self._records.load()
        self._records.in_background(self._prune_forever())

    async def close(self) -> None:
        """Cancel the jobs and the webhook deliveries that are under way.

        The jobs stay unfinished in the store, so the next start marks them as failed. It also
        resumes the deliveries.
        """
        await self._records.close()
        self._store.close()

    # -- answering at once --------------------------------------------------------------------

    async def run(self, request: TranscriptionRequest, *, retry: bool = False) -> Transcript:
        """Return the transcript. Cancelling the call withdraws the request.

        `retry`: the client marks the request as a repetition without an answer so far.
        """
        with self._active.track():
            async with self._runs.join(request, retry=retry) as run:
                return await run.result()

    async def stream(
        self, request: TranscriptionRequest, *, retry: bool = False
    ) -> AsyncGenerator[ResultEvent, None]:
        """Yield the results as they come. Closing the generator withdraws the request."""
        with self._active.track():
            request = replace(request, watched=True)
            async with (
                self._runs.join(request, retry=retry) as run,
                aclosing(run.events()) as events,
            ):
                async for event in events:
                    if isinstance(event, ResultEvent):
                        yield event

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """Return who speaks when, without a transcript."""
        with self._active.track():
            request = TranscriptionRequest(
                id=request_id, client=client, source=source, model="", diarize=DiarizeOptions()
            )
            work = partial(self._runner.diarize, request, _note_length)
            return await released(work, logger, f"diarization {request_id} failed")

    async def detect_language(self, request: TranscriptionRequest) -> Mapping[str, float]:
        """Return the probability of each language in the first speech; empty for silence."""
        with self._active.track():
            return await self._runner.detect_language(request, _note_length)

    # -- jobs ---------------------------------------------------------------------------------

    async def submit(
        self,
        request: TranscriptionRequest,
        output: OutputOptions,
        resources: AsyncExitStack,
        callback_url: str | None = None,
    ) -> Job:
        """Start a job; `resources` (its uploads) are closed at its end.

        Raises:
            Overloaded: too many jobs are under way.
            Unavailable: the job cannot be stored.
            ServiceError: `callback_url` is not allowed, or webhooks are not configured.
        """
        self._admission.check_waiting()
        under_way = len(self._records.under_way())
        if under_way >= self._most_jobs:
            raise Overloaded(
                "too many jobs are under way; try again later",
                retry_after=self._admission.time_for(self._admission.queued / under_way),
            )
        if callback_url is not None:
            await self._webhooks.check(callback_url)
        job = Job(
            id=request.id,
            client=request.client,
            state="queued",
            submitted_at=time.time(),
            filename=request.source.filename,
            output=output,
            diarize=request.diarize is not None,
            words=request.align in (AlignMode.AUTO, AlignMode.FORCED),
            callback_url=callback_url,
            notified=callback_url is None,
        )
        request = replace(request, waits=True)
        if self._shared is None:
            await self._store.save(job)
        else:
            await self._shared.accept(job, request)
        self._begin(job, request, resources.pop_all())
        return job

    async def adopt(self, job: Job, request: TranscriptionRequest | None) -> None:
        """Take up a job of a process that has ended; its `request` may not have been kept."""
        if not job.ended and request is not None:
            self._begin(job, request, AsyncExitStack())
            return
        await self._records.adopt(job)

    def under_way(self) -> list[str]:
        """Return the ids of this process's jobs that have not ended."""
        return self._records.under_way()

    async def give_up(self, job_id: str) -> None:
        """Stop a job that another process has taken up, without storing its end here."""
        record = self._records.give_up(job_id)
        if record is not None and record.task is not None and not record.ending:
            record.task.cancel()
            await asyncio.wait([record.task])

    def job_states(self) -> Mapping[JobState, int]:
        """Return the number of jobs in each state, of this process."""
        counts: Counter[JobState] = Counter(dict.fromkeys(get_args(JobState), 0))
        counts.update(job.state for job in self._records.jobs())
        return counts

    def job(self, job_id: str, client: str) -> Job:
        """Return the job.

        Raises:
            NotFound: no such job, or another client's.
        """
        return self._records.of_client(job_id, client).job

    async def find(self, job_id: str, client: str) -> Job:
        """Return the job, of this process or another.

        Raises:
            NotFound: no such job, or another client's.
        """
        if self._shared is not None and job_id not in self._records:
            job = await self._shared.find(job_id)
            if job is not None and job.client == client:
                return job
        return self.job(job_id, client)

    async def jobs(
        self, client: str, state: JobState | None, after: str | None, limit: int
    ) -> tuple[list[Job], bool]:
        """Return at most `limit` jobs of a client, newest first, and whether there are more.

        They are in that `state`, if one is given, and older than the job `after`.

        Raises:
            NotFound: there is no job `after`.
        """
        jobs = self._records.jobs()
        if self._shared is not None:
            jobs += [job for job in await self._shared.all() if job.id not in self._records]
        oldest = None if after is None else await self.find(after, client)
        return job_states.page(
            (job for job in jobs if job.client == client and state in (None, job.state)),
            after=oldest,
            limit=limit,
        )

    async def watch(
        self, job_id: str, client: str, *, with_windows: bool = False
    ) -> AsyncGenerator[Job | WindowDone, None]:
        """Yield the job, now and after each change, until it ends.

        `with_windows`: also the windows that are done, in order, from the first on.
        """
        watch = JobWatch(with_windows=with_windows)

        async def elsewhere() -> Job | None:
            return None if job_id in self._records else await self.find(job_id, client)

        while True:
            if self._shared is None or job_id in self._records:
                changes = watch.of_record(self._records.of_client(job_id, client))
            else:
                changes = watch.of_stored(elsewhere, self._shared)
            async with aclosing(changes):
                async for change in changes:
                    yield change
                    if isinstance(change, Job) and change.ended:
                        return

    async def result(self, job_id: str, client: str) -> Transcript:
        """Return the transcript of a completed job.

        Raises:
            NotFound: no such job, or its result was deleted.
            Conflict: it is not completed, or has failed.
        """
        job = await self.find(job_id, client)
        if job.error is not None:
            raise Conflict(f"the job failed: {job.error.message}")
        if job.state != "completed":
            raise Conflict(f"the job has no result: it is {job.state}")
        transcript = await self._store.transcript(job_id)
        if transcript is None:
            raise NotFound("the job's result is no longer kept")
        return transcript

    async def cancel(self, job_id: str, client: str) -> Job:
        """Cancel a job that is under way, or delete one that has ended.

        Raises:
            NotFound: no such job, or another client's.
            Unavailable: the job is cancelled, but that is not stored yet; or it is not deleted.
        """
        job = await self.find(job_id, client)
        record = self._records.get(job_id)
        if job.ended:
            if self._shared is not None:
                await self._shared.withdraw(job_id)
            await self._store.delete(job_id)
            self._records.forget(job_id)
            return job
        if record is not None:
            self.withdraw(job_id)
            if record.task is not None:
                limit = None if self._shared is None else CANCEL_WAIT
                await asyncio.wait([record.task], timeout=limit)
            if record.job.ended:
                return record.job
            if not record.taken_over:
                raise Unavailable(
                    "the job is cancelled, but that is not stored yet: ask for its status later",
                    retry_after=CANCEL_WAIT,
                )
        while self._shared is not None and not job.ended:
            # The process that has it may end meanwhile; then the next one is asked.
            await self._shared.withdraw(job_id)
            await asyncio.sleep(POLL_INTERVAL)
            job = await self.find(job_id, client)
        return job

    def withdraw(self, job_id: str) -> None:
        """Begin to cancel a job that this process has under way, or forget one that has ended."""
        record = self._records.get(job_id)
        if record is None:
            return
        if record.job.ended:
            self._records.forget(job_id)
        elif record.task is not None and not (record.ending or record.withdrawn):
            record.withdrawn = True
            record.task.cancel()

    def _begin(self, job: Job, request: TranscriptionRequest, resources: AsyncExitStack) -> None:
        record = self._records.add(job)
        record.task = self._records.in_background(self._run_job(record, request, resources))

    async def _run_job(
        self, record: JobRecord, request: TranscriptionRequest, resources: AsyncExitStack
    ) -> None:
        """Run a job to its end, and record how it ended."""
        logging_setup.request_id.set(record.job.id)
        try:
            async with resources:
                # A shutdown does not wait for what other processes take up.
                with self._active.track(awaited=self._shared is None):
                    transcript = await self._transcribe(record, request)
                    await self._store.save_transcript(request.id, transcript)
            ended = job_states.ended(record.job, "completed", time.time())
        except ServiceError as error:
            ended = job_states.ended(record.job, "failed", time.time(), error)
        except asyncio.CancelledError:
            if not record.withdrawn:
                raise  # the server ends; the next start marks the job as failed
            ended = job_states.ended(record.job, "cancelled", time.time())
        except Exception:  # the job's watchers must learn of its end
            logger.exception("unexpected error of job %s", request.id)
            unexpected = ServiceError("the server failed; its log says why")
            ended = job_states.ended(record.job, "failed", time.time(), unexpected)
        await self._records.end(record, ended)

    async def _transcribe(self, record: JobRecord, request: TranscriptionRequest) -> Transcript:
        """Run a job, which waits while the queue is full."""
        while True:
            async with self._runs.join(request) as run:
                record.run = run
                async with aclosing(run.changes()) as changes:
                    async for progress in changes:
                        position = self._runs.position(run)
                        job = job_states.under_way(
                            record.job, progress, position=position, now=time.time()
                        )
                        record.change(job)
                        if self._shared is not None:
                            self._shared.note(job)
                try:
                    return await run.result()
                except (Overloaded, Unavailable) as error:
                    # An identical request that does not wait may have begun the run.
                    if run.request.waits and not isinstance(error, Overloaded):
                        raise

    async def _prune_forever(self) -> None:
        while True:
            await self._records.prune()
            self._runs.forget_old()
            await asyncio.sleep(PRUNE_INTERVAL)


async def _note_length(event: Event) -> None:
    if isinstance(event, Opened):
        logging_setup.note_audio(event.duration)
