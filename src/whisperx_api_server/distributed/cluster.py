"""The connections of one process to the cluster: queues, log, bucket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from .bucket import S3Settings, open_bucket
from .connection import KafkaSettings
from .protocols import Bucket, ClusterError, Log, Queue
from .topics import queue_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The queues of runs, the log and the bucket."""

    queues: Sequence[Queue]
    log: Log
    bucket: Bucket


ClusterOpener = Callable[[], AbstractAsyncContextManager[Cluster]]
"""Connects a process; leaving the context disconnects it."""


@asynccontextmanager
async def open_cluster(
    kafka: KafkaSettings, s3: S3Settings, max_age: float | None = None
) -> AsyncIterator[Cluster]:
    """Connect to Kafka and S3; topics and the bucket are made when absent.

    `max_age` is that of jobs, in seconds, where it is known: the store deletes what is older.

    Raises:
        ClusterError: one line that names what is wrong.
    """
    try:
        from .kafka import open_kafka
    except ImportError as error:
        raise ClusterError(
            "MODE=kafka needs two packages: pip install 'whisperx-api-server[kafka]'"
        ) from error
    bucket = await open_bucket(s3, max_age)
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_kafka(kafka))
        queues = [opened.queue(queue_name(number)) for number in range(kafka.queues)]
        for queue in queues:
            stack.push_async_callback(queue.close)
        yield Cluster(queues=queues, log=opened.log, bucket=bucket)


def member_name() -> str:
    """A name for this process that no other has had."""
    return f"{socket.gethostname()}-{uuid4().hex[:8]}"
