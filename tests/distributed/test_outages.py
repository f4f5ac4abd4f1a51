"""The broker or the bucket goes away at any moment of a job, which neither fails nor hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster, play
from live import until
from memory_cluster import MemoryBucket
from replicas import Process, process, quicken
from whisperx_api_server.distributed.protocols import ClusterUnavailable
from whisperx_api_server.domain import Transcript, TranscriptionRequest
from whisperx_api_server.errors import NotFound, Unavailable
from whisperx_api_server.jobs import service as jobs
from whisperx_api_server.pipeline.events import Emit, WindowDone
from whisperx_api_server.pipeline.runner import Checkpoint


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation that cannot be stored is answered soon."""
    monkeypatch.setattr(jobs, "CANCEL_WAIT", 0.1)


class Outage:
    """The bucket goes away at the first call of a method whose key and content have some text.

    With `done`, that call has its effect, and only its answer is lost.
    """

    def __init__(
        self, bucket: MemoryBucket, method: str, key: str, content: bytes = b"", *, done: bool
    ) -> None:
        self.began = False
        self.refused = 0
        self._bucket = bucket
        work: Callable[..., Awaitable[object]] = getattr(bucket, method)
        reach = bucket._reach

        async def call(name: str, *args: Any) -> object:
            now = not self.began and key in name and (not content or content in args[0])
            if now:
                self.began = True
                if done:
                    await work(name, *args)
                bucket.down = True
            return await work(name, *args)

        async def counted() -> None:
            self.refused += bucket.down
            await reach()

        vars(bucket).update({method: call, "_reach": counted})

    async def lasts(self) -> None:
        """Wait until the bucket has gone away and has refused some calls."""
        await until(lambda: self.began and self.refused > 10)

    def end(self) -> None:
        self._bucket.down = False


async def windows(process: Process, job: str) -> list[int]:
    """The windows that a watcher of a job sees until its end."""
    return [
        each.transcript.window_index
        async for each in process.service.watch(job, "ann", with_windows=True)
        if isinstance(each, WindowDone)
    ]


MOMENTS: dict[str, tuple[str, str] | tuple[str, str, bytes]] = {
    "the replica queues the job": ("get", "/request.json"),
    "the worker reads the recording": ("download", "/audio/"),
    "the worker stores events": ("put", "/events/"),
    "the worker stores the end of the run": ("create", "/end"),
    "the replica reads events": ("get", "/events/"),
    "the replica stores the transcript": ("put", "/transcript"),
    "the replica stores the end of the job": ("replace", "/job.json", b'"completed"'),
    "the replica deletes the run": ("delete", "runs/"),
    "the replica deletes the mark": ("delete", "open/"),
}


