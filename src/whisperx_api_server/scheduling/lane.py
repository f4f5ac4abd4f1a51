"""Scheduler: one lane, a fair queue and its workers, per loaded model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Generic

from ..errors import Unavailable
from .batch_policy import BatchLimits
from .lane_worker import LaneStats, LaneWorker, Place, Shared
from .observation import Observe, unobserved
from .work import Entry, M, P, R

UNLOADED = "the model was unloaded meanwhile; try again"


class Lane(Generic[M]):
    """One loaded model, with a worker and a copy of the model at each of the `places`.

    Each batch goes to a worker that is free. Only a worker's thread uses its copy: it loads the
    model at the start, and again if the thread dies, and calls the model's `close`, if it has one.
    `observe` is called on the workers' threads. Thread-safe.
    """

    def __init__(
        self,
        name: str,
        places: Sequence[Place[M]],
        *,
        limits: Callable[[M], BatchLimits],
        clock: Callable[[], float] = time.monotonic,
        observe: Observe = unobserved,
    ) -> None:
        self._shared: Shared[M] = Shared(name=name, limits=limits, clock=clock, observe=observe)
        self._all = [LaneWorker(self._shared, place) for place in places]
        self._shared.workers = list(self._all)
        self._turns = count()
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()  # so that a waiter cannot cancel it
        for worker in self._all:
            worker.ended.add_done_callback(self._worker_ended)
        for worker in self._all:
            worker.start()

    @property
    def loaded(self) -> Future[None]:
        """Done once a worker has loaded the model, or fails with the error if none could.

        Replaced when the threads of all workers have died.
        """
        return self._shared.loaded

    @property
    def stats(self) -> LaneStats:
        """The counters of all workers."""
        return self._shared.stats

    @property
    def model(self) -> M:
        """A copy of the model, for its thread-safe methods; do not keep a reference to it.

        Raises:
            Unavailable: the model is unloaded, or `loaded` is not done.
        """
        return self._ready()[0][1]

    def next_worker(self) -> tuple[LaneWorker[M], M]:
        """Return the workers in turn, with their copy of the model.

        For payloads that refer to the model, such as a generator: their entries must name that
        worker.

        Raises:
            Unavailable: the model is unloaded, or `loaded` is not done.
        """
        ready = self._ready()
        return ready[next(self._turns) % len(ready)]

    def submit(self, entry: Entry[M, P, R]) -> Future[R]:
        """Queue an entry; its future always completes.

        The entry leaves the queue when its future is cancelled.
        """
        shared = self._shared
        entry.queued_at = shared.clock()
        with shared.changed:
            accepted = not shared.closing
            if accepted:
                if entry.worker not in shared.workers:
                    entry.worker = None
                shared.queue.add(entry)
                if entry.work.prepare is not None:
                    for worker in shared.workers:
                        worker.prepare_ahead()
                shared.changed.notify_all()
        if not accepted:
            entry.fail(Unavailable(UNLOADED))
        entry.future.add_done_callback(partial(self._withdraw, entry.client, entry.request_id))
        return entry.future

    def waits(self, client: str, request_id: str) -> bool:
        """Whether a request has entries waiting."""
        with self._shared.changed:
            return self._shared.queue.waits(client, request_id)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keep the batches of all requests short meanwhile, for a speaker who may begin."""
        with self._shared.changed:
            self._shared.live += 1
        try:
            yield
        finally:
            with self._shared.changed:
                self._shared.live -= 1

    def cancel(self, request_id: str) -> int:
        """Remove the waiting entries of a request, and return their number.

        A batch in flight completes.
        """
        with self._shared.changed:
            dropped = self._shared.queue.cancel(request_id)
            self._shared.count_cancelled(dropped)
        for entry in dropped:
            entry.future.cancel()
        return len(dropped)

    def close(self) -> Future[None]:
        """Stop accepting work, and fail the waiting entries with `Unavailable`.

        The future is done when the batches in flight have completed and the model is freed.
        """
        self._shared.close(Unavailable(UNLOADED))
        return self._ended

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its model could not be loaded; then it refuses work."""
        return self._shared.closing

    def __len__(self) -> int:
        """Number of waiting entries."""
        with self._shared.changed:
            return len(self._shared.queue)

    @property
    def workers(self) -> int:
        """Number of workers that have loaded the model."""
        return sum(worker.model is not None for worker in self._shared.workers)

    @property
    def in_flight(self) -> int:
        """Number of entries that are being computed."""
        return sum(len(worker.in_flight) for worker in self._shared.workers)

    @property
    def batch_limit(self) -> int:
        """Current maximum size of all workers' batches together."""
        return sum(worker.batch_limit for worker in self._shared.workers)

    def _ready(self) -> list[tuple[LaneWorker[M], M]]:
        ready = [
            (worker, model)
            for worker in self._shared.workers
            if (model := worker.model) is not None
        ]
        if not ready:
            raise Unavailable("the model is not loaded at the moment; try again")
        return ready

    def _withdraw(self, client: str, request_id: str, future: Future[R]) -> None:
        """Remove the entry of a future that is cancelled.

        The future must not refer to its entry, which would keep the audio until a collection.
        """
        if future.cancelled():
            with self._shared.changed:
                removed = self._shared.queue.remove(client, request_id, future)
                if removed is not None:
                    self._shared.count_cancelled([removed])

    def _worker_ended(self, _: Future[None]) -> None:
        with self._shared.changed:
            ended = all(worker.ended.done() for worker in self._all)
            if ended and not self._ended.done():
                self._ended.set_result(None)
