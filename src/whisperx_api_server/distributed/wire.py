"""Messages between the processes of MODE=kafka, as values and as JSON.

Kafka carries ids of runs, notices and heartbeats; the rest is in the bucket, see `stored`: no key,
URL, prompt, audio or text is ever in a topic. A reader ignores fields that it does not know, so
that two versions can run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Generic, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from ..answers.server import LoadedModel
from ..errors import Failure

T = TypeVar("T")

Kind = Literal["transcribe", "diarize", "detect_language", "translate", "generate"]
"""The method of `Runner` or `TextService` that a run is for."""

KINDS = get_args(Kind)

ModelStage = Literal["transcription", "alignment", "diarization"]
"""The stages whose models clients can load and unload."""


class Wire(Generic[T]):
    """One type of message, to and from JSON."""

    def __init__(self, adapter: TypeAdapter[T]) -> None:
        self._adapter = adapter

    def dump(self, message: T) -> bytes:
        """The message as JSON, in one line."""
        return to_json(message)  # unlike the adapter's own, it keeps infinity

    def load(self, data: bytes) -> T:
        """The message of JSON.

        Raises:
            ValueError: it is of a version that is not understood; the message has none of its text.
        """
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"{place}: {first['msg']}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A record of the queues: the run that a worker is to compute.

    `kind` is a `Kind`, or one that only newer versions know. `suspect`: a record of it was
    delivered more than once before this one replaced it. `full_disks`: how many workers had no
    room for the recording, though they have for others.
    """

    run: str
    kind: str
    suspect: bool = False
    full_disks: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A message of the topic `events`, whose key is the run: what the bucket has of it now.

    That is `parts` objects with the events of `attempt` and, once it has `ended`, its end.
    """

    run: str
    attempt: str = ""
    parts: int = 0
    ended: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A worker has taken a run: another that still computes it stops."""

    run: str
    worker: str
    kind: Literal["taken"] = "taken"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancelled:
    """Nothing waits for a run any more."""

    run: str
    kind: Literal["cancelled"] = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """A replica follows a run, and from now on sees to it: cancels and deletes it.

    Requests with the same `memory`, see `memory_name`, can join the run.
    """

    run: str
    memory: str
    replica: str
    kind: Literal["followed"] = "followed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawn:
    """A client withdraws a job; the replica that has it cancels it."""

    job: str
    kind: Literal["withdrawn"] = "withdrawn"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOrder:
    """Each worker is to load or unload a model; `language` names an aligner."""

    order: str
    action: Literal["load", "unload"]
    stage: ModelStage
    model: str
    language: str | None = None
    kind: Literal["model_order"] = "model_order"


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderDone:
    """A worker has followed an order, or failed to; `changed` whether the model was unloaded."""

    order: str
    worker: str
    changed: bool = True
    failure: Failure | None = None
    kind: Literal["order_done"] = "order_done"


Control = Taken | Cancelled | Followed | Withdrawn | ModelOrder | OrderDone
"""A message of the topic `control`, which all processes read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """A message of the topic `members`, whose key is the member.

    `at` in seconds since the epoch. `seconds` of audio are in a worker's hands, of `runs` runs; it
    transcribes `speed` seconds a second. A replica has admitted `seconds` that are not transcribed.
    """

    member: str
    role: Literal["replica", "worker"]
    at: float
    version: str = ""
    draining: bool = False
    runs: int = 0
    seconds: float = 0.0
    speed: float = 0.0
    models: Mapping[ModelStage, Sequence[LoadedModel]] = field(default_factory=dict)


TASK: Wire[Task] = Wire(TypeAdapter(Task))
NOTICE: Wire[Notice] = Wire(TypeAdapter(Notice))
CONTROL: Wire[Control] = Wire(TypeAdapter(Annotated[Control, Field(discriminator="kind")]))
HEARTBEAT: Wire[Heartbeat] = Wire(TypeAdapter(Heartbeat))
