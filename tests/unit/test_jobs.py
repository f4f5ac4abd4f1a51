"""Jobs without HTTP: what ends them, what is kept, and what the next start makes of it."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from live import until
from receiver import Receiver
from support import PATIENCE
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.audio.urls import UrlFetcher, UrlFetchSettings
from whisperx_api_server.domain import (
    Job,
    OutputOptions,
    StageTimes,
    Transcript,
    TranscriptionRequest,
    Upload,
    WindowTranscript,
)
from whisperx_api_server.errors import (
    ConfigurationError,
    Conflict,
    NotFound,
    Overloaded,
    Unavailable,
)
from whisperx_api_server.jobs import service as jobs
from whisperx_api_server.jobs.admission import AdmissionControl
from whisperx_api_server.jobs.service import TranscriptionService
from whisperx_api_server.jobs.store import DiskJobStore, JobSettings
from whisperx_api_server.jobs.webhooks import Webhooks
from whisperx_api_server.pipeline.events import Emit, Opened, StageBegan, WindowDone
from whisperx_api_server.pipeline.runner import Checkpoint, Runner

ID = "0123456789abcdef0123456789abcdef"
TRANSCRIPT = Transcript(task="transcribe", language="en", languages=(), duration=4.0, segments=())
WINDOW = WindowTranscript(window_index=0, language="en", language_probability=1.0, segments=())
Work = Callable[[Emit], Awaitable[None]]


class ScriptedRunner:
    """Does what the test says."""

    def __init__(self, work: Work) -> None:
        self.work = work

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        await self.work(emit)
        return TRANSCRIPT


class FullDisk(DiskJobStore):
    """Takes jobs, but nothing when they end."""

    async def save(self, job: Job) -> None:
        if job.ended:
            raise Unavailable("the disk is full")
        await super().save(job)


async def at_once(emit: Emit) -> None:
    await emit(StageBegan(stage="open", at=time.time()))
    await emit(Opened(duration=4.0))


async def forever(emit: Emit) -> None:
    await emit(StageBegan(stage="open", at=time.time()))
    await asyncio.Event().wait()


class Place:
    """A directory in which one service after another runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.active = ActiveRequests()
        self.uploads = DiskBlobStore(workdir=directory, max_bytes=9)

    def files(self) -> set[str]:
        """What lies there beside the jobs."""
        return {path.name for path in self.directory.iterdir()} - {"jobs"}

    async def upload(self) -> Upload:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"sound"

        return await self.uploads.put(chunks(), filename="a.wav")

    @asynccontextmanager
    async def service(
        self,
        work: Work = at_once,
        *,
        store: type[DiskJobStore] = DiskJobStore,
        max_age: float = 1000,
        back_off: float = 0.01,
        secret: str | None = "secret",
        retry_window: float = 600,
        max_count: int = 10,
    ) -> AsyncIterator[TranscriptionService]:
        policy = UrlFetchSettings(allow_private_hosts=True, timeout=PATIENCE)
        made = TranscriptionService(
            cast("Runner", ScriptedRunner(work)),
            active=self.active,
            admission=AdmissionControl(1e9),
            blobs=self.uploads,
            store=store(self.directory / "jobs"),
            webhooks=Webhooks(
                UrlFetcher(policy, uploads=self.uploads), secret=secret, back_off=(back_off,)
            ),
            settings=JobSettings(max_age=max_age, max_count=max_count, retry_window=retry_window),
        )
        await made.start()
        try:
            yield made
        finally:
            await made.close()

    async def submit(self, service: TranscriptionService, **options: Any) -> Job:
        upload = await self.upload()
        request = TranscriptionRequest(
            id=ID,
            source=upload,
            model="tiny",
            client="ann",
        )
        resources = AsyncExitStack()
        resources.push_async_callback(self.uploads.release, upload)
        return await service.submit(request, OutputOptions(), resources, **options)


