"""The metrics of one process, which `GET /metrics` shows to Prometheus.

Labels have bounded values: routes as the server defines them, stages, states, and the names of
models that were loaded. Text of clients is never a label.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from ..backends import BUILT_IN, ModelKey
from ..pipeline.runner import RunKind
from ..scheduling.observation import (
    BatchDone,
    EntriesCancelled,
    LaneRestarted,
    LoadFailed,
    ModelLoaded,
    Observation,
)

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

LATENCIES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Seconds of requests, batches and waits."""

DELAYS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
LOADS = (0.3, 1, 3, 10, 30, 100, 300, 1000)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
FACTORS = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5)

_MODEL = ("stage", "backend", "model")

RunResult = Literal["completed", "refused", "invalid", "failed", "cancelled"]
"""How a run ended: `refused` by the full queue, `invalid` with a status below 500."""


@dataclass(frozen=True, eq=False)
class _Read(Collector):
    """Metrics that were read."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.metrics


class _Registry(CollectorRegistry):
    """Makes metrics with the server's prefix."""

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"whisperx_{name}", text, labels, registry=self)

    def histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"whisperx_{name}", text, labels, buckets=buckets, registry=self)


class _ModelMetrics:
    """What happened to each model: its loads, its batches and the entries of its lane."""

    def __init__(self, registry: _Registry) -> None:
        self.lane_wait = registry.histogram(
            "lane_wait_seconds", "Time that entries waited for their batch.", LATENCIES, *_MODEL
        )
        self.lane_cancelled = registry.counter(
            "lane_cancelled_entries_total", "Waiting entries that were cancelled.", *_MODEL
        )
        self.lane_restarts = registry.counter(
            "lane_restarts_total", "Threads of lanes that died and were replaced.", *_MODEL
        )
        self.batch_entries = registry.histogram(
            "batch_entries", "Entries of each batch.", SIZES, *_MODEL
        )
        self.batch_seconds = registry.histogram(
            "batch_duration_seconds", "Duration of each batch.", LATENCIES, *_MODEL
        )
        self.batches_full = registry.counter(
            "batches_full_total", "Batches of the maximum size.", *_MODEL
        )
        self.batches_halved = registry.counter(
            "batches_halved_total", "Batches, and halves of them, halved after an error.", *_MODEL
        )
        self.entries_failed = registry.counter(
            "batch_failed_entries_total", "Entries that failed alone.", *_MODEL
        )
        self.load_seconds = registry.histogram(
            "model_load_duration_seconds", "Duration of each load.", LOADS, *_MODEL
        )
        self.load_failures = registry.counter(
            "model_load_failures_total", "Loads that failed.", "stage", "backend"
        )
        for backend, stages in BUILT_IN.items():
            for stage in stages:
                self.load_failures.labels(stage, backend)

    def observe(self, key: ModelKey, observation: Observation) -> None:
        model = (key.stage, key.backend, key.name)
        match observation:
            case ModelLoaded(seconds=seconds):
                self.load_seconds.labels(*model).observe(seconds)
                self._begin_at_zero(model)
            case LoadFailed():
                self.load_failures.labels(key.stage, key.backend).inc()
            case BatchDone() as batch:
                self._count_batch(model, batch)
            case EntriesCancelled(entries=entries):
                self.lane_cancelled.labels(*model).inc(entries)
            case LaneRestarted():
                self.lane_restarts.labels(*model).inc()

    def _begin_at_zero(self, model: tuple[str, str, str]) -> None:
        self.load_failures.labels(*model[:2])
        for counter in (
            self.lane_cancelled,
            self.lane_restarts,
            self.batches_full,
            self.batches_halved,
            self.entries_failed,
        ):
            counter.labels(*model)

    def _count_batch(self, model: tuple[str, str, str], batch: BatchDone) -> None:
        size = len(batch.waits)
        self.batch_entries.labels(*model).observe(size)
        self.batch_seconds.labels(*model).observe(batch.seconds)
        self.batches_full.labels(*model).inc(size >= batch.limit)
        self.batches_halved.labels(*model).inc(batch.halvings)
        self.entries_failed.labels(*model).inc(batch.failed)
        wait = self.lane_wait.labels(*model)
        for seconds in batch.waits:
            wait.observe(seconds)


class Metrics:
    """Counters and histograms, and the registry that holds them. Thread-safe.

    Counters whose labels are known begin at 0: Prometheus' `increase` does not see the first event
    of a series that begins with it.
    """

    def __init__(self) -> None:
        self._registry = registry = _Registry()
        self._states: list[Collector] = []
        ProcessCollector(registry=registry)
        self.requests = registry.counter(
            "http_requests_total", "HTTP requests.", "method", "route", "status"
        )
        self.request_seconds = registry.histogram(
            "http_request_duration_seconds", "From a request to its last byte.",
            LATENCIES, "method", "route",
        )  # fmt: skip
        self.runs = registry.counter(
            "runs_total", "Runs that ended, by their result.", "kind", "result"
        )
        for kind, result in product(get_args(RunKind), get_args(RunResult)):
            self.runs.labels(kind, result)
        self.run_seconds = registry.histogram(
            "run_duration_seconds", "From the start of a run to its end.", LATENCIES, "kind"
        )
        self.real_time_factor = registry.histogram(
            "run_real_time_factor_ratio", "Seconds of a completed run per second of audio, "
            "from its admission.", FACTORS, "kind",
        )  # fmt: skip
        self.audio_accepted = registry.counter("audio_accepted_seconds_total", "Admitted audio.")
        self.audio_transcribed = registry.counter(
            "audio_transcribed_seconds_total", "Transcribed audio."
        )
        self.audio_refused = registry.counter(
            "audio_refused_seconds_total", "Audio that was refused since the queue was full."
        )
        self.audio_dropped = registry.counter(
            "audio_dropped_seconds_total",
            "Admitted audio that was not transcribed, because its clients disconnected or "
            "cancelled the job.",
        )
        self._models = _ModelMetrics(registry)
        self.webhooks = registry.counter(
            "webhook_deliveries_total", "Webhooks that were delivered or given up.", "result"
        )
        for result in ("delivered", "failed"):
            self.webhooks.labels(result)
        self.live_delay = registry.histogram(
            "live_delay_seconds", "From the end of a turn to its whole transcript.", LATENCIES
        )
        self.loop_lag = registry.histogram(
            "event_loop_lag_seconds", "Delays of a timer on the event loop.", DELAYS
        )

    def observe(self, key: ModelKey, observation: Observation) -> None:
        """Count what happened to a model."""
        self._models.observe(key, observation)

    @contextmanager
    def reading(self, state: Collector) -> Iterator[None]:
        """Show the metrics of `state` too, read at each scrape, while the context is open."""
        self._states.append(state)
        try:
            yield
        finally:
            self._states.remove(state)

    async def scrape(self) -> bytes:
        """All metrics in Prometheus' text format; a thread formats them."""
        return await asyncio.to_thread(self._text, self._read())

    def text(self) -> bytes:
        """The same, at once."""
        return self._text(self._read())

    def _read(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(_Read([each for state in self._states for each in state.collect()]))
        return registry

    def _text(self, read: CollectorRegistry) -> bytes:
        return generate_latest(self._registry) + generate_latest(read)
