"""Metrics count what happens to runs, models and the event loop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from receiver import Receiver
from support import PATIENCE
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.audio.urls import UrlFetcher, UrlFetchSettings
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import ContextStats, ModelSpec
from whisperx_api_server.domain import (
    Diarization,
    RemoteUrl,
    Transcript,
    TranscriptionRequest,
    WindowTranscript,
)
from whisperx_api_server.errors import DiskFull, InsufficientMemory, InvalidRequest, ServiceError
from whisperx_api_server.jobs.admission import AdmissionControl, AdmittedRunner
from whisperx_api_server.loop_lag import LoopLag
from whisperx_api_server.pipeline.events import Emit, Opened, WindowDone
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.scheduling.batch_policy import BatchLimits
from whisperx_api_server.scheduling.fair_semaphore import FairSemaphore
from whisperx_api_server.scheduling.lane import Lane
from whisperx_api_server.scheduling.lane_worker import Place
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings
from whisperx_api_server.scheduling.observation import Observation
from whisperx_api_server.scheduling.work import Entry, Work
from whisperx_api_server.telemetry.gpus import Gpus
from whisperx_api_server.telemetry.measured_runs import MeasuredRunner
from whisperx_api_server.telemetry.metrics import Metrics
from whisperx_api_server.telemetry.services import MeasuredWebhooks
from whisperx_api_server.telemetry.state import ServerState

KEY = ModelKey(stage="vad", backend="fake", spec=ModelSpec(name="model"))


def shown(metrics: Metrics) -> Mapping[str, float]:
    """The metrics by name, each the sum over its labels."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            name = sample.name.removeprefix("whisperx_")
            values[name] = values.get(name, 0.0) + sample.value
    return values


class HalfDone:
    """A runner that transcribes 4 s of 10, then waits until it may go on, and ends as told."""

    def __init__(self) -> None:
        self.half = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        await emit(Opened(duration=10.0))
        await emit(WindowDone(transcript=window(), until=4.0))
        self.half.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return Transcript(
            task="transcribe", language="en", languages=("en",), duration=10.0, segments=()
        )

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        await emit(Opened(duration=10.0))
        return Diarization(turns=(), exclusive=(), embeddings={})

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
        await emit(Opened(duration=10.0))
        return {}


def window() -> WindowTranscript:
    return WindowTranscript(window_index=0, language="en", language_probability=1.0, segments=())


def request() -> TranscriptionRequest:
    return TranscriptionRequest(
        id="1", client="ann", source=RemoteUrl(url="http://x/a.wav"), model="m"
    )


async def ignore(_: object) -> None:
    pass


def test_audio_is_accepted_once_and_transcribed_to_its_end() -> None:
    async def scenario() -> None:
        metrics, inner = Metrics(), HalfDone()
        runner = MeasuredRunner(inner, metrics)
        run = asyncio.create_task(runner.run(request(), ignore, Checkpoint()))
        await inner.half.wait()
        halfway = shown(metrics)
        inner.go_on.set()
        await run

        assert halfway["audio_accepted_seconds_total"] == 10.0
        assert halfway["audio_transcribed_seconds_total"] == 4.0
        ended = shown(metrics)
        assert ended["audio_accepted_seconds_total"] == 10.0
        assert ended["audio_transcribed_seconds_total"] == 10.0
        assert ended["audio_dropped_seconds_total"] == 0.0
        assert ended["runs_total"] == ended["run_real_time_factor_ratio_count"] == 1

    asyncio.run(scenario())


def test_a_cancelled_run_drops_the_audio_that_was_not_transcribed() -> None:
    async def scenario() -> None:
        metrics, inner = Metrics(), HalfDone()
        run = asyncio.create_task(
            MeasuredRunner(inner, metrics).run(request(), ignore, Checkpoint())
        )
        await inner.half.wait()
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run

        ended = shown(metrics)
        assert ended["audio_dropped_seconds_total"] == 6.0
        assert b'runs_total{kind="transcription",result="cancelled"} 1.0' in metrics.text()

    asyncio.run(scenario())


