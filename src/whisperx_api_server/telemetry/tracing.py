"""Traces requests, runs, stages and batches with OpenTelemetry (extra `otel`).

This module is imported only where an endpoint is set. A run is a child of the request that began
it. A batch is a span of its own, which links the runs and live sessions that share it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..backends import ModelKey
from ..domain import TranscriptionRequest
from ..errors import Cancelled, ServiceError
from ..pipeline.events import Emit, Event, Progress
from ..pipeline.runner import Checkpoint, RunKind, Runner, RunnerAround
from ..scheduling.observation import BatchDone, ModelLoaded, Observation
from ..trace_context import trace_context

SERVICE = "whisperx-api-server"

MAX_RUNS = 10_000
"""Maximum number of runs and live sessions, with the ended ones, that batches can link; the oldest
are forgotten."""


def export_to(endpoint: str) -> SpanProcessor:
    """Export spans over OTLP/HTTP; the SDK reads its other settings from the environment."""
    return BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces"))


class Tracing:
    """Makes the spans of one process. Thread-safe."""

    def __init__(self, processor: SpanProcessor) -> None:
        # A name in OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES wins.
        default = Resource({SERVICE_NAME: SERVICE})
        named = Resource.create()
        unnamed = str(named.attributes[SERVICE_NAME]).startswith("unknown_service")
        self._provider = TracerProvider(resource=named.merge(default) if unnamed else named)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()
        self._runs: dict[str, SpanContext] = {}

    async def close(self) -> None:
        """Export what is left."""
        await asyncio.to_thread(self._provider.shutdown)

    def headers(self) -> dict[str, str]:
        """The headers that continue the current trace elsewhere; none outside of a trace."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return headers

    @contextmanager
    def request(self, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request or live session, which continues the trace of its client."""
        with self._tracer.start_as_current_span(
            "request",
            context=self._propagator.extract(headers, Context()),
            kind=SpanKind.SERVER,
            record_exception=False,
        ) as span:
            trace_context.set(self.headers())
            yield span

    @asynccontextmanager
    async def run(
        self, kind: str, request: TranscriptionRequest, emit: Emit
    ) -> AsyncIterator[Emit]:
        """The span of a run, with its stages as children; wraps `emit` to learn of them."""
        progress = Progress()

        async def traced(event: Event) -> None:
            nonlocal progress
            progress = progress.after(event)
            await emit(event)

        attributes = {"whisperx.run.kind": kind, "whisperx.run.id": request.id}
        here = get_current_span().get_span_context().is_valid
        # In a worker of MODE=kafka, the trace comes from the replica.
        context = None if here else self._propagator.extract(trace_context.get(), Context())
        with self._tracer.start_as_current_span(
            "run",
            context=context,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            trace_context.set(self.headers())
            self.link(request.id)
            try:
                yield traced
            except ServiceError as error:
                span.set_attribute("error.type", error.code)
                span.set_status(Status(StatusCode.ERROR))
                raise
            except (asyncio.CancelledError, Cancelled):
                span.set_attribute("error.type", "cancelled")
                raise
            finally:
                if progress.duration is not None:
                    span.set_attribute("whisperx.audio.seconds", progress.duration)
                self._add_stages(progress)

    def link(self, request_id: str) -> None:
        """Link the batches of a run or live session to the current span.

        The last batch may end after it.
        """
        self._runs[request_id] = get_current_span().get_span_context()
        if len(self._runs) > MAX_RUNS:
            del self._runs[next(iter(self._runs))]

    def _add_stages(self, progress: Progress) -> None:
        for stage in progress.stages:
            span = self._tracer.start_span(stage.name, start_time=_nanoseconds(stage.started_at))
            span.end(_nanoseconds(stage.finished_at or time.time()))

    def observe(self, key: ModelKey, observation: Observation) -> None:
        """Make the span of a batch, or of the load of a model."""
        model = {
            "whisperx.model.stage": key.stage,
            "whisperx.model.backend": key.backend,
            "whisperx.model.name": key.name,
        }
        match observation:
            case BatchDone() as batch:
                runs = [self._runs.get(each) for each in batch.request_ids]
                self._tracer.start_span(
                    "batch",
                    context=Context(),
                    links=[Link(run) for run in runs if run is not None],
                    attributes=model | {"whisperx.batch.entries": len(batch.waits)},
                    start_time=_nanoseconds(batch.at),
                ).end(_nanoseconds(batch.at + batch.seconds))
            case ModelLoaded(seconds=seconds):
                now = time.time()
                self._tracer.start_span(
                    "load",
                    context=Context(),
                    attributes=model,
                    start_time=_nanoseconds(now - seconds),
                ).end(_nanoseconds(now))
            case _:
                pass


class TracedRunner(RunnerAround):
    """A runner whose runs are traced."""

    def __init__(self, runner: Runner, tracing: Tracing) -> None:
        super().__init__(runner)
        self._tracing = tracing

    def around(
        self, kind: RunKind, request: TranscriptionRequest, emit: Emit, _checkpoint: Checkpoint
    ) -> AbstractAsyncContextManager[Emit]:
        """Return the span of a run."""
        return self._tracing.run(kind, request, emit)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
