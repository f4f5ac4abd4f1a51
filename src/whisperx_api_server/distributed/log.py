"""The log over Kafka: an idempotent producer, and readers without a group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from .protocols import CaughtUp, ClusterUnavailable, Message, Position

logger = logging.getLogger(__name__)

_APPEND_TIMEOUT = 30.0  # seconds
_POLL_MS = 1000
_RETRY_AFTER = 10.0


class KafkaLog:
    """Topics with a prefix; implements `protocols.Log`."""

    def __init__(self, *, options: Mapping[str, object], prefix: str) -> None:
        self._options = options
        self._prefix = prefix
        self._producer = self._new_producer()

    async def open(self) -> None:
        """Connect the producer."""
        try:
            await self._producer.start()
        except KafkaError as error:
            raise _unavailable() from error

    async def append(self, topic: str, key: str, value: bytes | None) -> Position:
        return await self._append(topic, key.encode(), value)

    async def send(self, topic: str, value: bytes) -> None:
        """Append a message without a key, as queues have them."""
        await self._append(topic, None, value)

    async def _append(self, topic: str, key: bytes | None, value: bytes | None) -> Position:
        """Append; after the timeout the broker may store the message yet, once."""
        producer = self._producer
        try:
            async with asyncio.timeout(_APPEND_TIMEOUT):
                stored = await producer.send(self._name(topic), value, key)
                metadata = await asyncio.shield(stored)
        except KafkaError as error:
            logger.warning("%s: a message was not stored: %r", topic, error)
            if not error.retriable and producer is self._producer:
                await self._replace_producer()
            raise _unavailable() from error
        except TimeoutError as error:
            logger.warning("%s: the brokers are away, a message is not stored yet", topic)
            raise _unavailable() from error
        return Position(partition=metadata.partition, offset=metadata.offset)

    async def _replace_producer(self) -> None:
        """An idempotent producer sends nothing after an error of its sequence."""
        broken, new = self._producer, self._new_producer()
        try:
            await new.start()
        except KafkaError:  # the next message that fails tries again
            await new.stop()
            return
        if self._producer is broken:
            self._producer = new
        else:  # another message was faster
            broken = new
        await broken.stop()

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(**self._options, enable_idempotence=True)

    async def read(
        self, topic: str, *, since: Literal["earliest", "latest"] | Position
    ) -> AsyncGenerator[Message | CaughtUp, None]:
        # A position that was deleted is read from the oldest message that is left.
        consumer = AIOKafkaConsumer(
            **self._options, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            await consumer.start()
            ends = await self._assign(consumer, topic, since)
            caught_up = False
            while True:
                if not caught_up and await _has_reached(consumer, ends):
                    caught_up = True
                    yield CaughtUp()
                batches = await consumer.getmany(timeout_ms=_POLL_MS)
                for partition, records in batches.items():
                    for record in records:
                        yield Message(
                            topic=topic,
                            key=(record.key or b"").decode(),
                            value=record.value,
                            position=Position(partition=partition.partition, offset=record.offset),
                        )
        except KafkaError as error:
            raise _unavailable() from error
        finally:
            await consumer.stop()

    async def _assign(
        self,
        consumer: AIOKafkaConsumer,
        topic: str,
        since: Literal["earliest", "latest"] | Position,
    ) -> dict[TopicPartition, int]:
        """Place a reader; returns the offsets at which it has caught up."""
        partitions = await self._partitions(topic)
        if isinstance(since, Position):
            partitions = [each for each in partitions if each.partition == since.partition]
        consumer.assign(partitions)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        for partition in partitions:
            if isinstance(since, Position):
                consumer.seek(partition, since.offset)
            elif since == "latest":
                consumer.seek(partition, ends[partition])
        if since == "earliest":
            await consumer.seek_to_beginning(*partitions)
        return ends

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        consumer = AIOKafkaConsumer(**self._options, enable_auto_commit=False)
        try:
            await consumer.start()
            ends = await consumer.end_offsets(await self._partitions(topic))
        except KafkaError as error:
            raise _unavailable() from error
        finally:
            await consumer.stop()
        return {partition.partition: offset for partition, offset in ends.items()}

    async def close(self) -> None:
        await self._producer.stop()

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        name = self._name(topic)
        return [TopicPartition(name, each) for each in await self._producer.partitions_for(name)]

    def _name(self, topic: str) -> str:
        return f"{self._prefix}.{topic}"


async def _has_reached(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    """Compare positions: the last messages before the ends may have been compacted away."""
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True


def _unavailable() -> ClusterUnavailable:
    return ClusterUnavailable(
        "the server cannot reach its message broker: try again later", retry_after=_RETRY_AFTER
    )