def test_a_run_that_the_full_queue_refuses_counts_as_refused_only() -> None:
    async def scenario() -> None:
        metrics, inner, admission = Metrics(), HalfDone(), AdmissionControl(5.0)
        admitted = AdmittedRunner(inner, admission, timeout=0)
        with admission.reserve(1.0), pytest.raises(ServiceError):
            await MeasuredRunner(admitted, metrics).run(request(), ignore, Checkpoint())

        ended = shown(metrics)
        assert ended["audio_refused_seconds_total"] == 10.0
        assert ended["audio_accepted_seconds_total"] == 0.0
        assert b'result="refused"} 1.0' in metrics.text()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "result"), [(InvalidRequest("no audio"), "invalid"), (DiskFull(), "failed")]
)
def test_failures_of_the_server_are_told_from_recordings_that_it_cannot_read(
    error: ServiceError, result: str
) -> None:
    async def scenario() -> None:
        metrics, inner = Metrics(), HalfDone()
        inner.error = error
        inner.go_on.set()
        with pytest.raises(ServiceError):
            await MeasuredRunner(inner, metrics).run(request(), ignore, Checkpoint())

        assert (
            f'runs_total{{kind="transcription",result="{result}"}} 1.0' in metrics.text().decode()
        )

    asyncio.run(scenario())


def test_a_failed_run_has_no_real_time_factor() -> None:
    async def scenario() -> None:
        metrics, inner = Metrics(), HalfDone()
        inner.error = ServiceError("broken")
        inner.go_on.set()
        with pytest.raises(ServiceError):
            await MeasuredRunner(inner, metrics).run(request(), ignore, Checkpoint())

        assert b'result="failed"} 1.0' in metrics.text()
        assert "run_real_time_factor_ratio_count" not in shown(metrics)

    asyncio.run(scenario())


def test_other_runs_are_counted_by_their_kind() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        runner = MeasuredRunner(HalfDone(), metrics)
        await runner.diarize(request(), ignore)
        await runner.detect_language(request(), ignore)

        assert shown(metrics)["audio_accepted_seconds_total"] == 20.0
        for kind in (b"diarization", b"language_detection"):
            assert b'runs_total{kind="%s",result="completed"} 1.0' % kind in metrics.text()

    asyncio.run(scenario())


class Engine:
    """Does not have the memory for two, and its thread ends at a payload of None."""

    def run(self, payloads: list[int | None]) -> list[int | None]:
        if None in payloads:
            raise SystemExit
        if len(payloads) > 1:
            raise InsufficientMemory("two do not fit")
        if payloads == [13]:
            raise ValueError
        return payloads


WORK: Work[Engine, int | None, int | None] = Work(run=lambda model, xs, _: model.run(list(xs)))


def test_outcomes_of_batches_are_counted() -> None:
    metrics = Metrics()
    device = FairSemaphore(1)

    def observe(observation: Observation) -> None:
        metrics.observe(KEY, observation)

    lane: Lane[Engine] = Lane(
        "test",
        [Place(load=Engine, device=device)],
        limits=lambda _: BatchLimits(max_batch=2),
        observe=observe,
    )
    lane.loaded.result(PATIENCE)

    def entry(payload: int | None, request_id: str = "1") -> Entry[Engine, int | None, int | None]:
        return Entry(work=WORK, payload=payload, client="ann", request_id=request_id)

    with device:  # both wait, so they share a batch
        answers = [lane.submit(entry(1)), lane.submit(entry(13))]
        gone = lane.submit(entry(3, "2"))
        lane.cancel("2")
    assert gone.cancelled()
    assert answers[0].result(PATIENCE) == 1
    with pytest.raises(ServiceError):
        answers[1].result(PATIENCE)
    with pytest.raises(ServiceError):
        lane.submit(entry(None)).result(PATIENCE)
    lane.close().result(PATIENCE)

    counted = shown(metrics)
    assert counted["batch_entries_count"] == counted["batch_duration_seconds_count"] == 1
    assert counted["batch_entries_sum"] == counted["lane_wait_seconds_count"] == 2
    assert counted["batches_full_total"] == counted["batches_halved_total"] == 1
    assert counted["batch_failed_entries_total"] == counted["lane_cancelled_entries_total"] == 1
    assert counted["lane_restarts_total"] == 1


