"""Lanes: one thread a loaded model, fed from a fair queue.

A lane takes what is batchable from its `BatchQueue`, computes it on its own thread and answers
every waiter, whatever happens: a failing batch is halved and tried again down to one entry, memory
shortage shrinks the batches that follow, and a thread that dies is replaced by one that loads the
model anew. What a batch needs of its audio is computed ahead, entry by entry, on a second thread,
so that a batch is put together at the last instant and a newcomer can still join it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .batch_queue import BatchQueue, Entry
from .batch_times import BatchTimes
from .errors import (
    InsufficientMemory,
    ModelUnavailable,
    ServiceError,
    TranscriptionFailed,
    Unavailable,
)
from .gate import Gate
from .tracebacks import log_and_release, release_frames

M = TypeVar("M")  # the model
P = TypeVar("P")  # what goes in
R = TypeVar("R")  # what comes out

logger = logging.getLogger(__name__)

RECENT = 30.0
"""Seconds for which a lane remembers that it served several requests side by side."""

BULK_STRETCH = 1.4
"""While several requests compete, one request's bulk may stretch a batch to this many times the
time of a batch of one: the price that a newcomer pays at most twice (the batch in flight and its
own), which keeps a short clip within about three times its idle latency."""

GROWTH_AFTER = 20
"""Batches without a memory shortage after which a lowered batch size grows by one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work(Generic[M, P, R]):
    """How a lane uses its model.

    `run(model, payloads, prepared)` computes one batch on the lane's thread; one result a payload,
    in order. `prepare(model, payload)`, thread-safe, computes ahead what `run` gets in `prepared`,
    where what was not begun in time is None.
    """

    run: Callable[[M, Sequence[P], Sequence[object | None]], Sequence[R]]
    prepare: Callable[[M, P], object] | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Item:
    """What the queue holds for one `submit`."""

    work: Work[Any, Any, Any]
    payload: Any
    future: Future[Any]
    prepared: Future[object] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneLimits:
    """`max_cost` in padded seconds a batch; `max_wait` in seconds for company when idle."""

    max_batch: int = 1
    max_cost: float = float("inf")
    max_wait: float = 0.0


@dataclass(kw_only=True, slots=True)
class LaneStats:
    """What a lane has done; counters only grow."""

    batches: int = 0
    entries: int = 0
    largest_batch: int = 0
    busy_seconds: float = 0.0
    cancelled: int = 0
    cancelled_cost: float = 0.0
    failed: int = 0
    retried_batches: int = 0
    restarts: int = 0


