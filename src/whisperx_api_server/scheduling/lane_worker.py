"""One thread of a lane, with the model that only it uses.

It takes batches from the lane's queue as its `BatchPolicy` decides and completes every future: a
failing batch is halved and retried down to single entries, an out-of-memory error reduces the size
of this worker's later batches, and a thread that dies is replaced by one that loads the model
again. Features are precomputed entry by entry on a second thread, so that a batch is chosen at the
last moment and a new request can still join it.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic

from ..errors import InsufficientMemory, ModelUnavailable, Unavailable
from .batch_policy import BatchLimits, BatchPolicy
from .batch_queue import BatchQueue
from .fair_semaphore import FairSemaphore
from .observation import BatchDone, EntriesCancelled, LaneRestarted, Observe
from .tracebacks import log_and_release, release_frames
from .work import AnyEntry, M, run_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place(Generic[M]):
    """Where a worker computes.

    `load` loads the model there; `device`, shared by all lanes, limits how many compute at a time.
    """

    load: Callable[[], M]
    device: FairSemaphore


@dataclass(kw_only=True, slots=True)
class LaneStats:
    """A lane's counters; they only grow."""

    batches: int = 0
    entries: int = 0
    largest_batch: int = 0
    busy_seconds: float = 0.0
    cancelled: int = 0
    cancelled_seconds: float = 0.0
    failed: int = 0
    retried_batches: int = 0
    restarts: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class Shared(Generic[M]):
    """The state that the workers of a lane share, guarded by `changed`; they call `observe`.

    `loaded` is done once a worker has loaded the model, or fails with the error of the last one
    that could not. It is replaced when no worker has the model. `live` is the number of open live
    sessions.
    """

    name: str
    limits: Callable[[M], BatchLimits]
    clock: Callable[[], float]
    observe: Observe
    queue: BatchQueue = field(default_factory=BatchQueue)
    changed: threading.Condition = field(default_factory=threading.Condition)
    stats: LaneStats = field(default_factory=LaneStats)
    workers: list[LaneWorker[M]] = field(default_factory=list)
    loaded: Future[None] = field(default_factory=Future)
    closing: bool = False
    live: int = 0

    def close(self, error: Exception) -> None:
        """Stop accepting work, and fail the waiting entries."""
        with self.changed:
            self.closing = True
            dropped = self.queue.drain()
            self.changed.notify_all()
        for entry in dropped:
            entry.fail(error)

    def count_cancelled(self, entries: Sequence[AnyEntry]) -> None:
        """Count entries that were removed before they were computed; the caller holds `changed`."""
        if not entries:
            return
        seconds = sum(entry.padded_seconds for entry in entries)
        self.stats.cancelled += len(entries)
        self.stats.cancelled_seconds += seconds
        self.observe(EntriesCancelled(entries=len(entries), seconds=seconds))