async def watched(service: TranscriptionService) -> AsyncIterator[Job]:
    async for change in service.watch(ID, "ann"):
        if isinstance(change, Job):
            yield change


async def end_of(service: TranscriptionService) -> Job:
    seen = [job async for job in watched(service)]
    return seen[-1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_job_ends_and_lets_go_of_its_upload(place: Place) -> None:
    async def scenario() -> None:
        async with place.service() as service:
            await place.submit(service)
            assert service.job(ID, "ann").state == "queued"
            ended = await end_of(service)
            assert (ended.state, ended.progress, ended.duration) == ("completed", 1.0, 4.0)
            assert await service.result(ID, "ann") == TRANSCRIPT
            assert place.active.count == 0

    asyncio.run(scenario())
    assert not place.files()


def test_a_slow_reader_sees_the_end_too(place: Place) -> None:
    release = asyncio.Event()

    async def until_released(emit: Emit) -> None:
        await emit(StageBegan(stage="open", at=time.time()))
        await release.wait()

    async def scenario() -> None:
        async with place.service(until_released) as service:
            await place.submit(service)
            seen = []
            async for job in watched(service):
                seen.append(job.state)
                if job.state == "running":  # the job ends while this event is being sent
                    release.set()
                    await until(lambda: service.job(ID, "ann").ended)
            assert seen[-1] == "completed"

    asyncio.run(scenario())


def test_an_unexpected_error_fails_the_job_with_a_reason(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(emit: Emit) -> None:
        raise ZeroDivisionError("secret detail")

    async def scenario() -> None:
        async with place.service(breaks) as service:
            await place.submit(service)
            ended = await end_of(service)
            assert ended.state == "failed"
            assert ended.error is not None
            assert ended.error.code == "internal_error"
            assert "secret detail" not in ended.error.message
            with pytest.raises(Conflict):
                await service.result(ID, "ann")

    asyncio.run(scenario())
    assert "secret detail" in caplog.text
    assert not place.files()


def test_it_is_not_at_its_end_while_something_is_missing(place: Place) -> None:
    async def last_window_is_heard(emit: Emit) -> None:
        await emit(Opened(duration=4.0))
        await emit(StageBegan(stage="transcribe", at=time.time()))
        await emit(WindowDone(transcript=WINDOW, until=4.0))
        await asyncio.Event().wait()  # the speakers are missing

    async def scenario() -> None:
        async with place.service(last_window_is_heard) as service:
            await place.submit(service)
            await until(lambda: service.job(ID, "ann").progress > 0.9)
            assert service.job(ID, "ann").progress < 1
            assert service.job(ID, "ann").state == "running"

    asyncio.run(scenario())


def test_a_full_disk_does_not_keep_the_watchers_waiting(place: Place) -> None:
    async def scenario() -> None:
        async with place.service(store=FullDisk) as service:
            await place.submit(service)
            assert (await end_of(service)).state == "completed"

    asyncio.run(scenario())


def test_a_transcript_that_cannot_be_kept_fails_the_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(DiskJobStore, "save_transcript", refuse)

    async def scenario() -> None:
        async with place.service() as service:
            await place.submit(service)
            ended = await end_of(service)
            assert ended.error is not None
            assert (ended.state, ended.error.message) == ("failed", "the disk is full")

    asyncio.run(scenario())


def test_a_job_waits_while_the_server_is_full(place: Place) -> None:
    states: list[str] = []

    async def full_at_first(emit: Emit) -> None:
        if not states:
            states.append("full")
            raise Overloaded("full", retry_after=0.001)
        await at_once(emit)

    async def scenario() -> None:
        async with place.service(full_at_first) as service:
            await place.submit(service)
            seen = [job.state async for job in watched(service)]
            assert "failed" not in seen
            assert seen[-1] == "completed"

    asyncio.run(scenario())
    assert not place.files()


def test_too_many_jobs_under_way_are_refused_and_not_kept(place: Place) -> None:
    async def scenario() -> None:
        async with place.service(forever, max_count=1) as service:
            await place.submit(service)
            resources = AsyncExitStack()
            upload = await place.upload()
            resources.push_async_callback(place.uploads.release, upload)
            another = TranscriptionRequest(id="another", source=upload, model="tiny", client="bob")
            async with resources:
                with pytest.raises(Overloaded) as caught:
                    await service.submit(another, OutputOptions(), resources)
            assert caught.value.retry_after == 1
            with pytest.raises(NotFound):
                service.job("another", "bob")
            await service.cancel(ID, "ann")
            await service.submit(another, OutputOptions(), AsyncExitStack())

    asyncio.run(scenario())
    assert not place.files()


def test_cancelling_ends_the_run_and_a_second_time_deletes(place: Place) -> None:
    async def scenario() -> None:
        async with place.service(forever) as service:
            await place.submit(service)
            await until(lambda: service.job(ID, "ann").state == "running")
            assert (await service.cancel(ID, "ann")).state == "cancelled"
            assert not place.files()
            assert place.active.count == 0
            await service.cancel(ID, "ann")
            with pytest.raises(NotFound):
                service.job(ID, "ann")

    asyncio.run(scenario())
    assert list((place.directory / "jobs").iterdir()) == []


def test_a_job_that_is_ending_is_not_cancelled_halfway(place: Place) -> None:
    saving, go_on = asyncio.Event(), asyncio.Event()

    class SlowDisk(DiskJobStore):
        async def save(self, job: Job) -> None:
            if job.ended:
                saving.set()
                await go_on.wait()
            await super().save(job)

    async def scenario() -> None:
        async with place.service(store=SlowDisk) as service:
            await place.submit(service)
            await saving.wait()
            cancelling = asyncio.create_task(service.cancel(ID, "ann"))
            await asyncio.sleep(0)
            go_on.set()
            assert (await cancelling).state == "completed"
            assert await service.result(ID, "ann") == TRANSCRIPT

    asyncio.run(scenario())


def test_old_jobs_go_while_the_server_is_idle(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PRUNE_INTERVAL", 0.01)

    async def scenario() -> None:
        async with place.service(max_age=0.2) as service:
            await place.submit(service)
            assert (await end_of(service)).state == "completed"
            await until(lambda: not list((place.directory / "jobs").iterdir()))
            with pytest.raises(NotFound):
                service.job(ID, "ann")

    asyncio.run(scenario())


def test_results_of_runs_are_forgotten_while_the_server_is_idle(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PRUNE_INTERVAL", 0.01)
    kept: list[weakref.ref[Referable]] = []

    class Referable(WindowTranscript):
        """One that can be referred to weakly."""

    async def hears(emit: Emit) -> None:
        window = Referable(window_index=0, language="en", language_probability=1.0, segments=())
        kept.append(weakref.ref(window))
        await emit(WindowDone(transcript=window, until=4.0))

    async def scenario() -> None:
        source = await place.upload()
        request = TranscriptionRequest(id=ID, source=source, model="tiny", client="ann")
        async with place.service(hears, retry_window=0.5) as service:
            await service.run(request)
            assert kept[0]() is not None
            await until(lambda: kept[0]() is None)

    asyncio.run(scenario())


def test_the_next_start_fails_what_was_under_way_and_tells_of_it(place: Place) -> None:
    async def scenario(url: str) -> None:
        async with place.service(forever) as service:
            await place.submit(service, callback_url=url)
            await until(lambda: service.job(ID, "ann").state == "running")
        async with place.service() as service:
            job = service.job(ID, "ann")
            assert job.error is not None
            assert (job.state, job.error.code) == ("failed", "interrupted")
            await until(lambda: service.job(ID, "ann").notified)
        async with place.service() as service:
            assert service.job(ID, "ann").notified
            await asyncio.sleep(0.1)

    with Receiver([500]) as receiver:
        asyncio.run(scenario(receiver.url))
    assert len(receiver.deliveries) == 2  # one refused, one accepted, none after that
    assert not place.files()


def test_an_undelivered_event_is_delivered_after_a_restart(place: Place) -> None:
    async def scenario(receiver: Receiver) -> None:
        async with place.service(back_off=60.0) as service:
            await place.submit(service, callback_url=receiver.url)
            await until(lambda: len(receiver.deliveries) == 1)
        async with place.service() as service:
            await until(lambda: service.job(ID, "ann").notified)

    with Receiver([500]) as receiver:
        asyncio.run(scenario(receiver))
    first, second = receiver.deliveries
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


def test_the_stages_of_an_interrupted_job_have_ended(place: Place) -> None:
    store = DiskJobStore(place.directory / "jobs")
    stages = (StageTimes(name="open", started_at=1.0),)
    job = Job(id=ID, client="ann", state="running", submitted_at=1.0, stages=stages)
    asyncio.run(store.save(job))

    async def scenario() -> None:
        async with place.service() as service:
            job = service.job(ID, "ann")
            assert job.state == "failed"
            assert [stage.finished_at for stage in job.stages] == [job.finished_at]

    asyncio.run(scenario())


def test_an_event_whose_secret_was_removed_is_not_sent(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(url: str) -> None:
        async with place.service(forever) as service:
            await place.submit(service, callback_url=url)
            await until(lambda: service.job(ID, "ann").state == "running")
        async with place.service(secret=None):
            await until(lambda: "WEBHOOK_SECRET is not set" in caplog.text)

    with Receiver() as receiver:
        asyncio.run(scenario(receiver.url))
    assert receiver.deliveries == []


def test_a_second_service_leaves_the_jobs_of_the_first_alone(place: Place) -> None:
    async def scenario() -> None:
        async with place.service(forever) as first:
            await place.submit(first)
            await until(lambda: first.job(ID, "ann").state == "running")
            with pytest.raises(ConfigurationError):
                async with place.service():
                    pass
            assert first.job(ID, "ann").state == "running"

    asyncio.run(scenario())


def test_a_job_that_waits_for_room_is_queued(place: Place) -> None:
    async def waits(emit: Emit) -> None:
        await emit(StageBegan(stage="open", at=time.time()))
        await emit(StageBegan(stage="wait", at=time.time()))
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with place.service(waits) as service:
            await place.submit(service)
            await until(lambda: len(service.job(ID, "ann").stages) == 2)
            assert service.job(ID, "ann").state == "queued"

    asyncio.run(scenario())


@pytest.mark.parametrize(("reached", "eta"), [(1.0, 30.0), (3.0, 10 / 3)])
def test_the_time_left_follows_from_the_speed_so_far(
    place: Place, monkeypatch: pytest.MonkeyPatch, reached: float, eta: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)

    async def transcribes(emit: Emit) -> None:
        nonlocal now
        await emit(Opened(duration=4.0))
        now += 5.0
        await emit(StageBegan(stage="transcribe", at=time.time()))
        now += 10.0
        await emit(WindowDone(transcript=WINDOW, until=reached))
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with place.service(transcribes) as service:
            await place.submit(service)
            await until(lambda: service.job(ID, "ann").eta is not None)
            assert service.job(ID, "ann").eta == pytest.approx(eta)

    asyncio.run(scenario())


def test_a_shutdown_waits_for_jobs(place: Place) -> None:
    release = asyncio.Event()

    async def until_released(emit: Emit) -> None:
        await release.wait()

    async def scenario() -> None:
        async with place.service(until_released) as service:
            await place.submit(service)
            await until(lambda: bool(place.active.count))
            draining = asyncio.create_task(place.active.drain(20))
            await asyncio.sleep(0)
            assert place.active.draining
            release.set()
            assert await draining
            assert (await end_of(service)).state == "completed"

    asyncio.run(scenario())
