"""The functions that a lane runs on its model, and one queued payload with its future."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import ServiceError, TranscriptionFailed

M = TypeVar("M")  # the model
P = TypeVar("P")  # the payload
R = TypeVar("R")  # the result

logger = logging.getLogger(__name__)

SHORTEST = 1.0
"""Seconds of audio as which a shorter entry counts: its batch still takes time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work(Generic[M, P, R]):
    """How a lane uses its model.

    `run(model, payloads, features)` computes one batch on a worker's thread: one result per
    payload, in order. `prepare(model, payload)`, thread-safe, precomputes a payload's features;
    `run` gets None for features that were not started in time.
    """

    run: Callable[[M, Sequence[P], Sequence[object | None]], Sequence[R]]
    prepare: Callable[[M, P], object] | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Entry(Generic[M, P, R]):
    """One payload that waits for a lane, and the future of its result.

    Only entries with equal `work` and `key` share a batch. `seconds` of audio tell how long it
    takes; 0 for `padded_seconds`. `max_batch` is the maximum size of a batch with this entry, None
    for no limit. `watched`: a client streams the results as they come.
    `repeated`: the window was computed before and holds up later ones, so it goes first.
    `draft`: it will be computed again, with more audio; it waits while an `urgent` entry does.
    `worker`: the only worker that may compute it, None for any.
    `features` is set once their computation has started, `queued_at` by the lane's clock.
    """

    work: Work[M, P, R]
    payload: P
    client: str
    request_id: str
    key: Hashable = None
    padded_seconds: float = 1.0
    seconds: float = 0.0
    max_batch: int | None = None
    watched: bool = False
    repeated: bool = False
    draft: bool = False
    urgent: bool = False
    worker: object | None = None
    future: Future[R] = field(default_factory=Future)
    features: Future[object | None] | None = None
    queued_at: float = 0.0

    def __post_init__(self) -> None:
        self.seconds = max(SHORTEST, self.seconds or self.padded_seconds)

    @property
    def preparable(self) -> bool:
        """Whether its features can be precomputed and were not started."""
        return self.work.prepare is not None and self.features is None

    def begin(self) -> bool:
        """Mark it as running; False if its future was cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def prepare(self, model: M) -> None:
        """Compute the features; they are None after a failure."""
        assert self.work.prepare is not None
        assert self.features is not None
        features: object | None = None
        try:
            features = self.work.prepare(model, self.payload)
        except BaseException:  # `run` fails with the same error, for the right request
            logger.debug("features could not be computed ahead", exc_info=True)
        finally:
            self.features.set_result(features)

    def fail(self, error: Exception) -> None:
        """Fail its future with a ServiceError, unless it is done or cancelled."""
        if self.future.done():
            return
        if not isinstance(error, ServiceError):
            failure = TranscriptionFailed("the engine failed on this recording")
            failure.__cause__ = error
            error = failure
        if self.begin():
            self.future.set_exception(error)


AnyEntry = Entry[Any, Any, Any]
"""An entry of any model: a queue has entries of several works."""


def run_batch(model: object, batch: Sequence[AnyEntry]) -> Sequence[Any]:
    """Run entries of the same work, and return their results in order.

    Raises:
        TranscriptionFailed: the engine returned fewer or more results than payloads.
    """
    features = [None if each.features is None else each.features.result() for each in batch]
    results: Sequence[Any] = batch[0].work.run(model, [each.payload for each in batch], features)
    if len(results) != len(batch):
        raise TranscriptionFailed("the engine returned results for only a part of the recording")
    return results