def test_the_counters_of_alerts_begin_at_0() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        at_start = metrics.text().decode()
        key = ModelKey(stage="vad", backend="plugin", spec=ModelSpec(name="new"))
        pool = ModelPool(
            PoolSettings(),
            SchedulerSettings(),
            load=lambda _: Engine(),
            import_vendors=lambda _: None,
            observe=metrics.observe,
        )
        await pool.load(key)
        loaded = metrics.text().decode()
        await pool.close()

        for counter in (
            'webhook_deliveries_total{result="failed"}',
            'model_load_failures_total{backend="whisperx",stage="transcription"}',
            'runs_total{kind="transcription",result="failed"}',
        ):
            assert f"whisperx_{counter} 0.0" in at_start
        for counter in (
            'lane_restarts_total{backend="plugin",model="new",stage="vad"}',
            'model_load_failures_total{backend="plugin",stage="vad"}',
        ):
            assert f"whisperx_{counter} 0.0" in loaded

    asyncio.run(scenario())


def test_loads_and_failed_loads_are_counted() -> None:
    async def scenario() -> None:
        metrics = Metrics()
        broken = ModelKey(stage="vad", backend="fake", spec=ModelSpec(name="broken"))

        def load(key: ModelKey) -> object:
            if key == broken:
                raise ValueError
            return object()

        pool = ModelPool(PoolSettings(), SchedulerSettings(), load=load, observe=metrics.observe)
        await pool.load(KEY)
        with pytest.raises(ServiceError):
            await pool.load(broken)
        await pool.close()

        assert shown(metrics)["model_load_duration_seconds_count"] == 1
        assert shown(metrics)["model_load_failures_total"] == 1
        assert b"broken" not in metrics.text()

    asyncio.run(scenario())


def test_delays_of_the_event_loop_are_counted() -> None:
    async def scenario() -> None:
        metrics, seen = Metrics(), asyncio.Event()

        def observe(delay: float) -> None:
            metrics.loop_lag.observe(delay)
            seen.set()

        watch = asyncio.create_task(LoopLag(observe).watch())
        await seen.wait()
        watch.cancel()

        assert shown(metrics)["event_loop_lag_seconds_count"] == 1

    asyncio.run(scenario())


def test_webhooks_are_counted_by_their_result(tmp_path: Path) -> None:
    policy = UrlFetchSettings(allow_private_hosts=True, timeout=PATIENCE)
    fetcher = UrlFetcher(policy, uploads=DiskBlobStore(workdir=tmp_path, max_bytes=1))
    metrics = Metrics()
    webhooks = MeasuredWebhooks(metrics, fetcher, secret="secret", back_off=())

    with Receiver([204, 500]) as receiver:
        for event in ("evt_1", "evt_2"):
            asyncio.run(webhooks.deliver(receiver.url, event, {}))

    for result in (b"delivered", b"failed"):
        assert b'webhook_deliveries_total{result="%s"} 1.0' % result in metrics.text()


class Nvml:
    """The driver's library, on a machine with a lost GPU and one of which 3 of 8 bytes are used."""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:  # noqa: N802
        device._obj.value = 100 + index
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:  # noqa: N802
        if device.value == 100:
            return 15  # NVML_ERROR_GPU_IS_LOST
        memory._obj.used, memory._obj.free, memory._obj.total = 3, 5, 8
        return 0


def test_the_memory_of_gpus_is_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Nvml())

    state = ServerState(
        pool=ModelPool(PoolSettings(), SchedulerSettings()),
        admission=AdmissionControl(1.0),
        active=int,
    )
    metrics = Metrics()
    with metrics.reading(state):
        text = metrics.text().decode()

    assert 'whisperx_gpu_memory_used_bytes{gpu="1"} 3.0' in text
    assert 'whisperx_gpu_memory_total_bytes{gpu="1"} 8.0' in text
    assert 'gpu="0"' not in text


