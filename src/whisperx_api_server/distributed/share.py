"""Queues over Kafka's share groups: one member of a group, with a connection of its own.

A broker keeps a record locked for as long as the member renews it and its connection is open. The
connection is opened by the first `take`, and again by the next one after it broke; what was held
until then is lost.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from ..background import BackgroundTasks
from . import rpc
from .protocols import Delivery
from .rpc import Acknowledge
from .rpc_formats import RpcError

logger = logging.getLogger(__name__)

_POLL = 0.5  # seconds; a broker answers one request of a connection at a time, so others wait
_RETRY = 0.5  # seconds until the next attempt to connect
_REQUEST_MS = 10_000
_JOIN_INTERVAL = 0.1  # seconds between heartbeats until the group has assigned the topic
_JOIN_TIMEOUT = 15.0
_LEAVE_TIMEOUT = 1.0
_LEAVES = -1

_FAILURES = (KafkaError, RpcError, OSError)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Held:
    """The handle of a delivery: the lock ends with its session."""

    session: _ShareSession | None
    offset: int


class ShareQueue:
    """One queue, for any number of senders and takers; implements `protocols.Queue`."""

    def __init__(
        self,
        *,
        options: Mapping[str, object],
        topic: str,
        group: str,
        send: Callable[[bytes], Awaitable[object]],
    ) -> None:
        self._options = options
        self._topic = topic
        self._group = group
        self._send = send
        self._session: _ShareSession | None = None
        self._reachable = True

    async def send(self, value: bytes) -> None:
        await self._send(value)

    async def take(self, limit: int, *, wait: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            records: list[rpc.Acquired] = []
            session = None
            try:
                session = await self._connected()
                left = max(0.0, deadline - loop.time())
                records = await session.fetch(limit, min(left, _POLL))
            except _FAILURES as error:
                await self._lose(session, error)
                await asyncio.sleep(min(_RETRY, max(0.0, deadline - loop.time())))
            if records or loop.time() >= deadline:
                return [
                    Delivery(value=each.value, count=each.count, handle=_Held(session, each.offset))
                    for each in records
                ]

    async def renew(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        deliveries = list(deliveries)
        mine = [each for each in deliveries if self._offset(each) is not None]
        if not mine or await self._acknowledge(mine, Acknowledge.RENEW):
            kept = mine
        else:  # the broker renews all or none: find the lost ones
            kept = [each for each in mine if await self._acknowledge([each], Acknowledge.RENEW)]
        return [each for each in deliveries if each not in kept]

    async def accept(self, delivery: Delivery) -> bool:
        return await self._acknowledge([delivery], Acknowledge.ACCEPT)

    async def release(self, delivery: Delivery) -> None:
        await self._acknowledge([delivery], Acknowledge.RELEASE)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session:
            await session.close()

    def _offset(self, delivery: Delivery) -> int | None:
        """The record's offset while the session that locked it is open."""
        held = delivery.handle
        if not isinstance(held, _Held):
            raise TypeError("this delivery is of another queue")
        return held.offset if held.session is self._session else None

    async def _acknowledge(self, deliveries: Iterable[Delivery], kind: Acknowledge) -> bool:
        offsets = [self._offset(each) for each in deliveries]
        known = [offset for offset in offsets if offset is not None]
        session = self._session
        if session is None or len(known) < len(offsets):
            return False
        try:
            return await session.acknowledge(known, kind)
        except _FAILURES as error:
            await self._lose(session, error)
            return False

    async def _connected(self) -> _ShareSession:
        if self._session is None:
            session = _ShareSession(self._options, self._topic, self._group)
            try:
                async with asyncio.timeout(_JOIN_TIMEOUT):
                    await session.open()
            except BaseException:
                await session.close()
                raise
            self._session = session
            self._reachable = True
        return self._session

    async def _lose(self, session: _ShareSession | None, error: Exception) -> None:
        """Close what broke; the broker has released, or will release, what was locked."""
        if self._reachable:
            logger.warning("Queue %s: reconnecting after: %s", self._topic, error or repr(error))
        self._reachable = False
        if session and session is self._session:
            await self.close()


