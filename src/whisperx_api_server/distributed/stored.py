"""The objects of a run in the bucket, as values and as JSON: request, events, checkpoint, end."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

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
from .wire import Kind, Wire

logger = logging.getLogger(__name__)

Result = Transcript | Diarization | Mapping[str, float] | str
"""What a run returns."""

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
