"""A queue, a log and a bucket in memory, for what is above them.

The tests `distributed/test_contract.py` and `test_bucket.py` hold them to what Kafka and S3 do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whisperx_api_server.distributed.protocols import (
    CaughtUp,
    ClusterUnavailable,
    Delivery,
    Message,
    Position,
    StoredObject,
)


@dataclass(eq=False)
class _Record:
    value: bytes
    count: int = 0
    lock: _Lock | None = None


@dataclass(eq=False)
class _Lock:
    """One delivery's; a later delivery of the record has another."""

    record: _Record
    holder: MemoryQueue
    until: float


class Broker:
    """The records of one queue; consumers join it by `MemoryQueue`.

    Its clock stands still until a test calls `advance`.
    """

    def __init__(self, lock_seconds: float = 30.0) -> None:
        self.records: list[_Record] = []
        self.changed = asyncio.Event()
        self.lock_seconds = lock_seconds
        self.now = 0.0
        self.down = False

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def advance(self, seconds: float) -> None:
        """Let time pass: locks that were not renewed meanwhile end."""
        self.now += seconds
        for record in self.records:
            if record.lock is not None and record.lock.until <= self.now:
                record.lock = None
        self.wake()

    def lose_locks(self) -> None:
        """What a restart does: all that is held is free again, with its count forgotten."""
        for record in self.records:
            record.lock, record.count = None, 0
        self.wake()


class MemoryQueue:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def _reach(self) -> None:
        if self._broker.down:
            raise ClusterUnavailable("the broker cannot be reached")

    async def send(self, value: bytes) -> None:
        self._reach()
        self._broker.records.append(_Record(value))
        self._broker.wake()

    async def take(self, limit: int, *, wait: float) -> Sequence[Delivery]:
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            self._reach()
            changed = self._broker.changed
            free = [record for record in self._broker.records if record.lock is None][:limit]
            if free:
                return [self._lock(record) for record in free]
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return ()

    def _lock(self, record: _Record) -> Delivery:
        record.lock = _Lock(record, self, self._broker.now + self._broker.lock_seconds)
        record.count += 1
        return Delivery(value=record.value, count=record.count, handle=record.lock)

    def _held(self, delivery: Delivery) -> _Lock | None:
        lock = delivery.handle
        assert isinstance(lock, _Lock)
        return lock if lock.record.lock is lock else None

    async def renew(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        lost = []
        for each in deliveries:
            if lock := self._held(each):
                lock.until = self._broker.now + self._broker.lock_seconds
            else:
                lost.append(each)
        return lost

    async def accept(self, delivery: Delivery) -> bool:
        lock = self._held(delivery)
        if lock is None:
            return False
        self._broker.records.remove(lock.record)
        lock.record.lock = None
        return True

    async def release(self, delivery: Delivery) -> None:
        if lock := self._held(delivery):
            lock.record.lock = None
            self._broker.wake()

    async def close(self) -> None:
        for record in self._broker.records:
            if record.lock is not None and record.lock.holder is self:
                record.lock = None
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
            raise ClusterUnavailable("the broker cannot be reached")
        messages = self.of(topic)
        position = Position(partition=0, offset=len(messages))
        messages.append(Message(topic=topic, key=key, value=value, position=position))
        self._changed.set()
        self._changed = asyncio.Event()
        return position

    async def read(
        self, topic: str, *, since: Literal["earliest", "latest"] | Position
    ) -> AsyncGenerator[Message | CaughtUp, None]:
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
    stored: dict[str, float] = field(default_factory=dict)
    down: bool = False

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise ClusterUnavailable("the bucket cannot be reached")

    def _set(self, key: str, data: bytes) -> str:
        self.objects[key] = data
        self.versions[key] = self.versions.get(key, 0) + 1
        self.stored[key] = time.time()
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

    async def list(self, prefix: str) -> Mapping[str, float]:
        await self._reach()
        below = prefix.rstrip("/") + "/"
        return {key: self.stored[key] for key in sorted(self.objects) if key.startswith(below)}

    async def delete(self, prefix: str) -> None:
        for key in [prefix.rstrip("/"), *await self.list(prefix)]:
            self.objects.pop(key, None)
