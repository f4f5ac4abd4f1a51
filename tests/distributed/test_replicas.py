"""Jobs of several replicas: any of them answers, and takes up those of one that is gone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from uuid import uuid4

import pytest

from cluster import Cluster, play
from live import until
from memory_cluster import MemoryBucket
from receiver import Receiver
from replicas import Line, Process, process, quicken
from whisperx_api_server.distributed.files import READS
from whisperx_api_server.distributed.protocols import StoredObject
from whisperx_api_server.domain import DiarizeOptions, Job, join_texts
from whisperx_api_server.errors import (
    NotFound,
    Overloaded,
    TakenOver,
    Unavailable,
    VersionMismatch,
)
from whisperx_api_server.jobs.service import TranscriptionService


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def test_any_replica_answers_for_a_job(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            job = await here.submit("english")
            assert (await there.service.find(job, "ann")).state == "queued"
            with pytest.raises(NotFound):
                await there.service.find(job, "bob")
            await until(worker.world.hold.entered.is_set)
            async for seen in there.service.watch(job, "ann"):
                if isinstance(seen, Job) and seen.state == "running":
                    break
            worker.world.hold.go.set()
            assert (await there.ended(job)).state == "completed"
            assert (await there.service.result(job, "ann")).text.startswith("red door.")
            await there.service.cancel(job, "ann")
            with pytest.raises(NotFound):
                await there.service.find(job, "ann")
            await until(lambda: job not in here.service._records)
            assert cluster.objects() == []

    play(tmp_path, scene)


class Watcher:
    """Watches a job with its text."""

    def __init__(self, process: Process, job_id: str) -> None:
        self.states: list[str] = []
        self.windows: list[int] = []
        self.texts: list[tuple[str, str | None]] = []
        self._task = asyncio.create_task(self._watch(process.service, job_id))

    async def _watch(self, service: TranscriptionService, job_id: str) -> None:
        async for change in service.watch(job_id, "ann", with_windows=True):
            if isinstance(change, Job):
                self.states.append(change.state)
                continue
            self.windows.append(change.transcript.window_index)
            self.texts += [(each.text, each.language) for each in change.transcript.segments]

    async def text(self) -> str:
        """All of the text, once the job has ended."""
        await self._task
        return join_texts(self.texts)


def test_any_replica_sends_the_text_of_a_job(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "diarize"
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            job = await here.submit("english", diarize=DiarizeOptions())
            watcher = Watcher(there, job)
            await until(lambda: len(watcher.windows) > 0)
            assert "completed" not in watcher.states
            worker.world.hold.go.set()
            text = await watcher.text()
            assert watcher.windows == [*range(len(watcher.windows))]
            assert text == (await there.service.result(job, "ann")).text != ""

    play(tmp_path, scene)


def test_the_text_is_whole_at_a_replica_that_saw_no_window_before_the_end(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            first, second = await here.submit("english"), await here.submit("english")
            await until(lambda: cluster.queued == 1)  # they share a run
            watcher = Watcher(there, second)
            await until(lambda: watcher.states != [])
            await cluster.worker()
            assert await watcher.text() == (await there.service.result(first, "ann")).text

    play(tmp_path, scene)


def test_the_text_goes_on_when_the_watching_replica_takes_up_the_job(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "diarize"
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english", diarize=DiarizeOptions())
                watcher = Watcher(staying, job)
                await until(lambda: len(watcher.windows) > 0)
            await until(lambda: job in staying.service._records)
            worker.world.hold.go.set()
            assert await watcher.text() == (await staying.service.result(job, "ann")).text
            assert watcher.windows == [*range(len(watcher.windows))]

    play(tmp_path, scene)


def test_malformed_ids_are_not_looked_up(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "one") as one:
            cluster.bucket.down = True
            for wrong in ("x" * 5000, "\u00b2" * 32, "..", "a/b"):
                with pytest.raises(NotFound):
                    await one.service.find(wrong, "ann")
            cluster.bucket.down = False

    play(tmp_path, scene)


def test_jobs_are_listed_by_few_reads_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = most = 0
    get = MemoryBucket.get

    async def counted(self: MemoryBucket, key: str) -> StoredObject | None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            return await get(self, key)
        finally:
            reading -= 1

    async def scene(cluster: Cluster) -> None:
        nonlocal most
        async with process(cluster, "one") as one:
            job = cluster.bucket.objects[f"jobs/{await one.submit('english')}/job.json"]
            for _ in range(3 * READS):
                await cluster.bucket.put(f"jobs/{uuid4().hex}/job.json", job)
            monkeypatch.setattr(MemoryBucket, "get", counted)
            assert len(await one.replica.jobs.all()) == 3 * READS + 1
            assert 1 < most <= READS + 5  # with what goes on besides

    play(tmp_path, scene)


def test_any_replica_cancels_a_job(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            job = await here.submit("english")
            await until(worker.world.hold.entered.is_set)
            assert (await there.service.cancel(job, "ann")).state == "cancelled"
            assert (await here.service.find(job, "ann")).state == "cancelled"
            worker.world.hold.go.set()
            await until(lambda: not cluster.queued and not worker.worker.seconds)

    play(tmp_path, scene)


def test_a_job_that_shares_the_run_of_a_cancelled_one_completes(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "one") as one:
            first, second = await one.submit("english"), await one.submit("english")
            await until(lambda: cluster.queued == 1)  # they share it
            assert (await one.service.cancel(first, "ann")).state == "cancelled"
            await cluster.worker()
            assert (await one.ended(second)).state == "completed"
            assert (await one.service.result(second, "ann")).text.startswith("red door.")
            await until(lambda: cluster.objects("runs/") == [])

    play(tmp_path, scene)


def test_the_jobs_of_a_replica_that_ends_are_taken_up(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        with Receiver() as receiver:
            async with process(cluster, "staying") as staying:
                async with process(cluster, "leaving") as leaving:
                    job = await leaving.submit("english", receiver.url)
                    await until(worker.world.hold.entered.is_set)
                assert job in {each for each, _ in await staying.replica.jobs.owners()}
                await until(lambda: job in staying.service._records)
                worker.world.hold.go.set()
                assert (await staying.ended(job)).state == "completed"
                assert worker.world.clips.opened == 1  # the worker went on meanwhile
                await until(lambda: len(receiver.deliveries) == 1)
                await until(lambda: cluster.objects("open/") == [])

    play(tmp_path, scene)


def test_a_replica_without_kafka_gives_up_jobs_that_another_has(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        line = Line(cluster.log)
        with Receiver() as receiver:
            async with process(cluster, "cut", line) as cut, process(cluster, "other") as other:
                job = await cut.submit("english", receiver.url)
                watching = asyncio.create_task(cut.ended(job))
                await until(worker.world.hold.entered.is_set)
                stale = cut.service.job(job, "ann")
                line.cut = True
                await until(lambda: job in other.service._records)
                await until(lambda: job not in cut.service._records)
                assert cluster.objects(f"runs/{job}/request.json")  # its run is not cancelled
                worker.world.hold.go.set()
                assert (await other.ended(job)).state == "completed"
                assert (await watching).state == "completed"
                assert worker.world.clips.opened == 1
                await until(lambda: cluster.objects("open/") == [])
                assert len(receiver.deliveries) == 1
                with pytest.raises(TakenOver):
                    await cut.replica.jobs.save(stale)
                cut.replica.jobs.note(stale)
                await cut.replica.jobs._write_note(job)
                assert (await cut.service.find(job, "ann")).state == "completed"

    play(tmp_path, scene)


def test_the_end_of_a_job_is_not_written_by_a_replica_that_lost_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        line = Line(cluster.log)
        async with process(cluster, "cut", line) as cut, process(cluster, "other") as other:

            async def look_away(service: TranscriptionService) -> None:
                pass

            monkeypatch.setattr(cut.replica, "_look_at_jobs", look_away)
            job = await cut.submit("english")
            await until(worker.world.hold.entered.is_set)
            line.cut = True
            await until(lambda: job in other.service._records)
            assert job in cut.service._records
            with pytest.raises(Unavailable):  # it cannot ask the one that has the job
                await cut.service.cancel(job, "ann")
            assert job not in cut.service._records
            assert cluster.objects(f"runs/{job}/request.json")
            worker.world.hold.go.set()
            assert (await other.ended(job)).state == "completed"
            assert (await cut.service.result(job, "ann")).text.startswith("red door.")

    play(tmp_path, scene)


def test_a_write_that_is_later_than_a_takeover_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = MemoryBucket.get

    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "slow") as slow, process(cluster, "other") as other:
            job = await slow.submit("english")
            stale = slow.service.job(job, "ann")
            taken: list[object] = []
            writing = asyncio.current_task()

            async def overtaken(self: MemoryBucket, key: str) -> StoredObject | None:
                found = await get(self, key)
                if asyncio.current_task() is writing and not taken:
                    taken.append(None)
                    taken[0] = await other.replica.jobs.take_over(job, "slow")
                return found

            monkeypatch.setattr(MemoryBucket, "get", overtaken)
            with pytest.raises(TakenOver):
                await slow.replica.jobs.save(stale)
            assert taken[0] is not None
            assert await other.replica.jobs.owners() == {(job, "other")}

    play(tmp_path, scene)


def test_a_takeover_whose_answer_is_lost_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = MemoryBucket.replace
    lost = 0

    async def loses_one(self: MemoryBucket, key: str, data: bytes, etag: str) -> str | None:
        nonlocal lost
        version = await replaced(self, key, data, etag)
        lost += 1
        return version if lost > 1 else None

    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english")
            monkeypatch.setattr(MemoryBucket, "replace", loses_one)
            await until(lambda: job in staying.service._records)
            await cluster.worker()
            assert (await staying.ended(job)).state == "completed"
            assert lost > 1

    play(tmp_path, scene)


def test_jobs_of_another_version_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        strange = uuid4().hex
        await cluster.bucket.put(f"open/{strange}/newer", b"")
        await cluster.bucket.put(f"jobs/{strange}/job.json", b'{"version": "private"}')
        await cluster.bucket.put(f"runs/{strange}/request.json", b'{"version": "private"}')
        kept = cluster.objects()
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english")
                await until(worker.world.hold.entered.is_set)
            await until(lambda: job in staying.service._records)
            worker.world.hold.go.set()
            await staying.ended(job)
            listed, _ = await staying.service.jobs("ann", None, None, 10)
            assert [each.id for each in listed] == [job]
            with pytest.raises(VersionMismatch):
                await staying.service.find(strange, "ann")
            await staying.replica.jobs.delete_old(-1, lambda _: False)
            assert cluster.objects() == kept
            await staying.replica.jobs.delete_old(1000, lambda _: True)
            assert cluster.objects() == kept
            await staying.replica.jobs.delete_old(-1, lambda _: True)
            assert cluster.objects() == []
        assert f"job {strange} cannot be read" in caplog.text
        assert "private" not in caplog.text

    play(tmp_path, scene)


def test_a_task_of_a_replica_that_failed_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        async with process(cluster, "staying") as staying:
            look, failures = staying.replica._look_at_jobs, 0

            async def fail_once(service: TranscriptionService) -> None:
                nonlocal failures
                if not failures:
                    failures += 1
                    raise RuntimeError("a defect")
                await look(service)

            monkeypatch.setattr(staying.replica, "_look_at_jobs", fail_once)
            await until(lambda: failures == 1)
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english")
                await until(worker.world.hold.entered.is_set)
            await until(lambda: job in staying.service._records)
            worker.world.hold.go.set()
            assert (await staying.ended(job)).state == "completed"

    play(tmp_path, scene)


def test_a_job_whose_request_was_not_kept_fails(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "staying") as staying:
            async with process(cluster, "leaving") as leaving:
                job = await leaving.submit("english")
            await cluster.bucket.delete(f"runs/{job}")
            ended = await staying.ended(job)
            assert ended.error is not None
            assert ended.error.code == "interrupted"

    play(tmp_path, scene)


def test_without_the_bucket_jobs_are_refused(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "here") as here:
            cluster.bucket.down = True
            with pytest.raises(Unavailable):
                await here.submit("english")
            cluster.bucket.down = False

    play(tmp_path, scene)


def test_without_workers_requests_are_refused_and_jobs_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.kafka_runner.PATIENCE", 0.1)

    async def scene(cluster: Cluster) -> None:
        lonely = await cluster.replica()
        async with process(cluster, "here") as here:
            job = await here.submit("english")
            began = time.monotonic()
            await until(lambda: time.monotonic() - began > 0.15)
            with pytest.raises(Unavailable, match="no worker"):
                await lonely.run("english")
            await cluster.worker()
            assert (await here.ended(job)).state == "completed"

    play(tmp_path, scene)


def test_old_objects_are_deleted(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        async with process(cluster, "here") as here:
            await here.ended(await here.submit("english"))
            running = await here.submit("english")
            await here.ended(running)
            await cluster.bucket.put("memory/left/1-behind-x", b"{}")
            await cluster.bucket.put("runs/left/audio/0", b"behind")
            kept = cluster.objects()
            await here.replica.jobs.delete_old(1000, lambda _: False)
            assert cluster.objects() == kept
            await here.replica.jobs.delete_old(-1, lambda _: False)
            assert cluster.objects() == []

    play(tmp_path, scene)


def test_a_job_that_waits_for_long_is_not_deleted_by_other_replicas(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            job = await here.submit("english")
            await until(lambda: cluster.queued == 1)
            kept = cluster.objects()
            await there.replica.jobs.delete_old(-1, lambda _: False)
            assert cluster.objects() == kept
            await cluster.worker()
            assert (await there.ended(job)).state == "completed"

    play(tmp_path, scene)


def test_the_limit_of_the_queue_is_one_for_all_replicas(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "transcribe"
        async with process(cluster, "here") as here, process(cluster, "there") as there:
            there.service.admit()
            job = await here.submit("english")

            def is_full() -> bool:
                try:
                    there.service.admit()
                except Overloaded:
                    return True
                return False

            await until(is_full)
            worker.world.hold.go.set()
            await here.ended(job)
            await until(lambda: not is_full())

    play(tmp_path, scene)
