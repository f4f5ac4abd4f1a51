"""Scheduler: one lane, a thread with a fair queue, per loaded model.

A lane takes the batches that its `BatchPolicy` decides, computes them on its thread and completes
every future: a failing batch is halved and retried down to single entries, an out-of-memory error
reduces the size of later batches, and a thread that dies is replaced by one that loads the model
again. Features are precomputed entry by entry on a second thread, so that a batch is chosen at the
last moment and a new request can still join it.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic

from ..errors import InsufficientMemory, ModelUnavailable, Unavailable
from .batch_policy import BatchLimits, BatchPolicy
from .fair_semaphore import FairSemaphore
from .observation import BatchDone, EntriesCancelled, LaneRestarted, Observe, unobserved
from .tracebacks import log_and_release, release_frames
from .work import AnyEntry, Entry, M, P, R, run_batch

logger = logging.getLogger(__name__)

UNLOADED = "the model was unloaded meanwhile; try again"


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


class Lane(Generic[M]):
    """One loaded model and the only thread that uses it.

    `load` runs on that thread, at the start and again if the thread dies; so does the model's
    `close`, if it has one. `device`, shared by the lanes of one device, limits how many compute
    at a time. `observe` is called on its threads. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], M],
        *,
        limits: Callable[[M], BatchLimits],
        device: FairSemaphore,
        clock: Callable[[], float] = time.monotonic,
        observe: Observe = unobserved,
    ) -> None:
        self.name = name
        self.loaded: Future[None] = Future()
        """Done once the model is loaded, or fails with the error of the load. Replaced if the
        lane's thread dies."""
        self.stats = LaneStats()
        self._load = load
        self._limits_of = limits
        self._device = device
        self._clock = clock
        self._observe = observe
        self._policy: BatchPolicy = BatchPolicy(clock)
        self._changed = threading.Condition()
        self._model: M | None = None
        self._in_flight: list[AnyEntry] = []
        self._closing = False
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()  # so that a waiter cannot cancel it
        self._prepare_thread: threading.Thread | None = None
        self._start(self._main)

    # -- called from any thread ---------------------------------------------------------------

    @property
    def model(self) -> M:
        """The loaded model, for its thread-safe methods; do not keep a reference to it.

        Raises:
            Unavailable: the model is unloaded, or `loaded` is not done.
        """
        model = self._model
        if model is None:
            raise Unavailable("the model is not loaded at the moment; try again")
        return model

    def submit(self, entry: Entry[M, P, R]) -> Future[R]:
        """Queue an entry; its future always completes."""
        entry.queued_at = self._clock()
        with self._changed:
            accepted = not self._closing
            if accepted:
                self._policy.queue.add(entry)
                if entry.work.prepare is not None and self._prepare_thread is None:
                    self._prepare_thread = self._start(self._prepare_ahead)
                self._changed.notify_all()
        if not accepted:
            entry.fail(Unavailable(UNLOADED))
        return entry.future

    def cancel(self, request_id: str) -> int:
        """Remove the waiting entries of a request, and return their number.

        A batch in flight completes.
        """
        with self._changed:
            dropped = self._policy.queue.cancel(request_id)
            self._count_cancelled(dropped)
        for entry in dropped:
            entry.future.cancel()
        return len(dropped)

    def close(self) -> Future[None]:
        """Accept no more work, and fail the waiting entries with `Unavailable`.

        The future is done when the batch in flight has completed and the model is freed.
        """
        self._close_queue(Unavailable(UNLOADED))
        return self._ended

    @property
    def closed(self) -> bool:
        """Whether it accepts no more work: it was closed, or its model could not be loaded."""
        return self._closing

    def __len__(self) -> int:
        """Number of waiting entries."""
        with self._changed:
            return len(self._policy.queue)

    @property
    def in_flight(self) -> int:
        """Size of the batch that is being computed."""
        return len(self._in_flight)

    @property
    def batch_limit(self) -> int:
        """Current maximum batch size; below the configured one after an out-of-memory error."""
        return self._policy.batch_limit

    # -- the lane's own threads ---------------------------------------------------------------

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"lane {self.name}", daemon=True)
        thread.start()
        return thread

    def _main(self) -> None:
        try:
            if self._load_model():
                self._serve()
        except BaseException as error:  # waiters must get an answer if the thread dies
            logger.error("lane %s died and is replaced", self.name, exc_info=error)
            release_frames(error)  # they refer to the old model; two might not fit on the device
            self._settle_stranded()
        self._drop_model()
        with self._changed:
            if not self._closing:
                self._start(self._main)
                return
        if self._prepare_thread is not None:
            self._prepare_thread.join()
        self._ended.set_result(None)

    def _load_model(self) -> bool:
        """Load the model; False if that failed."""
        try:
            model = self._load()
            limits = self._limits_of(model)
        except BaseException as error:  # passed to the requests that wait for the model
            if not isinstance(error, Exception):
                logger.error("lane %s: the engine ended its thread", self.name, exc_info=error)
                error = ModelUnavailable("the engine stopped while it loaded the model; try again")
            self._close_queue(error)
            if not self.loaded.done():
                self.loaded.set_exception(error)
            return False
        with self._changed:
            self._model = model
            if not self.stats.restarts:  # after a restart, a reduced batch limit is kept
                self._policy.set_limits(limits)
            self._changed.notify_all()
        if not self.loaded.done():
            self.loaded.set_result(None)
        return True

    def _serve(self) -> None:
        while self._wait_for_work():
            # Chosen once the device is free, so that requests that arrive meanwhile can join.
            with self._device:
                self._compute(self._take_batch())

    def _drop_model(self) -> None:
        """Drop the model and free its memory."""
        gc.unfreeze()  # loaded before the last `import_vendors`, it would never be collected
        with self._changed:
            model, self._model = self._model, None
            if not self._closing:
                self.loaded = Future()
        close_model = getattr(model, "close", None)
        if close_model is None:
            return
        try:
            close_model()
        except Exception:  # there is no caller left
            logger.exception("lane %s: the model did not close", self.name)

    def _close_queue(self, error: Exception) -> None:
        with self._changed:
            self._closing = True
            dropped = self._policy.queue.drain()
            self._changed.notify_all()
        for entry in dropped:
            entry.fail(error)

    def _settle_stranded(self) -> None:
        """Answer the batch that was in flight when the thread died.

        Several entries are retried one by one, so that only an entry that ends the thread again
        fails.
        """
        self._observe(LaneRestarted())
        with self._changed:
            self.stats.restarts += 1
            stranded = [entry for entry in self._in_flight if not entry.future.done()]
            self._in_flight = []
            if len(stranded) > 1 and not self._closing:
                for entry in stranded:
                    entry.max_batch = 1
                    self._policy.queue.add(entry)
                stranded = []
        for entry in stranded:
            self.stats.failed += 1
            entry.fail(Unavailable("the engine stopped while it computed this; try again"))

    def _wait_for_work(self) -> bool:
        """Wait for an entry, and if idle up to `max_wait` for more; False when closed."""
        policy = self._policy
        with self._changed:
            idle = not len(policy.queue)
            self._changed.wait_for(lambda: self._closing or len(policy.queue))
            if idle and policy.limits.max_wait:
                self._changed.wait_for(
                    lambda: self._closing or len(policy.queue) >= policy.batch_limit,
                    timeout=policy.limits.max_wait,
                )
            return not self._closing

    def _take_batch(self) -> list[AnyEntry]:
        with self._changed:
            batch = []
            for entry in self._policy.take():
                if entry.begin():
                    batch.append(entry)
                else:  # its future was cancelled
                    self._count_cancelled([entry])
            self._in_flight = batch
            self._changed.notify_all()  # features of the next batches can be computed
        return batch

    def _count_cancelled(self, entries: Sequence[AnyEntry]) -> None:
        if not entries:
            return
        seconds = sum(entry.padded_seconds for entry in entries)
        self.stats.cancelled += len(entries)
        self.stats.cancelled_seconds += seconds
        self._observe(EntriesCancelled(entries=len(entries), seconds=seconds))

    def _compute(self, batch: list[AnyEntry]) -> None:
        if not batch:
            return
        # Counted first, so that the counters include every answered request.
        self.stats.batches += 1
        self.stats.entries += len(batch)
        self.stats.largest_batch = max(self.stats.largest_batch, len(batch))
        at, begun, limit = time.time(), self._clock(), self.batch_limit
        halved, failed = self.stats.retried_batches, self.stats.failed
        whole = self._run(self.model, batch)
        seconds = self._clock() - begun
        self.stats.busy_seconds += seconds
        self._observe(
            BatchDone(
                at=at,
                seconds=seconds,
                request_ids=tuple(dict.fromkeys(entry.request_id for entry in batch)),
                waits=tuple(begun - entry.queued_at for entry in batch),
                limit=limit,
                halvings=self.stats.retried_batches - halved,
                failed=self.stats.failed - failed,
            )
        )
        with self._changed:
            if whole:
                self._policy.succeeded(batch, seconds)
            self._in_flight = []

    def _run(self, model: M, batch: list[AnyEntry]) -> bool:
        """Compute and answer one batch, in halves if it fails; whether the first try succeeded."""
        try:
            results = run_batch(model, batch)
        except Exception as caught:  # noqa: BLE001 - each waiter gets its own answer
            error = caught
            log_and_release(error, logger, f"lane {self.name}: a batch of {len(batch)} failed")
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.future.set_result(result)
            return True
        if isinstance(error, InsufficientMemory):
            with self._changed:
                self._policy.ran_out_of_memory(len(batch))
        if len(batch) == 1:
            self.stats.failed += 1
            batch[0].fail(error)
            return False
        self.stats.retried_batches += 1
        middle = len(batch) // 2
        self._run(model, batch[:middle])
        self._run(model, batch[middle:])
        return False

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
            while not self._closing and (entry := self._next_unprepared()) is None:
                self._changed.wait()
            model = self._model
            if entry is None or self._closing or model is None:
                return False
            entry.features = Future()
        entry.prepare(model)
        return True

    def _next_unprepared(self) -> AnyEntry | None:
        if self._model is None:
            return None
        return next((entry for entry in self._policy.upcoming() if entry.preparable), None)
