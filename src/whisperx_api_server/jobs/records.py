"""The jobs of this process, each with its task and the run that computes it.

A job that ends is stored, its webhook is delivered, and too many or too old ones are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from ..background import BackgroundTasks
from ..domain import Job
from ..errors import Interrupted, NotFound, TakenOver, Unavailable
from . import states as job_states
from .run_registry import Run
from .store import JobSettings, JobStore
from .view import webhook_event
from .webhooks import Webhooks

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, eq=False)
class JobRecord:
    """A job as it is now; `changed` is set at its next change.

    `taken_over`: another process has the job, and this record was removed from the records.
    """

    job: Job
    task: asyncio.Task[None] | None = None
    withdrawn: bool = False
    ending: bool = False
    taken_over: bool = False
    run: Run | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, job: Job) -> None:
        """Replace the job, and notify its watchers."""
        self.job = job
        self.changed, changed = asyncio.Event(), self.changed
        changed.set()


class JobRecords:
    """The records by the ids of their jobs."""

    def __init__(self, store: JobStore, webhooks: Webhooks, settings: JobSettings) -> None:
        self._store = store
        self._webhooks = webhooks
        self._settings = settings
        self._records: dict[str, JobRecord] = {}
        self._background = BackgroundTasks()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._records

    def get(self, job_id: str) -> JobRecord | None:
        """Return the record of a job, if this process has it."""
        return self._records.get(job_id)

    def of_client(self, job_id: str, client: str) -> JobRecord:
        """Return the record of a client's job.

        Raises:
            NotFound: no such job, or another client's.
        """
        record = self._records.get(job_id)
        if record is None or record.job.client != client:
            raise NotFound("there is no such transcription")
        return record

    def jobs(self) -> list[Job]:
        """Return all jobs, in the order in which they were added."""
        return [record.job for record in self._records.values()]

    def add(self, job: Job) -> JobRecord:
        """Begin a job's record."""
        record = self._records[job.id] = JobRecord(job=job)
        return record

    def forget(self, job_id: str) -> None:
        """Drop a job's record, if there is one; the store keeps the job."""
        self._records.pop(job_id, None)

    def give_up(self, job_id: str) -> JobRecord | None:
        """Forget a job that another process has; its watchers then look at the store."""
        record = self._records.pop(job_id, None)
        if record is not None:
            logger.warning("job %s: another process has taken it up", job_id)
            record.taken_over = True
            record.change(record.job)
        return record

    def under_way(self) -> list[str]:
        """Return the ids of the jobs that have not ended."""
        records = self._records.items()
        return [job_id for job_id, each in records if not (each.job.ended or each.ending)]

    async def load(self) -> None:
        """Add the stored jobs; those that the last process did not finish become failed.

        Raises:
            ConfigurationError: another server, or another user, has them.
        """
        for job in await self._store.load():
            if not job.ended:
                job = _interrupted(job)
                await self._keep(job)
            self.add(job)
            self._notify(job)

    async def adopt(self, job: Job) -> None:
        """Add a job of a process that has ended; one that was under way becomes failed."""
        record = self.add(job)
        if job.ended:
            self._notify(job)
        else:
            await self.end(record, _interrupted(job))

    async def end(self, record: JobRecord, job: Job) -> None:
        """Store a job that has ended, notify its watchers and deliver its webhook.

        If another process has taken it up, it is given up instead.
        """
        record.ending, record.run = True, None
        if not await self._keep(job):
            return
        record.change(job)
        logger.info("job %s: %s", job.id, job.state)
        self._notify(job)
        await self.prune()

    async def prune(self) -> None:
        """Delete the ended jobs that are too old or too many."""
        for job in job_states.surplus(self.jobs(), self._settings, time.time()):
            await self._delete(job.id)

    def in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or the records are closed."""
        return self._background.start(work)

    async def close(self) -> None:
        """Cancel the jobs, the deliveries and the other work that is under way."""
        await self._background.cancel()

    async def _keep(self, job: Job) -> bool:
        """Store a job that has ended; False if another process has it, so it is given up.

        After another error, the end is lost at the next start.
        """
        try:
            await self._store.save(job)
        except TakenOver:
            self.give_up(job.id)
            return False
        except Unavailable as error:
            logger.error("the end of job %s could not be stored: %s", job.id, error.message)
        return True

    def _notify(self, job: Job) -> None:
        if job.callback_url is not None and not job.notified:
            self.in_background(self._deliver(job, job.callback_url))

    async def _deliver(self, job: Job, url: str) -> None:
        if not self._webhooks.enabled:
            logger.warning("job %s: its webhook is not sent, WEBHOOK_SECRET is not set", job.id)
            return
        event = webhook_event(job)
        await self._webhooks.deliver(url, event["id"], event)
        record = self._records.get(job.id)
        if record is None:
            return
        notified = replace(record.job, notified=True)
        if not await self._keep(notified):
            return
        if job.id in self._records:
            record.job = notified
        else:  # deleted meanwhile
            await self._delete(job.id)

    async def _delete(self, job_id: str) -> None:
        self.forget(job_id)
        try:
            await self._store.delete(job_id)
        except Unavailable as error:  # a store of several processes deletes it later
            logger.warning("job %s is not deleted: %s", job_id, error.message)


def _interrupted(job: Job) -> Job:
    error = Interrupted("the server was restarted before the job was done: submit it again")
    return job_states.ended(job, "failed", time.time(), error)