@pytest.mark.parametrize("done", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_completes_though_the_bucket_goes_away(
    tmp_path: Path, moment: str, done: bool
) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            outage = Outage(cluster.bucket, *MOMENTS[moment], done=done)
            job = await here.submit("english")
            seen = asyncio.create_task(windows(here, job))
            await outage.lasts()
            assert not here.service.job(job, "ann").ended
            outage.end()
            assert (await there.ended(job)).state == "completed"
            assert (await here.ended(job)).state == "completed"
            assert (await there.service.result(job, "ann")).text.startswith("red door.")
            assert await seen == list(range(len(await seen))) != []
            await until(lambda: not cluster.objects("runs/") + cluster.objects("open/"))
            assert cluster.queued == 0

    play(tmp_path, scene)


@pytest.mark.usefixtures("short_wait")
def test_a_job_is_cancelled_while_the_bucket_is_away(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            job = await here.submit("english")
            await until(worker.world.hold.entered.is_set)
            cluster.bucket.down = True
            for one in (here, there, here):
                with pytest.raises(Unavailable):
                    await one.service.cancel(job, "ann")
            cluster.bucket.down = False
            assert (await there.ended(job)).state == "cancelled"
            assert (await here.ended(job)).state == "cancelled"
            await until(lambda: not cluster.queued and not worker.worker.runs)
            worker.world.hold.go.set()
            await until(lambda: not cluster.objects("runs/") + cluster.objects("open/"))

    play(tmp_path, scene)


@pytest.mark.usefixtures("short_wait")
def test_a_job_is_cancelled_while_its_end_cannot_be_stored(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            outage = Outage(cluster.bucket, "put", "/transcript", done=False)
            job = await here.submit("english")
            await outage.lasts()
            with pytest.raises(Unavailable):
                await here.service.cancel(job, "ann")
            outage.end()
            assert (await there.service.cancel(job, "ann")).state == "cancelled"
            assert (await here.service.find(job, "ann")).state == "cancelled"

    play(tmp_path, scene)


def test_a_replica_ends_while_the_bucket_is_away_and_another_takes_up_its_job(
    tmp_path: Path,
) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                outage = Outage(cluster.bucket, "put", "/transcript", done=False)
                job = await leaving.submit("english")
                await outage.lasts()
            outage.end()
            await until(lambda: job in staying.service._records)
            assert (await staying.ended(job)).state == "completed"
            assert (await staying.service.result(job, "ann")).text.startswith("red door.")
            await until(lambda: not cluster.objects("runs/") + cluster.objects("open/"))

    play(tmp_path, scene)


@pytest.mark.parametrize("method", ["replace", "delete"])
def test_a_takeover_is_finished_though_the_bucket_goes_away(tmp_path: Path, method: str) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english")
            key = "/job.json" if method == "replace" else f"open/{job}/leaving"
            outage = Outage(cluster.bucket, method, key, done=True)
            await outage.lasts()
            outage.end()
            await until(lambda: job in staying.service._records)
            await cluster.worker()
            assert (await staying.ended(job)).state == "completed"

    play(tmp_path, scene)


def test_a_job_that_has_ended_is_not_said_to_be_deleted_while_the_bucket_is_away(
    tmp_path: Path,
) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here:
            job = await here.submit("english")
            await here.ended(job)
            cluster.bucket.down = True
            with pytest.raises(Unavailable):
                await here.service.cancel(job, "ann")
            cluster.bucket.down = False
            await here.service.cancel(job, "ann")
            with pytest.raises(NotFound):
                await here.service.find(job, "ann")
            assert cluster.objects() == []

    play(tmp_path, scene)


def test_a_job_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "here") as here:
            outage = Outage(cluster.bucket, "put", "/job.json", done=True)
            with pytest.raises(Unavailable):
                await here.submit("english")
            assert cluster.objects("jobs/")
            outage.end()
            await until(lambda: cluster.objects() == [])

    play(tmp_path, scene)


def test_a_job_waits_for_the_broker(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            refuse(cluster, True)
            job, unwanted = await here.submit("english"), await here.submit("french")
            await until(lambda: len(here.service._runs._alive) == 2)
            assert (await here.service.cancel(unwanted, "ann")).state == "cancelled"
            assert (await there.service.find(job, "ann")).state == "queued"
            refuse(cluster, False)
            assert (await there.ended(job)).state == "completed"
            assert (await there.service.find(unwanted, "ann")).state == "cancelled"
            await until(lambda: not cluster.objects("runs/") + cluster.objects("open/"))

    play(tmp_path, scene)


def refuse(cluster: Cluster, down: bool) -> None:
    """Have the broker refuse what is sent, or take it again."""
    cluster.log.down = down
    for broker in cluster.brokers:
        broker.down = down


def test_a_job_does_not_fail_with_the_request_whose_run_it_shares(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here:
            run, go = here.replica.runner.run, asyncio.Event()

            async def refuse_at_once(
                request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
            ) -> Transcript:
                if request.waits:
                    return await run(request, emit, checkpoint)
                await go.wait()
                raise ClusterUnavailable("the bucket cannot be reached")

            vars(here.replica.runner)["run"] = refuse_at_once
            asked = asyncio.create_task(here.service.run(await here.request("english")))
            await until(lambda: bool(here.service._runs._alive))
            job = await here.submit("english")
            (shared,) = here.service._runs._alive
            await until(lambda: shared.watchers == 2)
            go.set()
            with pytest.raises(Unavailable):
                await asked
            assert (await here.ended(job)).state == "completed"

    play(tmp_path, scene)
