"""Replicas and workers on one event loop, over a queue, a log and a bucket in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from memory_cluster import Broker, MemoryBucket, MemoryLog, MemoryQueue
from pipeline_world import Clips, World
from support import PATIENCE
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.distributed.disk import WorkerDisk
from whisperx_api_server.distributed.files import BucketUploads, RunFiles
from whisperx_api_server.distributed.heartbeats import Membership
from whisperx_api_server.distributed.kafka_runner import KafkaRunner
from whisperx_api_server.distributed.members import Members
from whisperx_api_server.distributed.models import ClusterModels, WorkerModels
from whisperx_api_server.distributed.notices import RunNotices
from whisperx_api_server.distributed.wire import Control, Heartbeat, OrderDone
from whisperx_api_server.distributed.worker import Worker
from whisperx_api_server.domain import AudioClip, Source, TranscriptionRequest, Upload
from whisperx_api_server.pipeline.events import Event
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.text_service import TextService

LOCK_SECONDS = 0.06
RETRY_WINDOW = 600.0


class BucketClips(Clips):
    """Recordings whose files have only their names."""

    uploads: BucketUploads

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        assert isinstance(source, Upload)
        async with self.uploads.open(source) as path:
            name = await asyncio.to_thread(path.read_text)
        async with super().open(Upload(id=name)) as clip:
            yield clip


class Louder:
    """A translator that speaks up."""

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        return [sentence.upper() for sentence in sentences]


class BucketWorld(World):
    clips_type = BucketClips

    def __init__(self) -> None:
        super().__init__()
        self.engines["translation"] = lambda _: Louder()


class WorkerProcess:
    """A worker with an engine of its own that can be held and killed.

    Its disk has `disk_free` bytes at the time `now`, in seconds.
    """

    def __init__(self, cluster: Cluster, name: str, *, prefetch_seconds: float) -> None:
        self.disk_free = 1 << 40
        self.now = 0.0
        self.world = BucketWorld()
        self.queues = [MemoryQueue(broker) for broker in cluster.brokers]
        assert isinstance(self.world.clips, BucketClips)
        self.world.clips.uploads = BucketUploads(cluster.bucket, cluster.directory)
        self.members = Members()
        self.worker = Worker(
            self.world.runner,
            name=name,
            text=TextService(
                active=ActiveRequests(),
                pool=self.world.pool,
                catalog=replace(
                    self.world.catalog, translation_models={"en-fr": ModelSpec(name="louder")}
                ),
                timeout=0.0,
            ),
            admission=self.world.admission,
            queues=self.queues,
            log=cluster.log,
            files=RunFiles(cluster.bucket, retry_window=RETRY_WINDOW),
            disk=WorkerDisk(
                cluster.directory, free=lambda _: self.disk_free, clock=lambda: self.now
            ),
            members=self.members,
            models=WorkerModels(
                name=name, catalog=self.world.catalog, pool=self.world.pool, log=cluster.log
            ),
            prefetch_seconds=lambda: prefetch_seconds,
            lock_seconds=LOCK_SECONDS,
            max_attempts=3,
        )
        self._membership = Membership(name, "worker", log=cluster.log, members=self.members)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        taking_part = asyncio.create_task(self._membership.take_part(self.worker))
        await self._membership.joined()
        self._tasks = [taking_part, asyncio.create_task(self.worker.work())]

    async def kill(self) -> None:
        """End it at once, as SIGKILL does: nothing is handed on."""
        self.world.hold.go.set()
        held = [each.work for each in self.worker._held.values()]
        for task in (*self._tasks, *held):
            task.cancel()
        await asyncio.gather(*self._tasks, *held, return_exceptions=True)
        for queue in self.queues:
            await queue.close()
        await self.world.pool.close()


class Replica:
    """The runner of an API process; the others lose sight of it when `taking_part` is cancelled."""

    taking_part: asyncio.Task[None]

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.blobs = DiskBlobStore(workdir=cluster.directory, max_bytes=1000)
        self.members = Members()
        self.notices = RunNotices(cluster.log)
        self.files = RunFiles(cluster.bucket, retry_window=RETRY_WINDOW)
        self.runner = KafkaRunner(
            name=name,
            queues=[MemoryQueue(broker) for broker in cluster.brokers],
            log=cluster.log,
            files=self.files,
            blobs=self.blobs,
            notices=self.notices,
            members=self.members,
        )
        self.models = ClusterModels(cluster.log, self.members)
        self.membership = Membership(name, "replica", log=cluster.log, members=self.members)

    def heartbeat(self, beat: Heartbeat) -> Heartbeat:
        return beat

    async def handle(self, message: Control) -> None:
        self.notices.handle(message)
        if isinstance(message, OrderDone):
            self.models.handle(message)

    async def request(self, recording: str, **changes: Any) -> TranscriptionRequest:
        async def chunks() -> AsyncIterator[bytes]:
            yield recording.encode()

        upload = await self.blobs.put(chunks(), filename=f"{recording}.wav")
        request = TranscriptionRequest(id=uuid4().hex, source=upload, model="small")
        return replace(request, **changes)

    async def run(self, recording: str, **changes: Any) -> tuple[list[Event], str]:
        """The events of a recording, and its text."""
        events: list[Event] = []

        async def emit(event: Event) -> None:
            events.append(event)

        request = await self.request(recording, **changes)
        transcript = await self.runner.run(request, emit, Checkpoint())
        return events, transcript.text


class Cluster:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.brokers = [Broker(), Broker()]
        self.log = MemoryLog()
        self.bucket = MemoryBucket()
        self._stack = AsyncExitStack()

    @property
    def queued(self) -> int:
        return sum(len(broker.records) for broker in self.brokers)

    def objects(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self.bucket.objects if key.startswith(prefix))

    async def worker(
        self, name: str = "worker", *, prefetch_seconds: float = 1000
    ) -> WorkerProcess:
        made = WorkerProcess(self, name, prefetch_seconds=prefetch_seconds)
        await made.start()
        self._stack.push_async_callback(made.kill)
        return made

    async def replica(self, name: str = "replica") -> Replica:
        made = Replica(self, name)
        tasks = [
            asyncio.create_task(made.notices.read_forever()),
            asyncio.create_task(made.membership.take_part(made)),
        ]
        made.taking_part = tasks[1]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._stack.push_async_callback(end)
        await made.notices.ready.wait()
        await made.membership.joined()
        return made

    async def close(self) -> None:
        await self._stack.aclose()


def play(directory: Path, scene: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        cluster = Cluster(directory)
        try:
            async with asyncio.timeout(PATIENCE):
                await scene(cluster)
        finally:
            await cluster.close()

    asyncio.run(run())
