"""What replicas hear of runs: their events, that they have ended, and which they can join."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..pipeline.events import Emit, WindowDone
from ..pipeline.runner import Checkpoint
from .files import RunFiles
from .heartbeats import read_forever
from .protocols import CaughtUp, Log
from .stored import PublishedEvent, event_name
from .wire import NOTICE, Cancelled, Control, Followed, Notice

logger = logging.getLogger(__name__)


class Gone(Exception):
    """A run was cancelled or deleted by another process before its end was read."""


@dataclass(kw_only=True, slots=True)
class Following:
    """A run that this process waits for; a notice of None says that it is gone.

    `owner` is the replica that joined it last: it cancels and deletes the run.
    """

    owner: str
    joined: bool = False
    notices: asyncio.Queue[Notice | None] = field(default_factory=asyncio.Queue)


class RunNotices:
    """What the topics say of runs: of those of this process, and of those that it can join."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._following: dict[str, Following] = {}
        self._others: dict[str, Followed] = {}
        self.ready = asyncio.Event()

    async def read_forever(self) -> None:
        """Read the topic `events` from now on."""
        async for message in read_forever(self._log, "events", since="latest"):
            if isinstance(message, CaughtUp):
                self.ready.set()
            elif message.value is not None:
                self._take(message.key, message.value)

    def _take(self, run: str, message: bytes) -> None:
        if run not in self._following and run not in self._others:
            return
        try:
            notice = NOTICE.load(message)
        except ValueError as error:  # of a newer version
            logger.warning("a notice of %s is not understood: %s", run, error)
            return
        if notice.ended:
            self._others.pop(run, None)
        if run in self._following:
            self._following[run].notices.put_nowait(notice)

    def handle(self, message: Control) -> None:
        """Take a message of the topic `control`."""
        match message:
            case Followed(run=run, replica=replica):
                self._others[run] = message
                if run in self._following:
                    following = self._following[run]
                    following.joined = following.joined or replica != following.owner
                    following.owner = replica
            case Cancelled(run=run):
                self._others.pop(run, None)
                if run in self._following:
                    self._following[run].notices.put_nowait(None)

    def equal(self, memory: str) -> str | None:
        """A run under way, of another process, that requests of that memory can join."""
        runs = (run for run, each in self._others.items() if each.memory == memory)
        return next((run for run in runs if run not in self._following), None)

    def forget(self, run: str) -> None:
        """Offer a run that is gone no more."""
        self._others.pop(run, None)

    @asynccontextmanager
    async def of(self, run: str, replica: str) -> AsyncIterator[Following]:
        """Follow a run while the context is open."""
        following = self._following[run] = Following(owner=replica)
        try:
            yield following
        finally:
            del self._following[run]


class EventReader:
    """Reads the events of a request from the bucket, each once.

    An attempt that resumes repeats the events of the one before it, and so does another run.
    """

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._parts: Counter[str] = Counter()  # of each attempt
        self._places: Counter[str] = Counter()  # of each name

    async def read(self, notice: Notice) -> list[PublishedEvent]:
        """The events of a notice that are new.

        Raises:
            Unavailable: the bucket cannot be reached; the next notice has these events too.
        """
        attempt, done = notice.attempt, self._parts[notice.attempt]
        found = await self._files.events(notice.run, attempt, range(done, notice.parts))
        self._parts[attempt] = max(done, notice.parts)
        new = []
        for each in found:
            name = event_name(each.event)
            if each.place == self._places[name]:
                self._places[name] += 1
                new.append(each.event)
        return new

    async def read_all(self, run: str) -> list[PublishedEvent]:
        """The events of a run that are new; none if the run is gone."""
        notices = await self._files.notices(run)
        return [event for notice in notices for event in await self.read(notice)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """Where the events of a request come from and go."""

    reader: EventReader
    emit: Emit
    checkpoint: Checkpoint

    async def take(self, events: Sequence[PublishedEvent]) -> None:
        """Emit events."""
        for event in events:
            if isinstance(event, WindowDone):
                transcript = event.transcript
                self.checkpoint.windows[transcript.window_index] = transcript
            await self.emit(event)
