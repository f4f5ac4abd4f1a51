"""Queue and Log: the same of Kafka as of their stand-ins in memory."""

from __future__ import annotations

import asyncio
import sys
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import pytest

from brokers import Kafka
from memory_cluster import Broker, MemoryLog, MemoryQueue
from support import PATIENCE
from whisperx_api_server.distributed.connection import KafkaSettings
from whisperx_api_server.distributed.kafka import Kafka as Cluster
from whisperx_api_server.distributed.kafka import open_kafka
from whisperx_api_server.distributed.protocols import (
    CaughtUp,
    Delivery,
    Log,
    Message,
    Position,
    Queue,
)
from whisperx_api_server.errors import Unavailable

LOCK = 1.5  # seconds; where a lock is to end
LONG_LOCK = 30.0
IMPLEMENTATIONS = ["memory", "real"]


class Consumers:
    """One queue and its consumers."""

    def __init__(self, join: Callable[[], Queue], advance: Callable[[float], None]) -> None:
        self._join = join
        self._joined: list[Queue] = []
        self.advance = advance

    def join(self) -> Queue:
        queue = self._join()
        self._joined.append(queue)
        return queue

    async def close(self) -> None:
        for queue in self._joined:
            await queue.close()


def settings(servers: str, lock: float = LONG_LOCK) -> KafkaSettings:
    """A cluster of its own on a broker."""
    return KafkaSettings(
        bootstrap_servers=servers, prefix=f"t{uuid.uuid4().hex}", queues=1, lock_seconds=lock
    )


@asynccontextmanager
async def memory_consumers(lock: float) -> AsyncIterator[Consumers]:
    broker = Broker(lock)
    yield Consumers(lambda: MemoryQueue(broker), broker.advance)


def time_passes(seconds: float) -> None:
    """A broker's clock needs no help."""


@asynccontextmanager
async def kafka_consumers(servers: str, lock: float) -> AsyncIterator[Consumers]:
    async with open_kafka(settings(servers, lock)) as kafka:
        consumers = Consumers(lambda: kafka.queue("queue.v1.0"), time_passes)
        try:
            yield consumers
        finally:
            await consumers.close()


Scene = Callable[[Consumers], Awaitable[None]]


class Play(Protocol):
    def __call__(self, scene: Scene, lock: float = LONG_LOCK) -> None: ...


@pytest.fixture(params=IMPLEMENTATIONS)
def play(request: pytest.FixtureRequest) -> Play:
    """Run a scene on a new queue."""
    in_memory = request.param == "memory"
    servers = "" if in_memory else request.getfixturevalue("kafka_servers")

    async def scenario(scene: Scene, lock: float) -> None:
        opened = memory_consumers(lock) if in_memory else kafka_consumers(servers, lock)
        async with opened as consumers:
            await scene(consumers)

    def run(scene: Scene, lock: float = LONG_LOCK) -> None:
        asyncio.run(scenario(scene, lock))

    return run


