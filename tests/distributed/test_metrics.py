"""An API server of MODE=kafka and a worker show their metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from whisperx_api_server.main import create_app
from whisperx_api_server.worker_app import create_worker


def test_both_count_the_workers_and_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (FAKE | {"MODE": "kafka", "API_KEY": "sesame"}).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    brokers = [Broker() for _ in range(settings.kafka.queues)]
    log, bucket = MemoryLog(), MemoryBucket()

    @asynccontextmanager
    async def connected() -> AsyncIterator[Cluster]:
        queues = [MemoryQueue(broker) for broker in brokers]
        yield Cluster(queues=queues, log=log, bucket=bucket)
        for queue in queues:
            await queue.close()

    worker, replica = (make(settings, cluster=connected) for make in (create_worker, create_app))
    replica.mount("/worker", worker)  # on the same event loop
    serve_alone = replica.router.lifespan_context

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[None]:
        async with worker.router.lifespan_context(worker), serve_alone(app):
            yield

    replica.router.lifespan_context = both
    with TestClient(replica, headers={"authorization": "Bearer sesame"}) as client:

        def shows(path: str, line: str) -> bool:
            return line in client.get(path).raise_for_status().text.splitlines()

        for path in ("/metrics", "/worker/metrics"):
            eventually(lambda path=path: shows(path, "whisperx_workers 1.0"))  # type: ignore[misc]
        audio = {"file": ("a.wav", sentences(1))}
        client.post("/v1/audio/transcriptions", files=audio).raise_for_status()

        completed = 'whisperx_runs_total{kind="transcription",result="completed"} 1.0'
        assert shows("/metrics", completed)
        eventually(lambda: shows("/worker/metrics", completed))
        assert "whisperx_batch_entries_sum" in client.get("/worker/metrics").text