class Lane(Generic[M]):
    """One loaded model and the one thread that touches it.

    `load` runs on that thread, at the start and again should the thread die. `gate`, shared by the
    lanes of one device, bounds how many compute at a time. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], M],
        *,
        limits: Callable[[M], LaneLimits],
        gate: Gate,
    ) -> None:
        self.name = name
        self.loaded: Future[None] = Future()
        """Done once the model is there, or has the reason why it did not load. A lane whose thread
        died has a new one."""
        self.stats = LaneStats()
        self._load = load
        self._limits_of = limits
        self._limits = LaneLimits()
        self._gate = gate
        self._queue: BatchQueue[_Item] = BatchQueue()
        self._changed = threading.Condition()
        self._model: M | None = None
        self._batch_limit = 1
        self._good_batches = 0
        self._times = BatchTimes()
        self._last_company = float("-inf")
        self._in_flight: list[Entry[_Item]] = []
        self._closing = False
        self._main_thread = self._start(self._main)
        self._prepare_thread: threading.Thread | None = None

    # -- called from any thread ---------------------------------------------------------------

    @property
    def model(self) -> M:
        """The loaded model, for what is thread-safe; keep no reference to it.

        Raises:
            Unavailable: it is unloaded, or `loaded` is not done.
        """
        model = self._model
        if model is None:
            raise Unavailable("the model is not loaded at the moment; try again")
        return model

    def submit(
        self,
        work: Work[M, P, R],
        payload: P,
        *,
        client: str,
        request_id: str,
        key: Hashable = None,
        cost: float = 1.0,
        max_batch: int = 1_000_000,
    ) -> Future[R]:
        """Queue one payload; its future is answered in any case.

        Entries share a batch when their `work` and `key` are equal. `cost` is in padded seconds,
        `max_batch` bounds the batches that this entry joins.
        """
        item = _Item(work=work, payload=payload, future=Future())
        entry = Entry(
            client=client,
            request_id=request_id,
            payload=item,
            key=(work, key),
            cost=cost,
            max_batch=max_batch,
        )
        with self._changed:
            if not self._closing:
                self._queue.add(entry)
                if work.prepare is not None and self._prepare_thread is None:
                    self._prepare_thread = self._start(self._prepare_ahead)
                self._changed.notify_all()
                return item.future
        _fail(entry, Unavailable("the model was unloaded meanwhile; try again"))
        return item.future

    def cancel(self, request_id: str) -> int:
        """Drop all that waits for a request; the batch in flight ends. How many were dropped."""
        with self._changed:
            dropped = self._queue.cancel(request_id)
            self._count_cancelled(dropped)
        for entry in dropped:
            entry.payload.future.cancel()
        return len(dropped)

    def close(self, timeout: float | None = None) -> None:
        """End the threads after the batch in flight; what waits is answered `Unavailable`.

        A batch that takes longer than `timeout` seconds is left to itself, with its model.
        """
        self._close_queue(Unavailable("the model was unloaded meanwhile; try again"))
        self._main_thread.join(timeout)
        if self._prepare_thread is not None:
            self._prepare_thread.join(timeout)
        if not self._main_thread.is_alive():
            self._drop_model()

    @property
    def closed(self) -> bool:
        """Whether it takes no more work: closed, or its model could not be loaded again."""
        return self._closing

    def __len__(self) -> int:
        """How many entries wait."""
        with self._changed:
            return len(self._queue)

    @property
    def in_flight(self) -> int:
        """The size of the batch that is being computed."""
        return len(self._in_flight)

    @property
    def batch_limit(self) -> int:
        """The largest batch at present; below the configured one after a memory shortage."""
        return self._batch_limit

    def waiting(self, request_id: str) -> int:
        """How many entries of one request wait."""
        with self._changed:
            return self._queue.waiting(request_id)

    # -- the lane's own threads ---------------------------------------------------------------

    def _start(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"lane {self.name}", daemon=True)
        thread.start()
        return thread

    def _main(self) -> None:
        died = False
        try:
            if self._load_model():
                self._serve()
        except BaseException as error:  # a dying thread must not strand its waiters
            logger.error("lane %s died and is replaced", self.name, exc_info=error)
            release_frames(error)  # they hold the old model, and two might not fit the device
            died = True
        if died:
            self._replace()

    def _load_model(self) -> bool:
        """Load the model; whether it is there."""
        try:
            model = self._load()
            self._limits = self._limits_of(model)
        except BaseException as error:  # handed to whoever waits for the model
            if not isinstance(error, Exception):
                logger.error("lane %s: the engine ended its thread", self.name, exc_info=error)
                error = ModelUnavailable("the engine stopped while it loaded the model; try again")
            self._close_queue(error)
            if not self.loaded.done():
                self.loaded.set_exception(error)
            return False
        with self._changed:
            self._model = model
            if not self.stats.restarts:  # else it keeps what it learnt about memory
                self._batch_limit = self._limits.max_batch
            self._changed.notify_all()
        if not self.loaded.done():
            self.loaded.set_result(None)
        return True

    def _serve(self) -> None:
        while self._wait_for_work():
            # The batch is chosen behind the gate: who arrives meanwhile still gets in.
            with self._gate:
                self._compute(self._take_batch())

    def _drop_model(self) -> None:
        """Forget the model and let it free what it holds."""
        with self._changed:
            model, self._model = self._model, None
            if not self._closing:
                self.loaded = Future()
        close_model = getattr(model, "close", None)
        if close_model is None:
            return
        try:
            close_model()
        except Exception:  # there is no one left to tell
            logger.exception("lane %s: the model did not close", self.name)

    def _close_queue(self, error: Exception) -> None:
        with self._changed:
            self._closing = True
            dropped = self._queue.drain()
            self._changed.notify_all()
        for entry in dropped:
            _fail(entry, error)

    def _replace(self) -> None:
        """The thread died: let a new one load the model and go on.

        What shared its batch is computed once more, each entry alone, so that only what kills the
        thread again fails for it.
        """
        with self._changed:
            self.stats.restarts += 1
            stranded = [entry for entry in self._in_flight if not entry.payload.future.done()]
            self._in_flight = []
            if len(stranded) > 1 and not self._closing:
                for entry in stranded:
                    entry.max_batch = 1
                    self._queue.add(entry)
                stranded = []
        for entry in stranded:
            self.stats.failed += 1
            _fail(entry, Unavailable("the engine stopped while it computed this; try again"))
        self._drop_model()
        with self._changed:
            if not self._closing:
                self._main_thread = self._start(self._main)

    def _wait_for_work(self) -> bool:
        """Wait for something to do, when idle a moment longer for company; False at the end."""
        with self._changed:
            if not len(self._queue):
                self._changed.wait_for(lambda: self._closing or len(self._queue))
                if self._limits.max_wait:
                    self._changed.wait_for(
                        lambda: self._closing or len(self._queue) >= self._batch_limit,
                        timeout=self._limits.max_wait,
                    )
            return not self._closing

    def _take_batch(self) -> list[Entry[_Item]]:
        with self._changed:
            now = time.monotonic()
            if self._queue.requests > 1:
                self._last_company = now
            crowded = now - self._last_company < RECENT
            bulk = self._times.largest_within(BULK_STRETCH) if crowded else self._batch_limit
            taken = self._queue.take(self._batch_limit, self._limits.max_cost, bulk)
            batch = []
            for entry in taken:
                future = entry.payload.future
                if future.running() or future.set_running_or_notify_cancel():
                    batch.append(entry)
                else:  # its waiter has given up
                    self._count_cancelled([entry])
            self._in_flight = batch
            self._changed.notify_all()
        return batch

    def _count_cancelled(self, entries: Sequence[Entry[_Item]]) -> None:
        self.stats.cancelled += len(entries)
        self.stats.cancelled_cost += sum(entry.cost for entry in entries)

    def _compute(self, batch: list[Entry[_Item]]) -> None:
        if not batch:
            return
        # Counted first: whoever has an answer finds it in the figures.
        self.stats.batches += 1
        self.stats.entries += len(batch)
        self.stats.largest_batch = max(self.stats.largest_batch, len(batch))
        prepared = [_prepared(entry.payload) for entry in batch]
        begun = time.monotonic()
        if self._run(self.model, batch, prepared):
            self._times.observe(len(batch), time.monotonic() - begun)
            self._grow()
        self.stats.busy_seconds += time.monotonic() - begun
        self._in_flight = []

    def _run(self, model: M, batch: list[Entry[_Item]], prepared: list[object | None]) -> bool:
        """Compute and answer one batch, in halves if it fails; whether it went at the first try."""
        try:
            results = _call(model, batch, prepared)
        except Exception as caught:  # noqa: BLE001 - each waiter gets its own answer
            error = caught
            log_and_release(error, logger, f"lane {self.name}: a batch of {len(batch)} failed")
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.payload.future.set_result(result)
            return True
        if isinstance(error, InsufficientMemory):
            self._shrink(len(batch))
        if len(batch) == 1:
            self.stats.failed += 1
            _fail(batch[0], error)
            return False
        self.stats.retried_batches += 1
        middle = len(batch) // 2
        self._run(model, batch[:middle], prepared[:middle])
        self._run(model, batch[middle:], prepared[middle:])
        return False

    def _shrink(self, failed_size: int) -> None:
        self._batch_limit = max(1, min(self._batch_limit, failed_size // 2))
        self._good_batches = 0

    def _grow(self) -> None:
        if self._batch_limit < self._limits.max_batch:
            self._good_batches += 1
            if self._good_batches >= GROWTH_AFTER:
                self._batch_limit += 1
                self._good_batches = 0

    def _prepare_ahead(self) -> None:
        """Compute features for the entries that come next, up to two batches ahead."""
        while self._prepare_one():
            pass

    def _prepare_one(self) -> bool:
        """Wait for an entry and compute its features; False at the end.

        A function of its own, so that nothing of the entry is kept while the next is waited for.
        """
        with self._changed:
            item: _Item | None = None
            while not self._closing and (item := self._next_unprepared()) is None:
                self._changed.wait()
            model = self._model
            if item is None or self._closing or model is None:
                return False
            item.prepared = Future()
        assert item.work.prepare is not None
        features: object | None = None
        try:
            features = item.work.prepare(model, item.payload)
        except BaseException:  # `run` meets it again, where it is attributed
            logger.debug("lane %s could not prepare ahead", self.name, exc_info=True)
        finally:
            item.prepared.set_result(features)
        return True

    def _next_unprepared(self) -> _Item | None:
        if self._model is None:
            return None
        for entry in self._queue.peek(2 * self._batch_limit):
            item = entry.payload
            if item.prepared is None and item.work.prepare is not None:
                return item
        return None


def _call(model: object, batch: list[Entry[_Item]], prepared: list[object | None]) -> Sequence[Any]:
    results: Sequence[Any] = batch[0].payload.work.run(
        model, [entry.payload.payload for entry in batch], prepared
    )
    if len(results) != len(batch):
        raise TranscriptionFailed("the engine lost a part of the recording")
    return results


def _prepared(item: _Item) -> object | None:
    return None if item.prepared is None else item.prepared.result()


def _fail(entry: Entry[_Item], error: Exception) -> None:
    """Answer a waiter with an error of ours; a waiter that has given up stays as it is."""
    future = entry.payload.future
    if future.done():
        return
    if not isinstance(error, ServiceError):
        failure = TranscriptionFailed("the engine failed on this recording")
        failure.__cause__ = error
        error = failure
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)
