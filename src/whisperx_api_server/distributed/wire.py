"""What the processes of MODE=kafka send each other, as values and as JSON.

Kafka carries the messages: ids of runs, notices, heartbeats. The bucket has the requests, their
audio, the events of each run and how it ended: no key, URL, prompt, audio or text is ever in a
topic. A reader ignores fields that it does not know, so that two versions can run side by side.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Generic, Literal, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from ..answers.server import LoadedModel
from ..domain import (
    Diarization,
    KnownSpeaker,
    Transcript,
    TranscriptionRequest,
    Upload,
    WindowTranscript,
)
from ..errors import Failure, ServiceError, error_of
from ..jobs.store import transcript_lines, transcript_of
from ..pipeline.events import Opened, PartDiarized, SegmentsLabelled, StageBegan, WindowDone
from ..pipeline.runner import Checkpoint
from ..text_service import TextRequest

logger = logging.getLogger(__name__)

T = TypeVar("T")

Kind = Literal["transcribe", "diarize", "detect_language", "translate", "generate"]
"""The method of `Runner` or `TextService` that a run is for."""

KINDS = get_args(Kind)

ModelStage = Literal["transcription", "alignment", "diarization"]
"""The stages whose models clients can load and unload."""

Result = Transcript | Diarization | Mapping[str, float] | str
"""What those methods return."""


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


# -- topics and queues ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A record of the queues: the run that a worker is to compute.

    `kind` is a `Kind`, or one that only newer versions know. `suspect`: a record of it was
    delivered more than once before this one replaced it.
    """

    run: str
    kind: str
    suspect: bool = False


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


# -- the bucket -----------------------------------------------------------------------------------


AnyRequest = TranscriptionRequest | TextRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRequest:
    """`runs/{id}/request.json`: what a worker needs to know of a run.

    The ids of its uploads are the keys of their objects. `replica` asked for it. `memory` is the
    name of its checkpoint, which equal requests share. `trace` are the headers of its trace.
    """

    request: AnyRequest
    replica: str
    memory: str
    submitted_at: float
    trace: Mapping[str, str] = field(default_factory=dict)


PublishedEvent = StageBegan | Opened | PartDiarized | WindowDone | SegmentsLabelled


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEvent:
    """An event of a run: a line of `runs/{id}/events/{attempt}/{part}`.

    `place` counts the events of the same name that this attempt had before: an attempt that
    resumes repeats those of the earlier one.
    """

    place: int
    event: Annotated[PublishedEvent, Field(discriminator="kind")]