class _ShareSession:
    """A member of the group, from joining to leaving."""

    def __init__(self, options: Mapping[str, object], topic: str, group: str) -> None:
        self._client = AIOKafkaClient(
            **options, client_id="whisperx-api-server", request_timeout_ms=_REQUEST_MS
        )
        self._topic_name = topic
        self._group = group
        self._member = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._member_epoch = 0
        self._epoch = 0
        self._assigned = asyncio.Event()
        self._in_turn = asyncio.Lock()
        self._tasks = BackgroundTasks()

    async def open(self) -> None:
        await self._client.bootstrap()
        self._topic = await rpc.describe_topic(self._client, self._topic_name)
        self._coordinator = await self._find_coordinator()
        await self._beat()
        self._background(self._stay())
        await self._assigned.wait()

    async def fetch(self, limit: int, wait: float) -> list[rpc.Acquired]:
        """Lock records; a cancelled fetch goes on, and what it locks is released."""
        fetching = self._background(self._fetch(limit, wait))
        try:
            return await _outcome(fetching)
        except asyncio.CancelledError:
            self._background(self._hand_back(fetching))
            raise

    async def acknowledge(self, offsets: Sequence[int], kind: Acknowledge) -> bool:
        return await _outcome(self._background(self._acknowledge(offsets, kind)))

    async def close(self) -> None:
        """Leave the group and disconnect, which releases what is locked."""
        await self._tasks.cancel()
        with contextlib.suppress(*_FAILURES):
            if self._member_epoch > 0:
                self._member_epoch = _LEAVES
                async with asyncio.timeout(_LEAVE_TIMEOUT):
                    await self._beat()
        await self._client.close()

    def _background(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        """Start what its caller does not cancel: the broker counts a session's requests."""
        task = self._tasks.start(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _fetch(self, limit: int, wait: float) -> list[rpc.Acquired]:
        async with self._in_turn:
            records = await rpc.fetch(self._client, self._named(), limit, wait)
            self._epoch += 1
            return records

    async def _acknowledge(self, offsets: Sequence[int], kind: Acknowledge) -> bool:
        async with self._in_turn:
            kept = await rpc.acknowledge(self._client, self._named(), offsets, kind)
            self._epoch += 1
            return kept

    async def _hand_back(self, fetching: asyncio.Task[list[rpc.Acquired]]) -> None:
        offsets = [record.offset for record in await fetching]
        if offsets:
            await self._acknowledge(offsets, Acknowledge.RELEASE)

    def _named(self) -> rpc.ShareSession:
        return rpc.ShareSession(
            group=self._group, member=self._member, topic=self._topic, epoch=self._epoch
        )

    async def _find_coordinator(self) -> int:
        coordinator: int = await self._client.coordinator_lookup(
            CoordinationType.GROUP, self._group
        )
        return coordinator

    async def _stay(self) -> None:
        """Send heartbeats; a coordinator that moves or restarts does not end the session."""
        while True:
            await asyncio.sleep(self._interval if self._assigned.is_set() else _JOIN_INTERVAL)
            try:
                await self._beat()
            except RpcError as error:
                if error.code in (rpc.UNKNOWN_MEMBER, rpc.FENCED_MEMBER_EPOCH):
                    self._member_epoch = 0
                else:
                    await self._follow_coordinator()
            except (KafkaError, OSError):
                await self._follow_coordinator()

    async def _follow_coordinator(self) -> None:
        with contextlib.suppress(*_FAILURES):
            self._coordinator = await self._find_coordinator()

    async def _beat(self) -> None:
        membership = await rpc.beat(
            self._client,
            self._coordinator,
            self._group,
            self._member,
            self._member_epoch,
            self._topic_name,
        )
        self._member_epoch, self._interval = membership.epoch, membership.interval
        if membership.assigned:
            self._assigned.set()
        elif membership.assigned is False:
            self._assigned.clear()


async def _outcome(task: asyncio.Task[_T]) -> _T:
    """Wait for a task without cancelling it; if its session cancels it, the connection is lost."""
    await asyncio.wait([task])
    if task.cancelled():
        raise ConnectionAbortedError("the connection was closed")
    return task.result()
