"""API processes with jobs, on one event loop, over the queue, log and bucket of a `Cluster`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import pytest

from cluster import Cluster
from memory_cluster import MemoryLog, MemoryQueue
from support import PATIENCE
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.audio.urls import UrlFetcher, UrlFetchSettings
from whisperx_api_server.distributed import members, replica
from whisperx_api_server.distributed.cluster import Cluster as Connections
from whisperx_api_server.distributed.protocols import (
    CaughtUp,
    ClusterUnavailable,
    Message,
    Position,
)
from whisperx_api_server.distributed.replica import Replica
from whisperx_api_server.domain import Job, OutputOptions, TranscriptionRequest
from whisperx_api_server.jobs import service as jobs
from whisperx_api_server.jobs import watching
from whisperx_api_server.jobs.admission import AdmittedRunner, LimitSettings
from whisperx_api_server.jobs.service import TranscriptionService
from whisperx_api_server.jobs.store import JobSettings
from whisperx_api_server.jobs.webhooks import Webhooks


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all intervals short: a replica counts as gone after moments."""
    monkeypatch.setattr(members, "INTERVAL", 0.05)
    monkeypatch.setattr("whisperx_api_server.distributed.heartbeats.INTERVAL", 0.05)
    monkeypatch.setattr(replica, "SILENT", 0.4)
    monkeypatch.setattr(replica, "ADOPTION_INTERVAL", 0.05)
    monkeypatch.setattr(replica, "RESTART_INTERVAL", 0.05)
    monkeypatch.setattr("whisperx_api_server.distributed.retries.RETRY_INTERVAL", 0.02)
    monkeypatch.setattr("whisperx_api_server.distributed.job_store.NOTE_INTERVAL", 0.02)
    for polling in (jobs, watching):
        monkeypatch.setattr(polling, "POLL_INTERVAL", 0.02)


@dataclass
class Process:
    """An API process with its jobs."""

    name: str
    replica: Replica
    service: TranscriptionService
    stack: AsyncExitStack

    async def request(self, recording: str, **changes: Any) -> TranscriptionRequest:
        async def chunks() -> AsyncIterator[bytes]:
            yield recording.encode()

        upload = await self.replica.uploads.put(chunks(), filename=f"{recording}.wav")
        return TranscriptionRequest(
            id=uuid4().hex, source=upload, model="small", client="ann", **changes
        )

    async def submit(self, recording: str, callback_url: str | None = None, **changes: Any) -> str:
        request = await self.request(recording, **changes)
        async with AsyncExitStack() as resources:
            for upload in request.uploads:
                resources.push_async_callback(self.replica.uploads.release, upload)
            job = await self.service.submit(request, OutputOptions(), resources, callback_url)
        return job.id

    async def ended(self, job_id: str) -> Job:
        async with asyncio.timeout(PATIENCE):
            async for seen in self.service.watch(job_id, "ann"):
                last = seen
        assert isinstance(last, Job)
        return last

    async def leave(self) -> None:
        await self.stack.aclose()


class Line(MemoryLog):
    """One process's way to the log, which can be cut."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.cut = False

    def _reach(self) -> None:
        if self.cut:
            raise ClusterUnavailable("the broker cannot be reached")

    async def append(self, topic: str, key: str, value: bytes | None) -> Position:
        self._reach()
        return await self._log.append(topic, key, value)

    async def read(
        self, topic: str, *, since: Literal["earliest", "latest"] | Position
    ) -> AsyncGenerator[Message | CaughtUp, None]:
        async for message in self._log.read(topic, since=since):
            self._reach()
            yield message


@asynccontextmanager
async def process(
    cluster: Cluster, name: str, log: MemoryLog | None = None
) -> AsyncIterator[Process]:
    connections = Connections(
        queues=[MemoryQueue(broker) for broker in cluster.brokers],
        log=log or cluster.log,
        bucket=cluster.bucket,
    )
    settings = JobSettings(max_age=1000, max_count=10)
    made = Replica(
        connections,
        name=name,
        workdir=cluster.directory,
        limits=LimitSettings(upload_bytes=1000, queue_seconds=10),
        settings=settings,
    )
    policy = UrlFetchSettings(allow_private_hosts=True, timeout=PATIENCE)
    service = TranscriptionService(
        AdmittedRunner(made.runner, made.admission, timeout=0),
        active=ActiveRequests(),
        admission=made.admission,
        blobs=made.uploads,
        store=made.jobs,
        shared=made.jobs,
        webhooks=Webhooks(UrlFetcher(policy, uploads=made.uploads), secret="secret"),
        settings=settings,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(made.taking_part())
        await service.start()
        stack.push_async_callback(service.close)
        await stack.enter_async_context(made.adopting_jobs(service))
        yield Process(name, made, service, stack)
