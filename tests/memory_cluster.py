"""A queue, a log and a bucket in memory, for what is above them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whisperx_api_server.distributed.protocols import (
    CaughtUp,
    Delivery,
    Message,
    Position,
    StoredObject,
)
from whisperx_api_server.errors import Unavailable


@dataclass(eq=False)
class _Record:
    value: bytes
    count: int = 0
    holder: object = None


class Broker:
    """The records of one queue; consumers join it by `MemoryQueue`."""

    def __init__(self) -> None:
        self.records: list[_Record] = []
        self.changed = asyncio.Event()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def lose_locks(self) -> None:
        """What a restart does: all that is held is free again, with its count forgotten."""
        for record in self.records:
            record.holder, record.count = None, 0
        self.wake()


class MemoryQueue:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def send(self, value: bytes) -> None:
        self._broker.records.append(_Record(value))
        self._broker.wake()

    async def take(self, limit: int, *, wait: float) -> Sequence[Delivery]:
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            changed = self._broker.changed
            free = [record for record in self._broker.records if record.holder is None][:limit]
            if free:
                for record in free:
                    record.holder, record.count = self, record.count + 1
                return [Delivery(value=r.value, count=r.count, handle=r) for r in free]
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return ()

    def _held(self, delivery: Delivery) -> _Record | None:
        record = delivery.handle
        assert isinstance(record, _Record)
        mine = record.holder is self and record.count == delivery.count
        return record if mine and record in self._broker.records else None

    async def renew(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        return [each for each in deliveries if self._held(each) is None]

    async def accept(self, delivery: Delivery) -> bool:
        record = self._held(delivery)
        if record is not None:
            self._broker.records.remove(record)
        return record is not None

    async def release(self, delivery: Delivery) -> None:
        record = self._held(delivery)
        if record is not None:
            record.holder = None
            self._broker.wake()

    async def close(self) -> None:
        for record in self._broker.records:
            if record.holder is self:
                record.holder = None
        self._broker.wake()


class MemoryLog:
    """One partition a topic."""

    def __init__(self) -> None:
        self.topics: dict[str, list[Message]] = {}
        self.down = False
        self._changed = asyncio.Event()

    def of(self, topic: str) -> list[Message]:
        return self.topics.setdefault(topic, [])

    async def append(self, topic: str, key: str, value: bytes | None) -> Position:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the broker cannot be reached")
        messages = self.of(topic)
        position = Position(partition=0, offset=len(messages))
        messages.append(Message(topic=topic, key=key, value=value, position=position))
        self._changed.set()
        self._changed = asyncio.Event()
        return position

    async def read(
        self, topic: str, *, since: Literal["earliest", "latest"] | Position
    ) -> AsyncIterator[Message | CaughtUp]:
        messages = self.of(topic)
        end = len(messages)
        at = since.offset if isinstance(since, Position) else 0 if since == "earliest" else end
        caught_up = False
        while True:
            changed = self._changed
            if at >= end and not caught_up:
                caught_up = True
                yield CaughtUp()
            if at < len(messages):
                yield messages[at]
                at += 1
            else:
                await changed.wait()

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        return {0: len(self.of(topic))}

    async def close(self) -> None:
        pass


@dataclass
class MemoryBucket:
    objects: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    down: bool = False

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the bucket cannot be reached")

    def _set(self, key: str, data: bytes) -> str:
        self.objects[key] = data
        self.versions[key] = self.versions.get(key, 0) + 1
        return str(self.versions[key])

    async def create(self, key: str, data: bytes) -> bool:
        await self._reach()
        if key in self.objects:
            return False
        self._set(key, data)
        return True

    async def put(self, key: str, data: bytes) -> None:
        await self._reach()
        self._set(key, data)

    async def get(self, key: str) -> StoredObject | None:
        await self._reach()
        if key not in self.objects:
            return None
        return StoredObject(data=self.objects[key], etag=str(self.versions[key]))

    async def replace(self, key: str, data: bytes, etag: str) -> str | None:
        await self._reach()
        if key not in self.objects or str(self.versions[key]) != etag:
            return None
        return self._set(key, data)

    async def upload(self, key: str, path: Path) -> None:
        await self._reach()
        self._set(key, await asyncio.to_thread(path.read_bytes))

    async def download(self, key: str, path: Path) -> bool:
        await self._reach()
        if key not in self.objects:
            return False
        await asyncio.to_thread(path.write_bytes, self.objects[key])
        return True

    async def list(self, prefix: str) -> Sequence[str]:
        await self._reach()
        return sorted(key for key in self.objects if key.startswith(f"{prefix}/"))

    async def delete(self, prefix: str) -> None:
        await self._reach()
        for key in [key for key in self.objects if f"{key}/".startswith(f"{prefix}/")]:
            del self.objects[key]
