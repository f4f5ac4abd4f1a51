"""`serve` and `worker` in one process, over queues and a bucket in memory: `memory_server.py PORT`.

What `server.Server` starts for the HTTP tests of MODE=kafka.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from memory_cluster import Broker, MemoryBucket, MemoryLog, MemoryQueue
from whisperx_api_server.config import load_settings
from whisperx_api_server.distributed import heartbeats
from whisperx_api_server.distributed.cluster import Cluster
from whisperx_api_server.logging_setup import configure_logging
from whisperx_api_server.main import create_app
from whisperx_api_server.serving import Server
from whisperx_api_server.worker_app import create_worker

vars(heartbeats)["INTERVAL"] = 0.1  # what a worker has in hand is seen at once


def main(port: int) -> None:
    settings = load_settings().model_copy(update={"mode": "kafka"})
    configure_logging(settings.log_level, settings.log_format)
    brokers = [Broker() for _ in range(settings.kafka.queues)]
    log, bucket = MemoryLog(), MemoryBucket()

    @asynccontextmanager
    async def connected() -> AsyncIterator[Cluster]:
        queues = [MemoryQueue(broker) for broker in brokers]
        yield Cluster(queues=queues, log=log, bucket=bucket)
        for queue in queues:
            await queue.close()

    application = create_app(settings, port=port, cluster=connected)
    worker = create_worker(settings, cluster=connected)
    serve_alone = application.router.lifespan_context

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[None]:
        async with worker.router.lifespan_context(worker), serve_alone(app):
            yield

    application.router.lifespan_context = both
    Server(application, host="127.0.0.1", port=port, grace=settings.shutdown_grace).run()


if __name__ == "__main__":
    main(int(sys.argv[-1]))
