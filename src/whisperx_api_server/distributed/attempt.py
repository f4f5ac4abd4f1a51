"""One attempt of a worker at a run: computes it, publishes its events, keeps its checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

from ..background import running
from ..errors import DiskFull, ServiceError, Unavailable
from ..pipeline.events import Event, Finished, Opened
from ..pipeline.runner import Checkpoint, Runner
from ..scheduling.tracebacks import log_and_release
from ..text_service import TextRequest, TextService
from .files import RunFiles
from .protocols import Log
from .retries import until_available
from .stored import End, PublishedEvent, Result, RunEvent, StoredRequest, end_of_failure, event_name
from .wire import NOTICE, Notice

logger = logging.getLogger(__name__)

CHECKPOINT_INTERVAL = 2.0
"""Seconds between two parts of a checkpoint; as much is computed again after a crash, at most."""

LINGER = 0.005
"""Seconds in which events that follow each other come together in one message."""


class Publisher:
    """Stores the events of an attempt in the bucket, and tells the topic `events` what is there.

    What is put while a part is stored makes up the next one. A broker or a bucket that is away
    does not stop the run.
    """

    def __init__(self, log: Log, files: RunFiles, run: str) -> None:
        self._log = log
        self._files = files
        self._run = run
        self._attempt = uuid4().hex
        self._places: Counter[str] = Counter()
        self._waiting: list[RunEvent] = []
        self._parts = 0
        self._changed = asyncio.Event()
        self._storing = asyncio.Lock()

    def put(self, event: PublishedEvent) -> None:
        """Send an event soon."""
        name = event_name(event)
        self._waiting.append(RunEvent(place=self._places[name], event=event))
        self._places[name] += 1
        self._changed.set()

    async def send_forever(self) -> None:
        """Send what is put."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(LINGER)
            self._changed.clear()
            if await self.store():
                await self.announce(ended=False)

    async def store(self) -> bool:
        """Store what is put by now; False if all of it is stored already."""
        async with self._storing:
            run, attempt, part = self._run, self._attempt, self._parts
            events = [*self._waiting]
            if not events:
                return False
            await until_available(lambda: self._files.store_events(run, attempt, part, events))
            self._parts += 1
            del self._waiting[: len(events)]
            return True

    async def announce(self, *, ended: bool) -> None:
        """Tell which parts are stored, and whether the end of the run is."""
        notice = Notice(run=self._run, attempt=self._attempt, parts=self._parts, ended=ended)
        await announce(self._log, notice)


async def announce(log: Log, notice: Notice) -> None:
    """Tell those that wait for a run what the bucket has of it."""
    message = NOTICE.dump(notice)
    await until_available(lambda: log.append("events", notice.run, message))


class Attempt:
    """A run that this process computes from its checkpoint on; `opened` tells its length."""

    def __init__(
        self,
        stored: StoredRequest,
        kind: str,
        *,
        runner: Runner,
        text: TextService,
        files: RunFiles,
        log: Log,
        opened: Callable[[], None],
    ) -> None:
        self._request = stored.request
        self._stored = stored
        self._kind = kind
        self._runner = runner
        self._text = text
        self._files = files
        self._publisher = Publisher(log, files, stored.request.id)
        self._opened = opened
        self._remembered = False

    async def compute(self) -> None:
        """Compute the run, and decide and publish its end; cancelled, only the checkpoint stays.

        Raises:
            DiskFull: the recording does not fit on this machine's disk; nothing is decided.
        """
        run, publisher = self._request.id, self._publisher
        async with running(publisher.send_forever()):
            end = await self._end()
            await publisher.store()  # before the end: with it, all events are found
            await until_available(lambda: self._files.finish(run, end))
        await publisher.announce(ended=True)
        if end.failure is None and self._remembered:
            await self._forget()

    async def _end(self) -> End:
        try:
            return End(result=await self._result())
        except DiskFull:
            raise
        except ServiceError as error:
            log_and_release(error, logger, f"run {self._request.id} failed")
            return end_of_failure(error)
        except Exception:  # its client must learn of the end
            logger.exception("unexpected failure of run %s", self._request.id)
            return end_of_failure(ServiceError("the server failed; its log says why"))

    async def _result(self) -> Result:
        request = self._request
        if isinstance(request, TextRequest):
            if self._kind == "translate":
                return await self._text.translate(request)
            return await self._text.generate(request)
        if self._kind == "diarize":
            return await self._runner.diarize(request, self._emit)
        if self._kind == "detect_language":
            return await self._runner.detect_language(request, self._emit)
        checkpoint = await until_available(lambda: self._files.checkpoint(self._stored))
        self._remembered = bool(checkpoint.windows or checkpoint.diarization)
        if checkpoint.windows:
            logger.info("run %s resumes after %d windows", request.id, len(checkpoint.windows))
        async with self._kept(checkpoint):
            return await self._runner.run(request, self._emit, checkpoint)

    async def _forget(self) -> None:
        try:
            await self._files.forget(self._stored)
        except Unavailable as error:  # `delete_old` deletes it
            logger.warning("a checkpoint could not be deleted: %s", error.message)

    async def _emit(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._opened()
        if not isinstance(event, Finished):  # `End` has the transcript
            self._publisher.put(event)

    @asynccontextmanager
    async def _kept(self, checkpoint: Checkpoint) -> AsyncIterator[None]:
        """Add what is new in a checkpoint to its objects, at intervals and when the run fails."""
        known = set(checkpoint.windows)
        diarized = checkpoint.diarization is not None

        async def keep() -> None:
            nonlocal diarized
            new = [each for i, each in checkpoint.windows.items() if i not in known]
            diarization = None if diarized else checkpoint.diarization
            if not new and diarization is None:
                return
            self._remembered = True  # also if the run ends while it is stored
            try:
                await self._files.remember(self._stored, new, diarization)
            except Unavailable as error:
                logger.warning("a checkpoint could not be stored: %s", error.message)
                return
            known.update(each.window_index for each in new)
            diarized = diarized or diarization is not None

        async def keep_forever() -> None:
            while True:
                await asyncio.sleep(CHECKPOINT_INTERVAL)
                await keep()

        keeping = asyncio.create_task(keep_forever())
        async with AsyncExitStack() as failed:
            failed.push_async_callback(keep)
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.wait([keeping])
            failed.pop_all()