def test_speed_and_workers_are_read_at_each_scrape() -> None:
    now, workers = [1000.0], ["one"]
    admission = AdmissionControl(100.0, clock=lambda: now[0])
    state = ServerState(
        pool=ModelPool(PoolSettings(), SchedulerSettings()),
        admission=admission,
        active=int,
        workers=lambda: len(workers),
    )
    metrics = Metrics()
    with metrics.reading(state):
        before = shown(metrics)
        with admission.reserve(60.0) as admitted:
            now[0] += 20
            admitted.advance(60.0)
        workers.clear()
        after = shown(metrics)

    speed = "audio_seconds_per_second_ratio"
    assert (before[speed], after[speed]) == (1.0, 3.0)
    assert (before["workers"], after["workers"]) == (1, 0)
    assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"] > 0
    assert after["process_resident_memory_bytes"] > 0


def test_the_memory_of_a_model_is_what_the_process_grew_by() -> None:
    async def scenario() -> None:
        size, metrics = 256_000_000, Metrics()
        pool = ModelPool(PoolSettings(), SchedulerSettings(), load=lambda _: b"x" * size)
        state = ServerState(pool=pool, admission=AdmissionControl(1.0), active=int)
        with metrics.reading(state):
            gc.collect()  # memory that is freed meanwhile would be subtracted
            await pool.load(KEY)
            assert shown(metrics)["model_memory_bytes"] > size / 4
            await pool.close()

    asyncio.run(scenario())


class ShortContextEngine:
    """Encodes in 30 s after it encoded 7 windows in a short context, and 2 of them again."""

    context_stats = ContextStats(short=False, windows=7, repeated=2)


def test_queue_and_lanes_are_read_at_each_scrape() -> None:
    async def scenario() -> None:
        metrics, admission, active = Metrics(), AdmissionControl(100.0), ActiveRequests()
        pool = ModelPool(PoolSettings(), SchedulerSettings(), load=lambda _: ShortContextEngine())
        state = ServerState(pool=pool, admission=admission, active=lambda: active.count)
        begun, go_on = threading.Event(), threading.Event()

        def wait(model: object, payloads: Sequence[int], _: object) -> Sequence[int]:
            begun.set()
            go_on.wait(PATIENCE)
            return payloads

        work: Work[object, int, int] = Work(run=wait)
        with metrics.reading(state):
            idle = shown(metrics)
            with admission.reserve(30.0), active.track():
                async with pool.lease(KEY) as lane:
                    entries = [
                        Entry(work=work, payload=each, client="ann", request_id="1")
                        for each in range(3)
                    ]
                    answers = [asyncio.wrap_future(lane.submit(entry)) for entry in entries]
                    await asyncio.to_thread(begun.wait, PATIENCE)
                    busy = shown(metrics)
                    go_on.set()
                    await asyncio.gather(*answers)
            await pool.close()
            after = shown(metrics)

        assert (idle["queue_audio_seconds"], busy["queue_audio_seconds"]) == (0.0, 30.0)
        assert busy["queue_limit_seconds"] == 100.0
        assert (idle["requests_active"], busy["requests_active"]) == (0, 1)
        assert (busy["lane_running_entries"], busy["lane_waiting_entries"]) == (1, 2)
        assert busy["models_loaded"] == busy["lane_batch_limit"] == 1
        assert busy["short_contexts_enabled"] == 0
        assert (busy["short_contexts_total"], busy["short_contexts_repeated_total"]) == (7, 2)
        assert after["queue_audio_seconds"] == 0.0
        assert "models_loaded" not in after
        assert "queue_limit_seconds" not in shown(metrics)

    asyncio.run(scenario())


class OtherReplica:
    """Has admitted 50 s."""

    seconds, speed = 50.0, 1.0


def test_the_queue_has_the_audio_of_other_replicas_and_of_waiting_jobs() -> None:
    async def scenario() -> None:
        metrics, admission = Metrics(), AdmissionControl(100.0, others=OtherReplica())
        pool = ModelPool(PoolSettings(), SchedulerSettings())
        with (
            metrics.reading(ServerState(pool=pool, admission=admission, active=int)),
            admission.reserve(20.0),
        ):
            assert shown(metrics)["queue_audio_seconds"] == 70.0
            job = asyncio.create_task(admission.wait(3600.0))
            await asyncio.sleep(0)
            assert shown(metrics)["queue_audio_seconds"] == 3670.0
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job
            assert shown(metrics)["queue_audio_seconds"] == 70.0

    asyncio.run(scenario())


def test_no_driver_means_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)

    assert Gpus().memory() == {}
