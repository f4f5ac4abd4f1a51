"""A worker of MODE=kafka: takes runs from the shared queues and computes them side by side.

A record stays locked while its run is computed, and is removed once the bucket has the end of the
run. If the worker dies, another gets the record and resumes from the checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from .. import logging_setup
from ..errors import DiskFull, ServiceError, Unavailable, VersionMismatch, WorkerLost
from ..jobs.admission import AdmissionControl
from ..pipeline.runner import Runner
from ..text_service import TextService
from ..trace_context import trace_context
from . import worker_limits
from .attempt import Attempt, announce
from .disk import WorkerDisk
from .files import RunFiles
from .held import Held, accept, queue_again, renew
from .members import PATIENCE, Members
from .models import WorkerModels
from .protocols import Delivery, Log, Queue
from .retries import RETRY_INTERVAL, until_available
from .stored import StoredRequest, end_of_failure
from .wire import (
    CONTROL,
    KINDS,
    TASK,
    Cancelled,
    Control,
    Heartbeat,
    ModelOrder,
    Notice,
    Taken,
)

logger = logging.getLogger(__name__)

ANSWER = 1.0
"""Seconds in which a worker that lives has said so, once another one has taken its run."""

TAKE_WAIT = 1.0
"""Seconds that one request to a queue waits for a record; a drain waits as long."""


class Worker:
    """Computes the runs of the queues until it is drained.

    Args:
        runner: computes; admission by `admission`, which only measures.
        prefetch_seconds: maximum seconds of audio in hand (`worker_limits.prefetch_limit`).
        lock_seconds: the lock time of the queues.
        max_attempts: attempts at a run that may end with its worker before it fails.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        name: str,
        text: TextService,
        admission: AdmissionControl,
        queues: Sequence[Queue],
        log: Log,
        files: RunFiles,
        disk: WorkerDisk,
        members: Members,
        models: WorkerModels,
        prefetch_seconds: Callable[[], float],
        lock_seconds: float,
        max_attempts: int,
    ) -> None:
        self._runner = runner
        self._admission = admission
        self._queues = queues
        self._log = log
        self._files = files
        self._disk = disk
        self._name = name
        self._text = text
        self._members = members
        self._models = models
        self._prefetch_seconds = prefetch_seconds
        self._lock_seconds = lock_seconds
        self._max_attempts = max_attempts
        self._held: dict[str, Held] = {}
        self._changed = asyncio.Event()
        self._one_suspect = asyncio.Lock()
        self._draining = asyncio.Event()

    @property
    def seconds(self) -> float:
        """Seconds of audio in hand."""
        return self._admission.seconds + sum(held.assumed for held in self._held.values())

    @property
    def runs(self) -> int:
        """Number of runs in hand."""
        return len(self._held)

    @property
    def draining(self) -> bool:
        """Whether nothing more is taken."""
        return self._draining.is_set()

    @property
    def disk_full(self) -> bool:
        """Whether nothing is taken until recordings fit on the disk again."""
        return self._disk.full

    def heartbeat(self, beat: Heartbeat) -> Heartbeat:
        """The heartbeat, with what this worker has in hand."""
        return replace(
            beat,
            draining=self.draining,
            runs=self.runs,
            seconds=round(self.seconds, 3),
            speed=round(self._admission.speed, 3),
            models=self._models.loaded(),
        )

    async def work(self) -> None:
        """Take and compute runs; returns when the worker is drained."""
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(self._renew_forever())
            watching = group.create_task(self._watch_replicas())
            async with asyncio.TaskGroup() as takers:
                for queue in self._queues:
                    takers.create_task(self._take_forever(queue))
            await self._idle()
            renewing.cancel()
            watching.cancel()

    async def drain(self, grace: float) -> None:
        """Take nothing more, finish within `grace` seconds, and hand the rest to other workers."""
        self._draining.set()
        self._changed.set()
        try:
            async with asyncio.timeout(grace):
                await self._idle()
        except TimeoutError:
            logger.warning("%d run(s) go to other workers", len(self._held))
            held = [*self._held.values()]
            await asyncio.gather(*(each.stop() for each in held))
            await asyncio.gather(*map(self._requeue, held))

    # -- taking -------------------------------------------------------------------------------

    async def _take_forever(self, queue: Queue) -> None:
        while True:
            await self._room()
            limit = self._prefetch_seconds()
            await asyncio.sleep(worker_limits.pause(seconds=self.seconds, limit=limit))
            if self._draining.is_set():
                return
            try:
                deliveries = await queue.take(1, wait=TAKE_WAIT)
            except Unavailable as error:
                logger.warning("%s; trying again", error.message)
                await asyncio.sleep(RETRY_INTERVAL)
                continue
            for delivery in deliveries:
                await self._begin(queue, delivery)

    async def _room(self) -> None:
        """Wait until there is room for a run, or the worker drains."""
        while not self._draining.is_set():
            self._changed.clear()
            room = worker_limits.has_room(
                seconds=self.seconds, runs=self.runs, limit=self._prefetch_seconds()
            )
            if room and not await self._disk.look():
                return
            try:
                async with asyncio.timeout(RETRY_INTERVAL):  # windows that are done make room too
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _idle(self) -> None:
        while self._held:
            await asyncio.wait([held.work for held in self._held.values()])

    async def _begin(self, queue: Queue, delivery: Delivery) -> None:
        try:
            task = TASK.load(delivery.value)
        except ValueError as error:
            logger.error("a record of the queue is not understood: %s", error)
            await queue.accept(delivery)
            return
        if self.draining or self.disk_full or delivery.count >= worker_limits.MOST_DELIVERIES:
            await queue_again(queue, delivery, task)
            return
        held = self._held.get(task.run)
        if held is not None:  # its lock was lost, or a replica has queued it once more
            earlier, held.delivery = held.delivery, delivery
            await accept(held.queue, earlier)
            held.queue = queue
            return
        held = self._held[task.run] = Held(task=task, queue=queue, delivery=delivery)
        held.work = asyncio.create_task(self._work(held))

    # -- computing ----------------------------------------------------------------------------

    async def _work(self, held: Held) -> None:
        """Run one task to its end; if cancelled, another worker has it or nobody waits for it."""
        logging_setup.request_id.set(held.task.run)
        try:
            await self._decide(held)
            if held.fits and held.delivery is not None:
                await accept(held.queue, held.delivery)
                await until_available(lambda: self._files.delete_audio(held.task.run))
        except Exception:  # the worker goes on; the record is delivered again, and counts
            logger.exception("run %s failed unexpectedly", held.task.run)
        finally:
            del self._held[held.task.run]
            self._changed.set()
        if not held.fits:
            await self._requeue(held)

    async def _decide(self, held: Held) -> None:
        """Compute a run unless it is decided or gone."""
        run, delivery = held.task.run, held.delivery
        try:
            if held.task.kind not in KINDS:
                raise ValueError("its kind is not known")
            stored, end = await asyncio.gather(
                until_available(lambda: self._files.request(run)),
                until_available(lambda: self._files.end(run)),
            )
        except ValueError as error:
            logger.error("run %s is of another version: %s", run, error)
            mismatch = VersionMismatch(
                "a worker of another version cannot read the request: upgrade the workers, "
                "and send it again"
            )
            await self._fail(run, mismatch)
            return
        if end is not None:  # its worker may have died before it said so
            for notice in await until_available(lambda: self._files.notices(run)):
                await announce(self._log, notice)
        if stored is None or end is not None:
            return
        held.stored, held.assumed = stored, worker_limits.assumed_seconds(stored.request)
        taken = CONTROL.dump(Taken(run=run, worker=self._name))
        async with asyncio.TaskGroup() as group:
            group.create_task(until_available(lambda: self._log.append("control", run, taken)))
            await self._try(held, stored, delivery)

    async def _try(self, held: Held, stored: StoredRequest, delivery: Delivery | None) -> None:
        """Compute a run, or fail it after too many attempts."""
        run = held.task.run
        if delivery is None or not (held.task.suspect or worker_limits.is_suspect(delivery.count)):
            await self._compute(held, stored)
            return
        async with self._one_suspect:
            deaths = await until_available(lambda: self._files.deaths(run))
            if not worker_limits.may_try(deaths, self._max_attempts):
                await asyncio.sleep(ANSWER)
                deaths = await until_available(lambda: self._files.deaths(run))
            if worker_limits.may_try(deaths, self._max_attempts):
                await until_available(lambda: self._files.begin_attempt(run))
                held.counted = True
                await self._compute(held, stored)
            else:
                await self._fail_lost(held, deaths)

    async def _compute(self, held: Held, stored: StoredRequest) -> None:
        def opened() -> None:
            held.assumed = 0.0  # from now on it is admitted with its length

        trace_context.set(stored.trace)
        attempt = Attempt(
            stored,
            held.task.kind,
            runner=self._runner,
            text=self._text,
            files=self._files,
            log=self._log,
            opened=opened,
        )
        try:
            await attempt.compute()
        except DiskFull as error:
            task, too_large = held.task, await self._disk.overflow()
            held.task = replace(task, full_disks=task.full_disks + too_large)
            if worker_limits.may_fit(held.task.full_disks):
                held.fits = False
            else:
                await self._fail(task.run, error)

    async def _fail_lost(self, held: Held, attempts: int) -> None:
        """Fail a run whose workers have died, each time that one tried it."""
        run = held.task.run
        logger.error("run %s failed: its worker crashed %d times", run, attempts)
        await until_available(lambda: self._log.append("dead", run, TASK.dump(held.task)))
        await self._fail(
            run,
            WorkerLost(
                f"workers crashed {attempts} times on this recording: send another one, or "
                "see the workers' logs"
            ),
        )

    async def _fail(self, run: str, error: ServiceError) -> None:
        await until_available(lambda: self._files.finish(run, end_of_failure(error)))
        await announce(self._log, Notice(run=run, ended=True))

    async def _requeue(self, held: Held) -> None:
        """Queue a run that is stopped for another worker."""
        await self._survive(held, lost=held.delivery is None)
        if held.delivery is not None:
            await queue_again(held.queue, held.delivery, held.task)

    async def _survive(self, held: Held, *, lost: bool) -> None:
        """Say that this worker lives if its attempt, or the loss of its lock, counts as a death."""
        if not (held.counted or lost):
            return
        try:
            await self._files.survive(held.task.run)
        except Unavailable as error:
            logger.warning("an attempt counts as a death: %s", error.message)

    # -- what others say ----------------------------------------------------------------------

    async def handle(self, message: Control) -> None:
        """Stop a run that another worker took or no client waits for; load or unload a model."""
        match message:
            case Taken(run=run, worker=worker) if run in self._held:
                # Of two that take a run at once, the later one has it: all read the same order.
                held = self._held[run]
                if worker == self._name:
                    held.announced = True
                elif held.announced:
                    await self._give_up(held)
            case Cancelled(run=run) if run in self._held:
                await self._drop(self._held[run])
            case ModelOrder():
                self._models.follow(message)

    async def _give_up(self, held: Held) -> None:
        """Leave a run to the worker that has taken it, and remove its record if it has another.

        A record that comes meanwhile is delivered again.
        """
        lost = not await accept(held.queue, held.delivery)
        await asyncio.gather(self._survive(held, lost=lost), held.stop())

    async def _drop(self, held: Held) -> None:
        """Stop a run that nothing waits for, and delete what it has stored meanwhile."""
        queue, delivery = held.queue, held.delivery
        await held.stop()
        await accept(queue, delivery)
        await self._files.discard(held.task.run)

    async def _watch_replicas(self) -> None:
        """Stop the runs whose client is gone with its replica; jobs go on."""
        while True:
            await asyncio.sleep(PATIENCE / 3)
            for held in [*self._held.values()]:
                stored = held.stored
                if stored is None or stored.request.waits:
                    continue
                if not self._members.is_gone(stored.replica, PATIENCE):
                    continue
                replica = await until_available(partial(self._files.replica, held.task.run))
                if replica not in ("", stored.replica):  # another one has joined the run
                    held.stored = replace(stored, replica=replica)
                    continue
                logger.info("run %s: its client is gone with its replica", held.task.run)
                await self._drop(held)

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lock_seconds / 3)
            for queue in self._queues:
                await renew(queue, self._held.values())
