"""Stores jobs and their transcripts in the bucket, where all replicas find them.

`jobs/{id}/job.json` has the job and its owner, the replica that sees it through; a write replaces
the version that was read. `open/{id}/{owner}` marks the job until it has ended and its webhook is
delivered. When the owner is gone, another replica makes itself the owner and takes up the job. The
former one, if it only could not reach Kafka, then writes nothing more of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from pydantic import TypeAdapter, ValidationError

from ..audio.uploads import BlobStore
from ..background import BackgroundTasks
from ..domain import Job, Transcript, TranscriptionRequest
from ..errors import TakenOver, Unavailable, VersionMismatch
from ..jobs.store import JOB_ID, transcript_lines, transcript_of
from ..pipeline.events import WindowDone
from .files import READS, RunFiles, job_key, last_stored, owner_of
from .notices import EventReader
from .protocols import Bucket, Log, StoredObject
from .retries import until_available
from .wire import CONTROL, Wire, Withdrawn

logger = logging.getLogger(__name__)

NOTE_INTERVAL = 1.0
"""Seconds between two writes of how far the jobs are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _StoredJob:
    owner: str
    job: Job


_JOB: Wire[_StoredJob] = Wire(TypeAdapter(_StoredJob))


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
        self._refused = BackgroundTasks()

    # -- jobs of this process -----------------------------------------------------------------

    async def load(self) -> list[Job]:
        """None: jobs of processes that have ended are taken up one by one."""
        return []

    async def accept(self, job: Job, request: TranscriptionRequest) -> None:
        """See `SharedJobStore.accept`; the mark comes first: no job is without one."""
        stored = _StoredJob(owner=self._name, job=job)
        try:
            await self._bucket.put(_mark_key(job.id, self._name), b"")
            await self._files.store(request, "transcribe", self._blobs, replica=self._name)
            await self._bucket.put(job_key(job.id), _JOB.dump(stored))
        except BaseException:  # what failed may be stored all the same
            self._refused.start(until_available(partial(self.delete, job.id)))
            raise

    async def save(self, job: Job) -> None:
        """See `JobStore.save`; waits while the bucket is away."""
        await until_available(partial(self._save, job))

    async def _save(self, job: Job) -> None:
        self._noted.pop(job.id, None)
        try:
            async with self._writing[job.id]:
                await self._write(job)
        finally:
            if job.ended:
                self._writing.pop(job.id, None)
        if job.ended:
            await self._files.delete(job.id)
            if job.notified:
                await self._bucket.delete(_marks(job.id))

    async def _write(self, job: Job) -> None:
        """Replace the stored job.

        Raises:
            TakenOver: this process does not have it any more.
        """
        data = _JOB.dump(_StoredJob(owner=self._name, job=job))
        version: str | None = None
        while version is None:  # it is, too, when the store's answer was lost
            found = await self._bucket.get(job_key(job.id))
            if found is None or owner_of(found) != self._name:
                raise _taken_over()
            version = await self._bucket.replace(job_key(job.id), data, found.etag)

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
                await self._write(job)
            except Unavailable as error:
                logger.warning(
                    "the progress of job %s could not be stored: %s", job_id, error.message
                )

    async def save_transcript(self, job_id: str, transcript: Transcript) -> None:
        """See `JobStore.save_transcript`; waits while the bucket is away."""
        data = await asyncio.to_thread(lambda: b"\n".join(transcript_lines(transcript)))
        if await until_available(partial(self._files.owner, job_id)) != self._name:
            raise _taken_over()
        await until_available(partial(self._bucket.put, _transcript_key(job_id), data))

    # -- jobs of all processes ----------------------------------------------------------------

    async def find(self, job_id: str) -> Job | None:
        """See `SharedJobStore.find`.

        Raises:
            VersionMismatch: it cannot be read; that is logged once.
        """
        if not JOB_ID.fullmatch(job_id):
            return None
        found = await self._bucket.get(job_key(job_id))
        return None if found is None else self._load(job_id, found).job

    def _load(self, job_id: str, found: StoredObject) -> _StoredJob:
        try:
            return _JOB.load(found.data)
        except ValueError as error:
            if job_id not in self._unreadable:
                self._unreadable.add(job_id)
                logger.warning("job %s cannot be read: %s", job_id, error)
            raise VersionMismatch(
                "another version of the server stored this job, and this one cannot read "
                "it: try again later"
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

    def windows(self, job_id: str) -> Callable[[], Awaitable[list[WindowDone]]]:
        """See `SharedJobStore.windows`; a job that shares the run of another one has none."""
        reader = EventReader(self._files)

        async def read() -> list[WindowDone]:
            events = await reader.read_all(job_id)
            return [event for event in events if isinstance(event, WindowDone)]

        return read

    async def transcript(self, job_id: str) -> Transcript | None:
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
        await self._log.append("control", job_id, CONTROL.dump(Withdrawn(job=job_id)))

    async def delete(self, job_id: str) -> None:
        await self._bucket.delete(_marks(job_id))
        await self._files.delete(job_id)
        await self._bucket.delete(f"jobs/{job_id}")

    def close(self) -> None:
        """See `JobStore.close`: the others see that this process is gone."""

    async def owners(self) -> set[tuple[str, str]]:
        """The jobs that have not ended, each with its owner; by chance also with a former one."""
        marks = (key.split("/") for key in await self._bucket.list("open"))
        return {(job_id, owner) for _, job_id, owner in marks}

    async def take_over(
        self, job_id: str, owner: str
    ) -> tuple[Job, TranscriptionRequest | None] | None:
        """Take over the job of a lost replica; None if it was deleted or taken by another.

        Raises:
            VersionMismatch: the job cannot be read; it is left to a replica that can.
        """
        found = await self._bucket.get(job_key(job_id))
        if found is None:  # it ended while the job was accepted
            await self.delete(job_id)
            return None
        stored = self._load(job_id, found)
        if stored.owner not in (owner, self._name):
            await self._bucket.delete(_mark_key(job_id, owner))
            return None
        await self._bucket.put(_mark_key(job_id, self._name), b"")
        data = _JOB.dump(replace(stored, owner=self._name))
        if await self._bucket.replace(job_key(job_id), data, found.etag) is None:
            return None
        await self._bucket.delete(_mark_key(job_id, owner))
        return stored.job, await self._request(job_id)

    async def _request(self, job_id: str) -> TranscriptionRequest | None:
        try:
            stored = await self._files.request(job_id)
        except ValueError as error:
            logger.warning("the request of job %s cannot be read: %s", job_id, error)
            stored = None
        request = None if stored is None else stored.request
        return request if isinstance(request, TranscriptionRequest) else None

    async def delete_old(self, seconds: float, is_gone: Callable[[str], bool]) -> None:
        """Delete the jobs, runs and checkpoints that are older, also those of other versions.

        A job that has not ended is spared, unless its owner `is_gone` and none has taken it up.
        """
        before = time.time() - seconds
        kept = {job_id for job_id, owner in await self.owners() if not is_gone(owner)}
        for job_id, stored in last_stored(await self._bucket.list("jobs")).items():
            if stored < before and job_id not in kept:
                await self.delete(job_id)
        await self._files.delete_old(before, kept)

    async def _ids(self) -> set[str]:
        return {key.split("/")[1] for key in await self._bucket.list("jobs")}


def _taken_over() -> TakenOver:
    return TakenOver("another server has taken up the job, or it was deleted: look again")


def _marks(job_id: str) -> str:
    return f"open/{job_id}"


def _mark_key(job_id: str, owner: str) -> str:
    return f"{_marks(job_id)}/{owner}"


def _transcript_key(job_id: str) -> str:
    return f"jobs/{job_id}/transcript.jsonl"
