"""Sends this process's heartbeats, and reads those of the others and the control messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Literal, Protocol

from .. import __version__
from ..errors import Unavailable
from .members import INTERVAL, Members
from .protocols import CaughtUp, Log, Message
from .wire import CONTROL, HEARTBEAT, Control, Heartbeat

logger = logging.getLogger(__name__)

REOPEN = 1.0
"""Seconds until a topic that cannot be read is tried again."""


class Participant(Protocol):
    """A process that sends heartbeats and handles control messages."""

    def heartbeat(self, beat: Heartbeat) -> Heartbeat:
        """Complete a heartbeat."""

    async def handle(self, message: Control) -> None:
        """Act on a message of the topic `control`."""


class Membership:
    """This process among the replicas and workers; `members` is kept as their heartbeats say."""

    def __init__(
        self, name: str, role: Literal["replica", "worker"], *, log: Log, members: Members
    ) -> None:
        self._name = name
        self._role: Literal["replica", "worker"] = role
        self._log = log
        self._members = members
        self._members_known = asyncio.Event()
        self._control_open = asyncio.Event()

    async def joined(self) -> None:
        """Wait until the members are known and control messages are heard."""
        await self._members_known.wait()
        await self._control_open.wait()

    async def take_part(self, participant: Participant) -> None:
        """Send heartbeats and listen until this is cancelled; then tell the others at once."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat_forever(participant))
                group.create_task(self._read_members())
                group.create_task(self._read_control(participant))
        finally:
            await self._publish(None)

    async def _beat_forever(self, participant: Participant) -> None:
        while True:
            beat = Heartbeat(
                member=self._name, role=self._role, at=time.time(), version=__version__
            )
            await self._publish(HEARTBEAT.dump(participant.heartbeat(beat)))
            await asyncio.sleep(INTERVAL)

    async def _publish(self, value: bytes | None) -> None:
        try:
            await self._log.append("members", self._name, value)
        except Unavailable as error:
            logger.warning("a heartbeat could not be sent: %s", error.message)

    async def _read_members(self) -> None:
        old = True
        async for message in read_forever(self._log, "members", since="earliest"):
            if isinstance(message, CaughtUp):
                old = False
                self._members_known.set()
                continue
            try:
                beat = None if message.value is None else HEARTBEAT.load(message.value)
            except ValueError as error:
                logger.warning("a heartbeat of %s is not understood: %s", message.key, error)
                continue
            self._members.apply(message.key, beat, old=old)

    async def _read_control(self, participant: Participant) -> None:
        async for message in read_forever(self._log, "control", since="latest"):
            if isinstance(message, CaughtUp):
                self._control_open.set()
                continue
            try:
                control = CONTROL.load(message.value or b"")
            except ValueError as error:  # of a newer version
                logger.info("a control message is not understood: %s", error)
                continue
            try:
                await participant.handle(control)
            except Exception:  # the next message must still be heard
                logger.exception("a control message could not be handled")


async def read_forever(
    log: Log, topic: str, *, since: Literal["earliest", "latest"]
) -> AsyncIterator[Message | CaughtUp]:
    """The messages of a topic, opened again after each failure."""
    while True:
        try:
            async with aclosing(log.read(topic, since=since)) as messages:
                async for message in messages:
                    yield message
        except Unavailable as error:
            logger.warning("%s cannot be read: %s", topic, error.message)
            await asyncio.sleep(REOPEN)
