"""An API process of MODE=kafka: its runner, its jobs, and the jobs of replicas that are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..audio.uploads import DiskBlobStore
from ..background import running
from ..domain import Upload
from ..errors import Unavailable, VersionMismatch
from ..jobs.admission import AdmissionControl, LimitSettings
from ..jobs.service import TranscriptionService
from ..jobs.store import JobSettings
from .cluster import Cluster
from .files import RunFiles
from .heartbeats import Membership
from .job_store import BucketJobStore
from .kafka_runner import KafkaRunner
from .members import SILENT, Members, OtherReplicas
from .models import ClusterModels
from .notices import RunNotices
from .readiness import ClusterCheck
from .retries import until_available
from .wire import Control, Heartbeat, OrderDone, Withdrawn

logger = logging.getLogger(__name__)

ADOPTION_INTERVAL = 3.0
"""Seconds between two looks for jobs of replicas that are gone."""

RESTART_INTERVAL = 1.0
"""Seconds until a task that failed unexpectedly begins anew."""

SWEEP_INTERVAL = 600.0
"""Seconds between two sweeps of what has grown too old in the bucket."""


class ReplicaUploads(DiskBlobStore):
    """Uploads on this disk, and those of jobs that were taken up, which the bucket has."""

    def retain(self, upload: Upload) -> None:
        if "/" not in upload.id:
            super().retain(upload)

    async def release(self, upload: Upload) -> None:
        if "/" not in upload.id:
            await super().release(upload)


class Replica:
    """Stands in for the pipeline and the jobs on disk of a server that computes by itself.

    Args:
        name: this process's.
        workdir: an existing private directory for uploads.
        limits: of uploads, and of the queue, which all replicas share.
        settings: `max_age` also limits how long what runs have left behind is kept.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        name: str,
        workdir: Path,
        limits: LimitSettings,
        settings: JobSettings,
    ) -> None:
        self.members = Members()
        self.uploads = ReplicaUploads(workdir=workdir, max_bytes=limits.upload_bytes)
        self.admission = AdmissionControl(
            limits.queue_seconds, others=OtherReplicas(name, self.members)
        )
        self._files = RunFiles(cluster.bucket, retry_window=settings.retry_window)
        self._notices = RunNotices(cluster.log)
        self._membership = Membership(name, "replica", log=cluster.log, members=self.members)
        self.check_ready = ClusterCheck(name, members=self.members, bucket=cluster.bucket)
        self.models = ClusterModels(cluster.log, self.members)
        self._name = name
        self._max_age = settings.max_age
        self._service: TranscriptionService | None = None
        self.runner = KafkaRunner(
            name=name,
            queues=cluster.queues,
            log=cluster.log,
            files=self._files,
            blobs=self.uploads,
            notices=self._notices,
            members=self.members,
        )
        self.jobs = BucketJobStore(
            name=name,
            bucket=cluster.bucket,
            log=cluster.log,
            files=self._files,
            blobs=self.uploads,
        )

    @asynccontextmanager
    async def taking_part(self) -> AsyncIterator[None]:
        """Hear workers and other replicas, and be heard by them, while the context is open."""
        work = (
            partial(self._membership.take_part, self),
            self._notices.read_forever,
            self.jobs.write_notes_forever,
        )
        async with _running(*work):
            await self._notices.ready.wait()
            await self._membership.joined()
            yield

    @asynccontextmanager
    async def adopting_jobs(self, service: TranscriptionService) -> AsyncIterator[None]:
        """See to the jobs of all replicas; those that are under way at the end go to others."""
        self._service = service
        try:
            async with _running(partial(self._adopt_forever, service), self._sweep_forever):
                yield
        finally:
            self._service = None
            self.runner.leave()

    def heartbeat(self, beat: Heartbeat) -> Heartbeat:
        """See `Participant.heartbeat`: the audio that is admitted here counts everywhere."""
        return replace(beat, seconds=round(self.admission.seconds, 3))

    async def handle(self, message: Control) -> None:
        """Cancel a job of this process that a client withdraws elsewhere; hear what others did."""
        self._notices.handle(message)
        if isinstance(message, OrderDone):
            self.models.handle(message)
        elif isinstance(message, Withdrawn) and self._service is not None:
            self._service.withdraw(message.job)

    async def _adopt_forever(self, service: TranscriptionService) -> None:
        while True:
            await asyncio.sleep(ADOPTION_INTERVAL)
            try:
                await self._look_at_jobs(service)
            except Unavailable as error:
                logger.warning("jobs of other replicas could not be listed: %s", error.message)

    async def _look_at_jobs(self, service: TranscriptionService) -> None:
        """Give up the jobs that others have taken up, and take up those of replicas gone."""
        ours = service.under_way()  # before the look: the mark of each was there already
        owners = await self.jobs.owners()
        for job_id in {*ours} & {*service.under_way()}:
            if (job_id, self._name) not in owners:
                await service.give_up(job_id)
        for job_id, owner in owners:
            if owner == self._name or not self.members.is_gone(owner, SILENT):
                continue
            try:
                take_over = partial(self.jobs.take_over, job_id, owner)
                taken = await until_available(take_over)  # half of it would leave it to nobody
            except VersionMismatch:
                continue
            if taken is not None:
                logger.info("job %s is taken over from %s", job_id, owner)
                await service.adopt(*taken)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                await self.jobs.delete_old(
                    self._max_age, partial(self.members.is_gone, patience=SWEEP_INTERVAL)
                )
            except Unavailable as error:
                logger.warning("old objects could not be deleted: %s", error.message)


@asynccontextmanager
async def _running(*work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run work while the context is open, anew after a failure, which is logged."""

    async def run(each: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await each()
            except Exception:  # without it, jobs are not seen to
                logger.exception("a task of the replica failed; it begins anew")
                await asyncio.sleep(RESTART_INTERVAL)

    async with running(*map(run, work)):
        yield
