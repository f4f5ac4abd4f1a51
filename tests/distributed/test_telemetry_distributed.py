"""An API server of MODE=kafka and a worker show metrics and readiness, and share traces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from memory_cluster import Broker, MemoryBucket, MemoryLog, MemoryQueue
from server import FAKE
from support import eventually
from tones import sentences
from whisperx_api_server.config import Settings
from whisperx_api_server.distributed.cluster import Cluster
from whisperx_api_server.distributed.members import Members
from whisperx_api_server.distributed.protocols import StoredObject
from whisperx_api_server.distributed.readiness import ClusterCheck
from whisperx_api_server.main import create_app
from whisperx_api_server.telemetry.telemetry import Telemetry
from whisperx_api_server.worker_app import create_worker


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, value in (FAKE | {"MODE": "kafka", "API_KEY": "sesame"}).items():
        monkeypatch.setenv(name, value)
    return Settings()


@contextmanager
def both(
    settings: Settings,
    *,
    of_replica: Telemetry | None = None,
    of_worker: Telemetry | None = None,
    log: MemoryLog | None = None,
    bucket: MemoryBucket | None = None,
) -> Iterator[TestClient]:
    """An API server, with a worker below /worker, on one event loop."""
    brokers = [Broker() for _ in range(settings.kafka.queues)]
    log, bucket = log or MemoryLog(), bucket or MemoryBucket()

    @asynccontextmanager
    async def connected() -> AsyncIterator[Cluster]:
        queues = [MemoryQueue(broker) for broker in brokers]
        yield Cluster(queues=queues, log=log, bucket=bucket)
        for queue in queues:
            await queue.close()

    worker = create_worker(settings, cluster=connected, telemetry=of_worker)
    replica = create_app(settings, cluster=connected, telemetry=of_replica)
    replica.mount("/worker", worker)
    serve_alone = replica.router.lifespan_context

    @asynccontextmanager
    async def run_both(app: FastAPI) -> AsyncIterator[None]:
        async with worker.router.lifespan_context(worker), serve_alone(app):
            yield

    replica.router.lifespan_context = run_both
    with TestClient(replica, headers={"authorization": "Bearer sesame"}) as client:
        yield client


def shows(client: TestClient, path: str, line: str) -> bool:
    return line in client.get(path).raise_for_status().text.splitlines()


def test_both_count_the_workers_and_the_run(settings: Settings) -> None:
    with both(settings) as client:
        for path in ("/metrics", "/worker/metrics"):
            eventually(
                lambda path=path: shows(client, path, "whisperx_workers 1.0")  # type: ignore[misc]
            )
        audio = {"file": ("a.wav", sentences(1))}
        client.post("/v1/audio/transcriptions", files=audio).raise_for_status()

        completed = 'whisperx_runs_total{kind="transcription",result="completed"} 1.0'
        assert shows(client, "/metrics", completed)
        eventually(lambda: shows(client, "/worker/metrics", completed))
        assert "whisperx_batch_entries_sum" in client.get("/worker/metrics").text


def test_both_are_ready_while_they_reach_broker_and_bucket(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.heartbeats.INTERVAL", 0.05)
    monkeypatch.setattr("whisperx_api_server.distributed.members.SILENT", 1.0)
    monkeypatch.setattr("whisperx_api_server.distributed.readiness.CHECK_INTERVAL", 0.0)
    log, bucket = MemoryLog(), MemoryBucket()
    with both(settings, log=log, bucket=bucket) as client:

        def state(path: str) -> tuple[int, str]:
            answer = client.get(path)
            error = answer.json().get("error", {"message": ""})
            return answer.status_code, error["message"]

        def are(status: int, word: str) -> bool:
            states = [state("/ready"), state("/worker/ready")]
            return all(code == status and word in message for code, message in states)

        eventually(partial(are, 200, ""))
        for part, word in ((log, "broker"), (bucket, "bucket")):
            part.down = True
            eventually(partial(are, 503, word))
            assert state("/healthcheck")[0] == state("/worker/healthcheck")[0] == 200
            part.down = False
            eventually(partial(are, 200, ""))


def test_the_bucket_is_asked_once_for_all_checks_of_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bucket, asked = MemoryBucket(), 0
        check = ClusterCheck("here", members=Members(), bucket=bucket)

        async def never_answers(key: str) -> StoredObject | None:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()
            return None

        vars(bucket)["get"] = never_answers
        monkeypatch.setattr("whisperx_api_server.distributed.readiness.CHECK_TIMEOUT", 0.01)
        monkeypatch.setattr("whisperx_api_server.distributed.readiness.CHECK_INTERVAL", 1000)
        outcomes = await asyncio.gather(*(check() for _ in range(5)), return_exceptions=True)
        assert {str(each) for each in outcomes} == {
            "the server cannot reach its object store: it does not answer in time"
        }
        assert asked == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("form", [{}, {"async": "true"}], ids=["request", "job"])
def test_a_worker_continues_the_trace(settings: Settings, form: Mapping[str, str]) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the otel extra is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from whisperx_api_server.telemetry.tracing import Tracing

    exporters = [InMemorySpanExporter() for _ in range(2)]
    ours, workers = (Telemetry(tracing=Tracing(SimpleSpanProcessor(each))) for each in exporters)
    trace = "0af7651916cd43dd8448eb211c80319c"
    with both(settings, of_replica=ours, of_worker=workers) as client:
        client.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", sentences(1))},
            data=form,
            headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        ).raise_for_status()

        def run_of_worker() -> list[str]:
            spans = exporters[1].get_finished_spans()
            return [f"{span.context.trace_id:032x}" for span in spans if span.name == "run"]

        eventually(lambda: bool(run_of_worker()))
        assert run_of_worker() == [trace]
