"""Stores jobs and their transcripts in the bucket, where all replicas find them.

`jobs/{id}/job.json` is the job, `open/{id}` the name of the replica that sees it through. That mark
goes once the job has ended and its webhook is delivered; until then, when the replica is gone,
another one puts its own name there and takes up the job. The former one, if it only could not reach
Kafka, then writes nothing more of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict

from pydantic import TypeAdapter, ValidationError

from ..audio.uploads import BlobStore
from ..domain import Job, Transcript, TranscriptionRequest
from ..errors import TakenOver, Unavailable, VersionMismatch
from ..jobs.store import JOB_ID, transcript_lines, transcript_of
from .files import READS, RunFiles, mark_key
from .protocols import Bucket, Log
from .wire import CONTROL, Wire, Withdrawn

logger = logging.getLogger(__name__)

NOTE_INTERVAL = 1.0
"""Seconds between two writes of how far the jobs are."""

_JOB: Wire[Job] = Wire(TypeAdapter(Job))


class BucketJobStore:
    """The SharedJobStore of replicas; `name` is this one's."""

    def __init__(
        self, *, name: str, bucket: Bucket, log: Log, files: RunFiles, blobs: BlobStore
    ) -> None:
        self._name = name
        self._bucket = bucket
        self._log = log
        self._files = files
        self._blobs = blobs
        self._noted: dict[str, Job] = {}
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._unreadable: set[str] = set()

    # -- jobs of this process -----------------------------------------------------------------

    async def load(self) -> list[Job]:
        """None: jobs of processes that have ended are taken up one by one."""
        return []

    async def accept(self, job: Job, request: TranscriptionRequest) -> None:
        """See `SharedJobStore.accept`; the mark comes first: no job is without one."""
        await self._bucket.put(mark_key(job.id), self._name.encode())
        await self._files.store(request, "transcribe", self._blobs, replica=self._name)
        await self.save(job)

    async def save(self, job: Job) -> None:
        """See `JobStore.save`."""
        self._noted.pop(job.id, None)
        try:
            async with self._writing[job.id]:
                await self._check_ours(job.id)
                await self._bucket.put(_job_key(job.id), _JOB.dump(job))
        finally:
            if job.ended:
                self._writing.pop(job.id, None)
        if job.ended:
            await self._files.delete(job.id)
            if job.notified:
                await self._bucket.delete(mark_key(job.id))

    async def _check_ours(self, job_id: str) -> None:
        """See whether this process still has a job.

        Raises:
            TakenOver: it does not.
        """
        if await self._files.owner(job_id) != self._name:
            raise TakenOver("another server has taken up the job, or it was deleted: look again")

    def note(self, job: Job) -> None:
        """See `SharedJobStore.note`; the last one of each second is written."""
        self._noted[job.id] = job

    async def write_notes_forever(self) -> None:
        """Write what is noted, at intervals."""
        while True:
            await asyncio.sleep(NOTE_INTERVAL)
            await asyncio.gather(*map(self._write_note, [*self._noted]))

    async def _write_note(self, job_id: str) -> None:
        async with self._writing[job_id]:
            job = self._noted.pop(job_id, None)
            if job is None:  # it has been saved since
                return
            try:
                await self._check_ours(job_id)
                await self._bucket.put(_job_key(job_id), _JOB.dump(job))
            except Unavailable as error:
                logger.warning("the progress of job %s is not kept: %s", job_id, error.message)

    async def save_transcript(self, job_id: str, transcript: Transcript) -> None:
        """See `JobStore.save_transcript`."""
        data = await asyncio.to_thread(lambda: b"\n".join(transcript_lines(transcript)))
        await self._check_ours(job_id)
        await self._bucket.put(_transcript_key(job_id), data)

    # -- jobs of all processes ----------------------------------------------------------------

    async def find(self, job_id: str) -> Job | None:
        """See `SharedJobStore.find`.

        Raises:
            VersionMismatch: it cannot be read; that is logged once.
        """
        if not JOB_ID.fullmatch(job_id):
            return None
        found = await self._bucket.get(_job_key(job_id))
        try:
            return None if found is None else _JOB.load(found.data)
        except ValueError as error:
            if job_id not in self._unreadable:
                self._unreadable.add(job_id)
                logger.warning("job %s cannot be read: %s", job_id, error)
            raise VersionMismatch(
                "this server cannot read the job, which another version of it has: try again later"
            ) from None

    async def all(self) -> list[Job]:
        """See `SharedJobStore.all`; those that cannot be read are left out."""
        reads = asyncio.Semaphore(READS)

        async def find(job_id: str) -> Job | None:
            async with reads:
                try:
                    return await self.find(job_id)
                except VersionMismatch:
                    return None

        found = await asyncio.gather(*map(find, await self._ids()))
        return [job for job in found if job is not None]

    async def transcript(self, job_id: str) -> Transcript | None:
        """See `JobStore.transcript`."""
        found = await self._bucket.get(_transcript_key(job_id))
        if found is None:
            return None
        lines = found.data.split(b"\n")
        try:
            return await asyncio.to_thread(transcript_of, lines)
        except ValidationError as error:
            count = error.error_count()  # the error itself has the text
            logger.warning("the transcript of job %s cannot be read: %d errors", job_id, count)
            return None

    async def withdraw(self, job_id: str) -> None:
        """See `SharedJobStore.withdraw`."""
        await self._log.append("control", job_id, CONTROL.dump(Withdrawn(job=job_id)))

    async def delete(self, job_id: str) -> None:
        """See `JobStore.delete`."""
        try:
            await self._bucket.delete(mark_key(job_id))
            await self._files.delete(job_id)
            await self._bucket.delete(f"jobs/{job_id}")
        except Unavailable as error:
            logger.warning("job %s is not deleted: %s", job_id, error.message)

    def close(self) -> None:
        """See `JobStore.close`: the others see that this process is gone."""

    async def open_jobs(self) -> dict[str, str]:
        """The replica of each job that has not ended."""
        owners = {}
        for key in await self._bucket.list("open"):
            mark = await self._bucket.get(key)
            if mark is not None:
                owners[key.removeprefix("open/")] = mark.data.decode()
        return owners

    async def take_over(
        self, job_id: str, owner: str
    ) -> tuple[Job, TranscriptionRequest | None] | None:
        """Take over the job of a lost replica; None if it was deleted or taken by another.

        Raises:
            VersionMismatch: the job cannot be read; it is left to a replica that can.
        """
        mark = await self._bucket.get(mark_key(job_id))
        if mark is None or mark.data.decode() != owner:
            return None
        await self.find(job_id)
        if await self._bucket.replace(mark_key(job_id), self._name.encode(), mark.etag) is None:
            return None
        job = await self.find(job_id)
        if job is None:  # it ended while the job was accepted
            await self.delete(job_id)
            return None
        try:
            stored = await self._files.request(job_id)
        except ValueError as error:
            logger.warning("the request of job %s cannot be read: %s", job_id, error)
            stored = None
        request = None if stored is None else stored.request
        return job, request if isinstance(request, TranscriptionRequest) else None

    async def delete_old(self, seconds: float) -> None:
        """Delete the jobs that ended longer ago, whichever process had them."""
        oldest = time.time() - seconds
        for job in await self.all():
            if job.finished_at is not None and job.finished_at < oldest:
                await self.delete(job.id)

    async def _ids(self) -> set[str]:
        return {key.split("/")[1] for key in await self._bucket.list("jobs")}


def _job_key(job_id: str) -> str:
    return f"jobs/{job_id}/job.json"


def _transcript_key(job_id: str) -> str:
    return f"jobs/{job_id}/transcript.jsonl"