def values(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [each.value for each in deliveries]


def counts(deliveries: Sequence[Delivery]) -> list[int]:
    return [each.count for each in deliveries]


async def taken(queue: Queue, number: int) -> list[Delivery]:
    """Take as many records, which may come one by one."""
    deliveries: list[Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while len(deliveries) < number:
            deliveries += await queue.take(number - len(deliveries), wait=PATIENCE)
    return deliveries


def test_records_sent_before_the_first_consumer_go_to_one_consumer_each(
    play: Play,
) -> None:
    async def scene(consumers: Consumers) -> None:
        a, b = consumers.join(), consumers.join()
        for value in (b"0", b"1", b"2"):
            await a.send(value)
        first = await a.take(1, wait=PATIENCE)
        assert (values(first), counts(first)) == ([b"0"], [1])
        rest = await taken(b, 2)
        assert (values(rest), counts(rest)) == ([b"1", b"2"], [1, 1])
        assert await a.take(1, wait=0.1) in ([], ())
        assert [await a.accept(each) for each in first] == [True]
        assert [await b.accept(each) for each in rest] == [True, True]
        await a.close()
        await b.close()
        assert await consumers.join().take(3, wait=0.5) in ([], ())

    play(scene)


def test_released_record_goes_elsewhere_with_a_higher_count(play: Play) -> None:
    async def scene(consumers: Consumers) -> None:
        a, b = consumers.join(), consumers.join()
        await a.send(b"0")
        (held,) = await taken(a, 1)
        await a.release(held)
        (again,) = await taken(b, 1)
        assert again.count == 2
        assert not await a.accept(held)
        assert await b.accept(again)

    play(scene)


def test_record_is_lost_after_the_lock_time_unless_it_is_renewed(
    play: Play,
) -> None:
    async def scene(consumers: Consumers) -> None:
        a, b = consumers.join(), consumers.join()
        await b.take(1, wait=0.1)  # connected before the locks run
        await a.send(b"renewed")
        await a.send(b"lapsed")
        renewed, lapsed = await taken(a, 2)
        again: Sequence[Delivery] = []
        while not again:
            assert await a.renew([renewed]) in ([], ())
            consumers.advance(LOCK / 3)
            again = await b.take(2, wait=LOCK / 3)
        assert (values(again), counts(again)) == ([b"lapsed"], [2])
        assert await a.renew([renewed, lapsed]) == [lapsed]
        assert not await a.accept(lapsed)
        assert await b.accept(again[0])
        assert await a.accept(renewed)

    play(scene, LOCK)


def test_closing_releases_at_once(play: Play) -> None:
    async def scene(consumers: Consumers) -> None:
        a, b = consumers.join(), consumers.join()
        await a.send(b"0")
        (held,) = await taken(a, 1)
        await a.close()
        (again,) = await taken(b, 1)
        assert again.count == 2
        assert not await a.accept(held)

    play(scene)


def test_cancelled_take_leaves_the_record_to_others(play: Play) -> None:
    async def scene(consumers: Consumers) -> None:
        a, b = consumers.join(), consumers.join()
        await a.send(b"first")
        assert await a.accept((await taken(a, 1))[0])
        waiting = asyncio.create_task(a.take(1, wait=PATIENCE))
        await asyncio.sleep(0.05)  # the request is with the broker
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        await a.send(b"second")
        async with asyncio.timeout(PATIENCE):
            (second,) = await taken(b, 1)
        assert second.value == b"second"
        assert await b.accept(second)

    play(scene)


Logs = Callable[[Callable[[Log], Awaitable[None]]], None]


@pytest.fixture(params=IMPLEMENTATIONS)
def on_log(request: pytest.FixtureRequest) -> Logs:
    """Run a scene on a new log."""

    async def memory(scene: Callable[[Log], Awaitable[None]]) -> None:
        await scene(MemoryLog())

    async def real(scene: Callable[[Log], Awaitable[None]]) -> None:
        async with open_kafka(settings(servers)) as kafka:
            await scene(kafka.log)

    if request.param == "memory":
        return lambda scene: asyncio.run(memory(scene))
    servers = request.getfixturevalue("kafka_servers")
    return lambda scene: asyncio.run(real(scene))


async def contents(log: Log, topic: str, since: Position | None = None) -> list[Message]:
    """What a topic holds."""
    found: list[Message] = []
    async with aclosing(log.read(topic, since=since or "earliest")) as messages:
        async for each in messages:
            if isinstance(each, CaughtUp):
                return found
            found.append(each)
    raise AssertionError("a log has no end")


def test_log_keeps_the_order_of_a_key_and_replays_from_a_position(on_log: Logs) -> None:
    async def scene(log: Log) -> None:
        assert await contents(log, "events") == []
        positions = [await log.append("events", "run", str(n).encode()) for n in range(20)]
        await log.append("events", "other", b"x")
        found = [each for each in await contents(log, "events") if each.key == "run"]
        assert [each.value for each in found] == [str(n).encode() for n in range(20)]
        assert [each.position for each in found] == positions
        replayed = await contents(log, "events", positions[15])
        assert [each.value for each in replayed if each.key == "run"][:1] == [b"15"]
        assert (await log.end_offsets("events"))[positions[0].partition] >= 20

    on_log(scene)


def test_log_has_tombstones_and_an_empty_topic_is_caught_up(on_log: Logs) -> None:
    async def scene(log: Log) -> None:
        await log.append("members", "a", b"1")
        await log.append("members", "a", None)
        found = await contents(log, "members")
        assert [(each.key, each.value) for each in found] == [("a", b"1"), ("a", None)]

    on_log(scene)


def test_reader_from_the_end_gets_what_is_appended_after_it_caught_up(on_log: Logs) -> None:
    async def scene(log: Log) -> None:
        await log.append("control", "a", b"before")
        async with aclosing(log.read("control", since="latest")) as messages:
            assert isinstance(await anext(messages), CaughtUp)
            await log.append("control", "a", b"after")
            message = await anext(messages)
            assert isinstance(message, Message)
            assert message.value == b"after"

    on_log(scene)


HOLDER = """
import asyncio, sys
from whisperx_api_server.distributed.connection import KafkaSettings
from whisperx_api_server.distributed.kafka import open_kafka

async def hold():
    settings = KafkaSettings.model_validate_json(sys.argv[1])
    async with open_kafka(settings) as kafka:
        print(await kafka.queue("queue.v1.0").take(1, wait=30), flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


def test_record_of_a_killed_process_goes_to_another_at_once(kafka_servers: str) -> None:
    async def scenario() -> None:
        cluster = settings(kafka_servers)
        async with open_kafka(cluster) as kafka:
            queue = kafka.queue("queue.v1.0")
            await queue.send(b"0")
            holder = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", HOLDER, cluster.model_dump_json()), stdout=PIPE
            )
            assert holder.stdout is not None
            assert b"value=b'0'" in await holder.stdout.readline()
            assert await queue.take(1, wait=0.1) in ([], ())
            holder.kill()
            async with asyncio.timeout(LONG_LOCK / 2):
                (again,) = await taken(queue, 1)
            assert again.count == 2
            await queue.close()
            await holder.wait()

    asyncio.run(scenario())


def test_broker_restart_loses_locks_and_no_record(real_kafka: Kafka) -> None:
    async def scene(kafka: Cluster) -> None:
        queue = kafka.queue("queue.v1.0")
        for value in (b"accepted", b"held", b"waiting"):
            await queue.send(value)
        accepted, held = await taken(queue, 2)
        assert await queue.accept(accepted)
        async with aclosing(kafka.log.read("control", since="latest")) as messages:
            assert isinstance(await anext(messages), CaughtUp)
            await asyncio.to_thread(real_kafka.server.stop)
            appended = asyncio.create_task(kafka.log.append("control", "a", b"while it is away"))
            await asyncio.to_thread(real_kafka.server.start)
            await appended
            message = await anext(messages)
            assert isinstance(message, Message)
            assert message.value == b"while it is away"
        assert await queue.renew([held]) == [held]
        await queue.send(b"later")
        again = await taken(queue, 3)
        assert sorted(values(again)) == [b"held", b"later", b"waiting"]
        assert not await queue.accept(held)
        assert [await queue.accept(each) for each in again] == [True, True, True]
        await queue.close()

    async def scenario() -> None:
        async with open_kafka(settings(real_kafka.server.address)) as kafka:
            await scene(kafka)

    asyncio.run(scenario())


def test_log_goes_on_after_an_error_that_ends_its_producer(kafka_servers: str) -> None:
    async def scenario() -> None:
        async with open_kafka(settings(kafka_servers)) as kafka:
            with pytest.raises(Unavailable):
                await kafka.log.append("events", "run", bytes(2 << 20))
            await kafka.log.append("events", "run", b"1")
            assert [each.value for each in await contents(kafka.log, "events")] == [b"1"]

    asyncio.run(scenario())
