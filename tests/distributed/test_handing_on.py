"""Workers that hand a run on and live: a drain, a lost lock, a full disk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster import BucketClips, Cluster, WorkerProcess, play
from live import until
from whisperx_api_server.distributed.disk import PAUSE, ROOM
from whisperx_api_server.distributed.files import BucketUploads
from whisperx_api_server.distributed.worker_limits import MOST_FULL_DISKS
from whisperx_api_server.domain import Upload
from whisperx_api_server.errors import DiskFull, Unavailable


async def holding(cluster: Cluster, name: str) -> WorkerProcess:
    """A worker that computes the run in the queue without end."""
    worker = await cluster.worker(name)
    worker.world.hold.stage = "transcribe"
    await until(worker.world.hold.entered.is_set)
    return worker


def test_a_drain_is_no_death_of_a_suspect(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await (await holding(cluster, "killed")).kill()
        for name in ("first", "second", "third"):
            await (await holding(cluster, name)).worker.drain(0.0)
        await (await holding(cluster, "killed too")).kill()
        await cluster.worker("last")
        _, text = await running
        assert text.startswith("red door.")

    play(tmp_path, scene)


def test_a_lost_lock_is_no_death(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        for name in ("first", "second", "third"):
            slow = await holding(cluster, name)
            slow.worker._draining.set()  # it takes nothing else
            # Its connection breaks: the record is free, and goes to the next worker.
            await asyncio.gather(*(queue.close() for queue in slow.queues))
        await (await holding(cluster, "killed")).kill()
        await (await holding(cluster, "killed too")).kill()
        await cluster.worker("last")
        _, text = await running
        assert text.startswith("red door.")

    play(tmp_path, scene)


class SmallDisk(BucketUploads):
    """Recordings that do not fit while the disk is `full`."""

    full = True

    @asynccontextmanager
    async def open(self, upload: Upload) -> AsyncIterator[Path]:
        if self.full:
            raise DiskFull
        async with super().open(upload) as path:
            yield path


async def worker_with_full_disk(cluster: Cluster) -> tuple[WorkerProcess, SmallDisk]:
    worker = await cluster.worker("full")
    assert isinstance(worker.world.clips, BucketClips)
    uploads = worker.world.clips.uploads = SmallDisk(cluster.bucket, cluster.directory)
    return worker, uploads


def test_a_worker_with_a_full_disk_hands_its_runs_on_until_it_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.worker.RETRY_INTERVAL", 0.01)

    async def scene(cluster: Cluster) -> None:
        full, uploads = await worker_with_full_disk(cluster)
        full.disk_free = ROOM - 1
        replica = await cluster.replica()
        running = [asyncio.create_task(replica.run(name)) for name in ("english", "french")]
        await until(lambda: full.worker.disk_full and not full.worker.runs)
        full.now = 10 * PAUSE
        other = await cluster.worker("other")
        for _, text in await asyncio.gather(*running):
            assert text
        assert full.worker.disk_full
        assert full.world.clips.opened == 0
        await other.kill()
        running = [asyncio.create_task(replica.run("english"))]
        await until(lambda: cluster.queued == 1)
        uploads.full, full.disk_free = False, ROOM
        _, text = await running[0]
        assert text.startswith("red door.")
        assert not full.worker.disk_full

    play(tmp_path, scene)
    assert len([line for line in caplog.messages if "disk is full" in line]) == 1


def test_a_full_disk_stops_the_taking_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.worker.RETRY_INTERVAL", 0.01)

    async def scene(cluster: Cluster) -> None:
        full, uploads = await worker_with_full_disk(cluster)
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await until(lambda: full.worker.disk_full and not full.worker.runs)
        uploads.full = False  # others have deleted their files
        full.now = PAUSE - 1
        await until(lambda: cluster.queued == 1)
        assert full.worker.disk_full
        full.now = PAUSE
        _, text = await running
        assert text.startswith("red door.")

    play(tmp_path, scene)


def test_a_recording_that_is_too_large_for_all_disks_fails_at_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.worker.RETRY_INTERVAL", 0.01)

    async def scene(cluster: Cluster) -> None:
        full, uploads = await worker_with_full_disk(cluster)
        full.now = math.inf  # each pause is over
        replica = await cluster.replica()
        with pytest.raises(Unavailable, match="disk is full"):
            await replica.run("english")
        taken = [each for each in cluster.log.of("control") if b"taken" in (each.value or b"")]
        assert len(taken) == MOST_FULL_DISKS
        uploads.full = False
        _, text = await replica.run("french")
        assert text
        await until(lambda: cluster.objects("runs/") == [])

    play(tmp_path, scene)
