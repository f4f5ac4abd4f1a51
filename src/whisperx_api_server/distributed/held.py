"""The runs that a worker has in hand, and their records in the queues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..errors import Unavailable
from .protocols import Delivery, Queue
from .stored import StoredRequest
from .wire import TASK, Task
from .worker_limits import is_suspect

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True, eq=False)
class Held:
    """A run in hand; `delivery` is None once its lock is lost.

    `announced`: our own `Taken` has come back from the log, so that another one is later.
    `counted`: the bucket has this attempt among those that may have ended with their worker.
    `fits`: whether the disk has room for its recording, as far as is known.
    """

    task: Task
    queue: Queue
    delivery: Delivery | None
    announced: bool = False
    counted: bool = False
    fits: bool = True
    stored: StoredRequest | None = None
    assumed: float = 0.0
    work: asyncio.Task[None] = field(init=False)

    async def stop(self) -> None:
        """Cancel the work, and wait until it has kept its checkpoint."""
        self.work.cancel()
        await asyncio.wait([self.work])


async def accept(queue: Queue, delivery: Delivery | None) -> bool:
    """Remove a record; False if its lock was lost, or the broker is away."""
    try:
        return delivery is not None and await queue.accept(delivery)
    except Unavailable as error:  # it is delivered again, and its end is found
        logger.warning("a record is not accepted: %s", error.message)
        return False


async def queue_again(queue: Queue, delivery: Delivery, task: Task) -> None:
    """Replace a record by a new one: one that is released would count as a crash."""
    suspect = task.suspect or is_suspect(delivery.count)
    try:
        await queue.send(TASK.dump(replace(task, suspect=suspect)))
        await queue.accept(delivery)
    except Unavailable as error:  # it is delivered again once its lock ends
        logger.warning("a run is not handed on: %s", error.message)


async def renew(queue: Queue, runs: Iterable[Held]) -> None:
    """Renew the locks of the runs of a queue."""
    held = [each for each in runs if each.queue is queue]
    locked = [each.delivery for each in held if each.delivery is not None]
    try:
        lost = await queue.renew(locked) if locked else ()
    except Unavailable as error:
        logger.warning("locks are not renewed: %s", error.message)
        return
    for each in held:
        if each.delivery in lost:
            # Another worker that takes it says so; until then it goes on here.
            each.delivery = None