def event_name(event: PublishedEvent) -> str:
    """The name by which `RunEvent.place` counts: the stages are counted one by one."""
    return f"stage_began {event.stage}" if isinstance(event, StageBegan) else event.kind


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a run ended: with a result or an error."""

    result: Result | None = None
    failure: Failure | None = None

    def unwrap(self) -> Result:
        """The result.

        Raises:
            ServiceError: the one with which it failed.
        """
        if self.failure is not None:
            raise error_of(self.failure)
        assert self.result is not None
        return self.result


@dataclass(frozen=True, kw_only=True, slots=True)
class _EndHead:
    """The first line of `End`; the result is in the lines that follow."""

    result: Literal["transcript", "diarization", "languages", "text"] | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckpointHead:
    diarization: Diarization | None = None


_REQUEST: Wire[TranscriptionRequest] = Wire(TypeAdapter(TranscriptionRequest))
STORED_REQUEST: Wire[StoredRequest] = Wire(TypeAdapter(StoredRequest))
RUN_EVENT: Wire[RunEvent] = Wire(TypeAdapter(RunEvent))
_END_HEAD: Wire[_EndHead] = Wire(TypeAdapter(_EndHead))
_DIARIZATION: Wire[Diarization] = Wire(TypeAdapter(Diarization))
_TEXT: Wire[str] = Wire(TypeAdapter(str))
_LANGUAGES: Wire[dict[str, float]] = Wire(TypeAdapter(dict[str, float]))
_CHECKPOINT_HEAD: Wire[_CheckpointHead] = Wire(TypeAdapter(_CheckpointHead))
_WINDOW: Wire[WindowTranscript] = Wire(TypeAdapter(WindowTranscript))


def dump_end(end: End) -> bytes:
    """An end in lines of JSON; hours of speech take a while, so call it on a thread."""
    lines: Iterable[bytes]
    match end.result:
        case None:
            head, lines = _EndHead(failure=end.failure), ()
        case Transcript():
            head, lines = _EndHead(result="transcript"), transcript_lines(end.result)
        case Diarization():
            head, lines = _EndHead(result="diarization"), (_DIARIZATION.dump(end.result),)
        case str():
            head, lines = _EndHead(result="text"), (to_json(end.result),)
        case _:
            head, lines = _EndHead(result="languages"), (_LANGUAGES.dump(dict(end.result)),)
    return b"\n".join((_END_HEAD.dump(head), *lines))


def load_end(data: bytes) -> End:
    """The end of `dump_end`; call it on a thread. It raises as `Wire.load` does."""
    lines = iter(data.split(b"\n"))
    head = _END_HEAD.load(next(lines))
    match head.result:
        case None:
            return End(failure=head.failure)
        case "transcript":
            try:
                return End(result=transcript_of(lines))
            except ValidationError as error:  # it has the text
                raise ValueError(f"transcript: {error.error_count()} errors") from None
        case "diarization":
            return End(result=_DIARIZATION.load(next(lines)))
        case "languages":
            return End(result=_LANGUAGES.load(next(lines)))
        case "text":
            return End(result=_TEXT.load(next(lines)))


def end_of_failure(error: ServiceError) -> End:
    """The end of a run that failed."""
    return End(failure=error.failure())


def dump_checkpoint(windows: Iterable[WindowTranscript], diarization: Diarization | None) -> bytes:
    """A part of a checkpoint in lines of JSON; call it on a thread."""
    head = _CHECKPOINT_HEAD.dump(_CheckpointHead(diarization=diarization))
    return b"\n".join((head, *map(_WINDOW.dump, windows)))


def load_checkpoint(parts: Iterable[bytes]) -> Checkpoint:
    """The checkpoint of those parts that are understood; call it on a thread."""
    checkpoint = Checkpoint()
    for part in parts:
        lines: Iterator[bytes] = iter(part.split(b"\n"))
        try:
            diarization = _CHECKPOINT_HEAD.load(next(lines)).diarization
            windows = [_WINDOW.load(line) for line in lines]
        except ValueError as error:
            logger.warning("a part of a checkpoint is not understood: %s", error)
            continue
        checkpoint.diarization = checkpoint.diarization or diarization
        checkpoint.windows.update((each.window_index, each) for each in windows)
    return checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A request whose uploads are named by keys of the bucket, and the upload of each key."""

    request: TranscriptionRequest
    uploads: Mapping[str, Upload]


def pack(request: TranscriptionRequest) -> Packed:
    """Name the uploads of a request by the keys under which its run has them."""
    uploads: dict[str, Upload] = {}

    def named(upload: Upload) -> Upload:
        key = f"{audio_prefix(request.id)}/{len(uploads)}"
        uploads[key] = upload
        return replace(upload, id=key)

    source, diarize = request.source, request.diarize
    if isinstance(source, Upload):
        source = named(source)
    if diarize is not None:
        known = tuple(
            KnownSpeaker(name=each.name, reference=named(each.reference))
            for each in diarize.known_speakers
        )
        diarize = replace(diarize, known_speakers=known)
    return Packed(request=replace(request, source=source, diarize=diarize), uploads=uploads)


def memory_name(request: AnyRequest, kind: Kind) -> str:
    """The name of the checkpoint that requests share which ask the same about the same content."""
    if isinstance(request, TextRequest):
        return request.id
    source = request.source
    if not isinstance(source, Upload) or not source.digest or kind != "transcribe":
        return request.id
    same = replace(
        request,
        id="",
        source=_content(source),
        watched=False,
        waits=False,
        diarize=request.diarize
        and replace(
            request.diarize,
            known_speakers=tuple(
                replace(each, reference=_content(each.reference))
                for each in request.diarize.known_speakers
            ),
        ),
    )
    return hashlib.blake2b(_REQUEST.dump(same), digest_size=16).hexdigest()


def _content(upload: Upload) -> Upload:
    return Upload(id="", digest=upload.digest)


def audio_prefix(run: str) -> str:
    """Where the recordings of a run are in the bucket."""
    return f"{run_prefix(run)}/audio"


def run_prefix(run: str) -> str:
    """Where all of a run is in the bucket."""
    return f"runs/{run}"
