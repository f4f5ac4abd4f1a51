"""Events of models and batches, as values, for metrics and traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..backends import ModelKey


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLoaded:
    """A model was loaded, in `seconds`."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFailed:
    """A model could not be loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchDone:
    """A batch was computed and answered.

    It began at `at`, in seconds since the epoch, and took `seconds`. Its entries are of the
    requests `request_ids`, and had waited `waits` seconds. `limit` is the maximum size at that
    time. `halvings` is how often it, or a part of it, was halved after an error.
    """

    at: float
    seconds: float
    request_ids: tuple[str, ...]
    waits: tuple[float, ...]
    limit: int
    halvings: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EntriesCancelled:
    """Waiting entries were removed from the queue; `seconds` is their padded audio."""

    entries: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneRestarted:
    """A worker's thread died, and is replaced."""


Observation = ModelLoaded | LoadFailed | BatchDone | EntriesCancelled | LaneRestarted

Observe = Callable[[Observation], None]
"""Takes observations, on any thread; it must be fast, and must not raise."""


ObserveModel = Callable[[ModelKey, Observation], None]
"""The same, for any model."""


def unobserved(_: Observation) -> None:
    """Drop an observation."""


def unobserved_model(_: ModelKey, __: Observation) -> None:
    """Drop an observation."""