class LaneWorker(Generic[M]):
    """A model and the only thread that uses it. `ended` is done once the model is freed."""

    def __init__(self, shared: Shared[M], place: Place[M]) -> None:
        self.ended: Future[None] = Future()
        self.ended.set_running_or_notify_cancel()  # so that a waiter cannot cancel it
        self.model: M | None = None
        """The loaded model, for its thread-safe methods; do not keep a reference to it."""
        self.in_flight: list[AnyEntry] = []
        """The batch that is being computed."""
        self._shared = shared
        self._place = place
        self._changed = shared.changed
        self._stats = shared.stats
        self._policy = BatchPolicy(shared.queue, shared.clock, self)
        self._measured = False  # after a restart, a reduced batch limit is kept
        self._prepare_thread: threading.Thread | None = None

    @property
    def batch_limit(self) -> int:
        """Current maximum batch size; below the configured one after an out-of-memory error."""
        return self._policy.batch_limit

    def start(self) -> None:
        """Load the model and serve, on a thread of its own."""
        self._start(self._main)

    def prepare_ahead(self) -> None:
        """Compute features ahead from now on. The caller holds `changed`."""
        if self._prepare_thread is None:
            self._prepare_thread = self._start(self._prepare_ahead)

    # -- the worker's own threads -------------------------------------------------------------

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        name = f"lane {self._shared.name}"
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def _main(self) -> None:
        try:
            if self._load_model():
                self._serve()
        except BaseException as error:  # waiters must get an answer if the thread dies
            logger.error("lane %s died and is replaced", self._shared.name, exc_info=error)
            release_frames(error)  # they refer to the old model; two might not fit on the device
            self._settle_stranded()
        self._drop_model()
        with self._changed:
            if not self._shared.closing and self in self._shared.workers:
                self._start(self._main)
                return
            self._changed.notify_all()
        if self._prepare_thread is not None:
            self._prepare_thread.join()
        self.ended.set_result(None)

    def _load_model(self) -> bool:
        """Load the model; False if that failed."""
        try:
            model = self._place.load()
            limits = self._shared.limits(model)
        except BaseException as error:  # passed to the requests that wait for the model
            if not isinstance(error, Exception):
                logger.error(
                    "lane %s: the engine ended its thread", self._shared.name, exc_info=error
                )
                error = ModelUnavailable("the engine stopped while it loaded the model; try again")
            self._leave(error)
            return False
        with self._changed:
            self.model = model
            if not self._measured:
                self._policy.set_limits(limits)
                self._measured = True
            loaded = self._shared.loaded
            self._changed.notify_all()
        if not loaded.done():
            loaded.set_result(None)
        return True

    def _leave(self, error: Exception) -> None:
        """Leave the lane's work to the other workers; the last one closes the lane."""
        shared = self._shared
        with self._changed:
            others = [worker for worker in shared.workers if worker is not self]
            last = not others
            if not last:
                shared.workers = others
                shared.queue.release(self)
                self._changed.notify_all()
        if last:
            shared.close(error)
            if not shared.loaded.done():
                shared.loaded.set_exception(error)
        else:
            logger.error("lane %s continues without a worker: %s", shared.name, error)

    def _serve(self) -> None:
        while self._wait_for_work():
            # Chosen once the device is free, so that requests that arrive meanwhile can join.
            with self._place.device:
                self._compute(self._take_batch())

    def _drop_model(self) -> None:
        """Drop the model and free its memory."""
        gc.unfreeze()  # loaded before the last `import_vendors`, it would never be collected
        shared = self._shared
        with self._changed:
            model, self.model = self.model, None
            unloaded = all(worker.model is None for worker in shared.workers)
            if unloaded and not shared.closing and shared.loaded.done():
                shared.loaded = Future()
        close_model = getattr(model, "close", None)
        if close_model is None:
            return
        try:
            close_model()
        except Exception:  # no caller waits for this
            logger.exception("lane %s: the model did not close", shared.name)

    def _settle_stranded(self) -> None:
        """Answer the batch that was in flight when the thread died.

        Several entries are retried one by one, so that only an entry that ends a thread again
        fails.
        """
        self._shared.observe(LaneRestarted())
        with self._changed:
            self._stats.restarts += 1
            stranded = [entry for entry in self.in_flight if not entry.future.done()]
            self.in_flight = []
            if len(stranded) > 1 and not self._shared.closing:
                for entry in stranded:
                    entry.max_batch = 1
                    self._shared.queue.add(entry)
                stranded = []
                self._changed.notify_all()
            self._stats.failed += len(stranded)
        for entry in stranded:
            entry.fail(Unavailable("the engine stopped while it computed this; try again"))

    def _wait_for_work(self) -> bool:
        """Wait for an entry, and if idle up to `max_wait` for more; False when closed."""
        policy, queue, shared = self._policy, self._shared.queue, self._shared
        with self._changed:
            idle = not len(queue)
            self._changed.wait_for(lambda: shared.closing or queue.has_work(self))
            if idle and policy.limits.max_wait:
                self._changed.wait_for(
                    lambda: shared.closing or len(queue) >= policy.batch_limit,
                    timeout=policy.limits.max_wait,
                )
            return not shared.closing

    def _take_batch(self) -> list[AnyEntry]:
        with self._changed:
            idle = sum(
                not worker.in_flight for worker in self._shared.workers if worker.model is not None
            )
            batch = []
            most = math.ceil(len(self._shared.queue) / idle)
            for entry in self._policy.take(most, live=self._shared.live > 0):
                if entry.begin():
                    batch.append(entry)
                else:  # its future was cancelled, but is not yet withdrawn
                    self._shared.count_cancelled([entry])
            self.in_flight = batch
            self._changed.notify_all()  # features of the next batches can be computed
        return batch

    def _compute(self, batch: list[AnyEntry]) -> None:
        if not batch:
            return
        stats, clock = self._stats, self._shared.clock
        with self._changed:  # counted first, so that the counters include every answered request
            stats.batches += 1
            stats.entries += len(batch)
            stats.largest_batch = max(stats.largest_batch, len(batch))
            model, limit = self.model, self.batch_limit
        assert model is not None
        at, begun = time.time(), clock()
        halvings, failed = self._run(model, batch)
        seconds = clock() - begun
        self._shared.observe(
            BatchDone(
                at=at,
                seconds=seconds,
                request_ids=tuple(dict.fromkeys(entry.request_id for entry in batch)),
                waits=tuple(begun - entry.queued_at for entry in batch),
                limit=limit,
                halvings=halvings,
                failed=failed,
            )
        )
        with self._changed:
            stats.busy_seconds += seconds
            if not halvings and not failed:
                self._policy.succeeded(batch, seconds)
            self.in_flight = []

    def _run(self, model: M, batch: list[AnyEntry]) -> tuple[int, int]:
        """Compute and answer one batch, in halves if it fails.

        Returns how often it, or a part of it, was halved, and how many entries failed.
        """
        try:
            results = run_batch(model, batch)
        except Exception as caught:  # noqa: BLE001 - each waiter gets its own answer
            error = caught
            name = self._shared.name
            log_and_release(error, logger, f"lane {name}: a batch of {len(batch)} failed")
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.future.set_result(result)
            return 0, 0
        single = len(batch) == 1
        with self._changed:
            if isinstance(error, InsufficientMemory):
                self._policy.ran_out_of_memory(len(batch))
            self._stats.failed += single
            self._stats.retried_batches += not single
        if single:
            batch[0].fail(error)
            return 0, 1
        middle = len(batch) // 2
        first, second = (self._run(model, half) for half in (batch[:middle], batch[middle:]))
        return 1 + first[0] + second[0], first[1] + second[1]

    def _prepare_ahead(self) -> None:
        """Precompute features for the next entries, up to two batches ahead."""
        while self._prepare_one():
            pass

    def _prepare_one(self) -> bool:
        """Wait for an entry and compute its features; False when closed.

        A separate function, so that no entry is referenced while waiting for the next.
        """
        with self._changed:
            entry: AnyEntry | None = None
            while not self._is_over() and (entry := self._next_unprepared()) is None:
                self._changed.wait()
            model = self.model
            if entry is None or self._is_over() or model is None:
                return False
            entry.features = Future()
        entry.prepare(model)
        return True

    def _is_over(self) -> bool:
        return self._shared.closing or self not in self._shared.workers

    def _next_unprepared(self) -> AnyEntry | None:
        if self.model is None:
            return None
        return next((entry for entry in self._policy.upcoming() if entry.preparable), None)
