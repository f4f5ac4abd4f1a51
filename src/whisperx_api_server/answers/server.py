"""Models, and the state of the server."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from .common import Configuration, exact


@exact
class Model(TypedDict):
    """OpenAI's model object."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@exact
class ModelList(TypedDict):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[Model]


@exact
class LoadedModel(TypedDict):
    """A model in the pool."""

    model: str
    backend: str
    language: NotRequired[str]
    device: str
    state: Literal["loading", "ready"]
    requests: int
    waiting: int
    memory_bytes: int


@exact
class LoadedModels(TypedDict):
    """The models of one stage in the pool."""

    models: list[LoadedModel]


@exact
class ModelChange(TypedDict):
    """What happened to a model."""

    status: Literal["loaded", "unloaded"]
    model: str
    backend: str
    language: NotRequired[str]


@exact
class Health(TypedDict):
    """The process answers."""

    status: Literal["healthy"]


@exact
class Readiness(TypedDict):
    """Whether requests should be sent here."""

    status: Literal["ready"]


@exact
class Lane(TypedDict):
    """A loaded model's queue and what it has done; counters only grow."""

    model: str
    stage: str
    source: Literal["directory", "packages", "hub"] | None
    state: Literal["loading", "ready"]
    requests: int
    waiting: int
    in_flight: int
    batch_limit: int
    batches: int
    entries: int
    largest_batch: int
    busy_seconds: float
    cancelled: int
    cancelled_cost: float
    failed: int
    retried_batches: int
    restarts: int


@exact
class Queue(TypedDict):
    """What is under way."""

    requests: int
    seconds: float
    limit_seconds: float
    audio_seconds_per_second: float
    lanes: list[Lane]


@exact
class EventLoop(TypedDict):
    """The longest times for which nothing was answered: at all, and by computing on the loop."""

    longest_delay_seconds: float
    longest_blocked_seconds: float


class Info(Configuration):
    """What this server is and does."""

    event_loop: EventLoop
    queue: Queue
