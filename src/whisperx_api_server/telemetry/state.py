"""The metrics that are read at each scrape: queues, models, jobs, live sessions, workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..backends.base import ShortContexts
from ..domain import JobState
from ..errors import Unavailable
from ..jobs.admission import AdmissionControl
from ..scheduling.model_pool import ModelPool, ModelStatus
from .gpus import Gpus

_MODEL = ("stage", "backend", "model")

Values = Counter[tuple[str, ...]]
"""A number for each model."""


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"whisperx_{name}", text, value=value)


@dataclass(frozen=True, kw_only=True)
class ServerState(Collector):
    """Reads the services of a process, on the event loop.

    `jobs` counts the jobs of each state; `live_sessions` and `workers` count those there are, and
    are None where the process has none to count.
    """

    pool: ModelPool
    admission: AdmissionControl
    active: Callable[[], int]
    jobs: Callable[[], Mapping[JobState, int]] = dict
    live_sessions: Callable[[], int] | None = None
    workers: Callable[[], int] | None = None
    gpus: Gpus = field(default_factory=Gpus)

    def collect(self) -> Iterable[Metric]:
        admission = self.admission
        yield _gauge("requests_active", "Requests and jobs under way.", self.active())
        yield _gauge(
            "queue_audio_seconds",
            "Audio that is not done: of admitted requests and of waiting jobs.",
            admission.queued,
        )
        yield _gauge("queue_limit_seconds", "Maximum of admitted audio.", admission.limit)
        yield _gauge(
            "audio_seconds_per_second_ratio", "Transcribed audio per second.", admission.speed
        )
        jobs = GaugeMetricFamily("whisperx_jobs", "Jobs that are kept, by state.", labels=["state"])
        for state, count in self.jobs().items():
            jobs.add_metric([state], count)
        yield jobs
        if self.live_sessions is not None:
            yield _gauge("live_sessions", "Live sessions that are open.", self.live_sessions())
        if self.workers is not None:
            yield _gauge("workers", "Workers that are alive.", self.workers())
        yield from _models(self.pool.statuses())
        yield from _gpus(self.gpus)


def _gpus(gpus: Gpus) -> Iterable[Metric]:
    used = GaugeMetricFamily("whisperx_gpu_memory_used_bytes", "Used memory.", labels=["gpu"])
    all_ = GaugeMetricFamily("whisperx_gpu_memory_total_bytes", "All memory.", labels=["gpu"])
    for index, (used_bytes, all_bytes) in gpus.memory().items():
        used.add_metric([str(index)], used_bytes)
        all_.add_metric([str(index)], all_bytes)
    yield used
    yield all_


def _models(statuses: Iterable[ModelStatus]) -> Iterable[Metric]:
    """The gauges of loaded models; several aligners can have one name and differ by language."""

    def metric(
        name: str,
        text: str,
        values: Mapping[tuple[str, ...], float],
        family: type[GaugeMetricFamily | CounterMetricFamily] = GaugeMetricFamily,
    ) -> Metric:
        metric = family(f"whisperx_{name}", text, labels=_MODEL)
        for model, value in values.items():
            metric.add_metric(model, value)
        return metric

    loaded, memory, waiting, running, limit = (Values() for _ in range(5))
    enabled, short, repeated = Values(), Values(), Values()
    for status in statuses:
        if status.state != "ready":
            continue
        model = (status.key.stage, status.key.backend, status.key.name)
        loaded[model] += 1
        memory[model] += status.memory_bytes
        waiting[model] += status.waiting
        running[model] += status.lane.in_flight
        limit[model] = status.lane.batch_limit
        with suppress(Unavailable):  # unloaded meanwhile
            engine = status.lane.model
            if isinstance(engine, ShortContexts):
                enabled[model] += engine.context_stats.short
                short[model] += engine.context_stats.windows
                repeated[model] += engine.context_stats.repeated
    yield metric("models_loaded", "Models that are loaded.", loaded)
    yield metric("model_memory_bytes", "Growth of the process at the load of a model.", memory)
    yield metric("lane_waiting_entries", "Entries that wait for a batch.", waiting)
    yield metric("lane_running_entries", "Entries of the batch that is computed.", running)
    yield metric("lane_batch_limit", "Maximum size of a batch at present.", limit)
    yield metric("short_contexts_enabled", "1: encodes in short contexts; 0: in 30 s.", enabled)
    yield metric(
        "short_contexts", "Windows encoded in a short context.", short, CounterMetricFamily
    )
    yield metric(
        "short_contexts_repeated",
        "Windows of a short context that were decoded again.",
        repeated,
        CounterMetricFamily,
    )
