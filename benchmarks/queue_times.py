"""Times of MODE=kafka's queue: to hand out a record, and that of a killed worker again."""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing

from whisperx_api_server.distributed.connection import KafkaSettings
from whisperx_api_server.distributed.kafka import open_kafka
from whisperx_api_server.distributed.protocols import CaughtUp, Message
from whisperx_api_server.distributed.wire import CONTROL, Taken

from .common import TESTS

sys.path.insert(0, str(TESTS))

from live import PATH
from server import Server
from tones import CHUNK, sentences

RECORDS = 100

LONG = 400
"""Windows of a recording that no worker finishes meanwhile."""

RUNS = re.compile(r"^whisperx_requests_active [^0]", re.MULTILINE)

WAIT = 60.0
"""Seconds until a record that does not come is an error."""


def pick_up(servers: str) -> float:
    """The median seconds from sending a record to an idle queue until a consumer has it."""

    async def measure() -> float:
        settings = KafkaSettings(bootstrap_servers=servers, prefix=f"b{uuid.uuid4().hex}", queues=1)
        seconds = []
        async with open_kafka(settings) as kafka:
            queue = kafka.queue("queue.v1.0")
            await queue.take(1, wait=1.0)  # connects
            for _ in range(RECORDS):
                taking = asyncio.create_task(queue.take(1, wait=WAIT))
                await asyncio.sleep(0.02)  # its request is with the broker
                began = time.perf_counter()
                await queue.send(b"")
                (delivery,) = await taking
                seconds.append(time.perf_counter() - began)
                await queue.accept(delivery)
            await queue.close()
        return statistics.median(seconds)

    return asyncio.run(measure())


def move(servers: str, replica: Server, workers: list[Server]) -> float:
    """The median seconds from the kill of a worker until another one has its run.

    Workers are killed, and leave the list, until one is left.
    """

    async def measure() -> float:
        seconds = []
        async with open_kafka(KafkaSettings(bootstrap_servers=servers)) as kafka:
            while len(workers) > 1:
                async with aclosing(kafka.log.read("control", since="latest")) as messages:
                    assert isinstance(await anext(messages), CaughtUp)
                    job = await asyncio.to_thread(_submit, replica)
                    await _taken(messages, job)
                    victim = await asyncio.to_thread(_holder, workers)
                    began = time.perf_counter()
                    victim.process.kill()
                    await _taken(messages, job)
                    seconds.append(time.perf_counter() - began)
                    await asyncio.to_thread(replica.http.delete, f"{PATH}/{job}")
                workers.remove(victim)
        return statistics.median(seconds)

    return asyncio.run(measure())


def _submit(replica: Server) -> str:
    fields = {"async": "true", "language": "en"}
    answer = replica.transcribe(sentences(LONG), **fields, **CHUNK)
    job: str = answer.raise_for_status().json()["request_id"]
    return job


def _holder(workers: list[Server]) -> Server:
    """The worker that has a run."""
    while True:
        for worker in workers:
            if RUNS.search(worker.http.get("/metrics").text):
                return worker


async def _taken(messages: AsyncIterator[Message | CaughtUp], job: str) -> None:
    """Wait until a worker says that it has taken a job."""
    async with asyncio.timeout(WAIT):
        async for each in messages:
            if isinstance(each, Message) and each.value is not None:
                control = CONTROL.load(each.value)
                if isinstance(control, Taken) and control.run == job:
                    return
