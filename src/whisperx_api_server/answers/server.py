"""Models, and the state of the server."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from .common import Configuration


class Model(TypedDict):
    """OpenAI's model object."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[Model]


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
    worker: NotRequired[str]


class LoadedModels(TypedDict):
    """The models of one stage in the pool."""

    models: list[LoadedModel]


class ModelChange(TypedDict):
    """A model that was loaded or unloaded."""

    status: Literal["loaded", "unloaded"]
    model: str
    backend: str
    language: NotRequired[str]


class Health(TypedDict):
    """The process answers."""

    status: Literal["healthy"]


class Readiness(TypedDict):
    """Whether requests should be sent here."""

    status: Literal["ready"]


class Contexts(TypedDict):
    """Windows that were encoded in a short context, and those of them that were decoded again.

    `short`: whether new windows get one.
    """

    short: bool
    windows: int
    repeated: int


class Lane(TypedDict):
    """A loaded model's queue and what it has done; counters only grow."""

    model: str
    stage: str
    source: Literal["directory", "packages", "hub"] | None
    state: Literal["loading", "ready"]
    requests: int
    waiting: int
    workers: int
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
    contexts: NotRequired[Contexts]


class Queue(TypedDict):
    """Active requests, queued audio and lanes."""

    requests: int
    seconds: float
    limit_seconds: float
    audio_seconds_per_second: float
    lanes: list[Lane]


class EventLoop(TypedDict):
    """The longest time without an answer, and the longest call on the event loop, in seconds."""

    longest_delay_seconds: float
    longest_blocked_seconds: float


class Member(TypedDict):
    """An API replica or a worker of MODE=kafka; `seconds` of audio are in a worker's hands."""

    name: str
    role: Literal["replica", "worker"]
    version: str
    draining: bool
    runs: int
    seconds: float
    audio_seconds_per_second: float


class Info(Configuration):
    """The server's configuration and state; `members` are empty in direct mode."""

    event_loop: EventLoop
    queue: Queue
    members: list[Member]
