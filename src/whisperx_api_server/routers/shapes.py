"""The shapes of every answer, for the OpenAPI document; `formats` and the routes make them.

A key that is `NotRequired` is left out where there is nothing to say; one that may be None is
always there. Nothing else is in an answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from ..domain import JobState, Task

exact = with_config(ConfigDict(extra="forbid"))

Seconds = Annotated[float, Field(ge=0, description="Seconds.")]
Timestamp = Annotated[float, Field(description="Seconds since the epoch.")]


@exact
class ErrorDetail(TypedDict):
    """What went wrong."""

    message: Annotated[str, Field(description="One sentence: what is wrong and what mends it.")]
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: Annotated[str | None, Field(description="What a program can tell errors apart by.")]


@exact
class Error(TypedDict):
    """Every answer that is no success, and the event that ends a stream that failed."""

    error: ErrorDetail


# -- transcripts ------------------------------------------------------------------------------


Warnings = Annotated[
    list[str], Field(description="What could not be done as usual; absent if there is nothing.")
]


@exact
class Usage(TypedDict):
    """The recording's length in whole seconds, rounded up."""

    type: Literal["duration"]
    seconds: Annotated[int, Field(ge=0)]


@exact
class SpokenLanguage(TypedDict):
    """A language that occurs."""

    code: Annotated[str, Field(description="ISO-639-1.")]


@exact
class Logprob(TypedDict):
    """A decoded token."""

    token: str
    bytes: list[Annotated[int, Field(ge=0, le=255)]]
    logprob: Annotated[float, Field(description="Natural logarithm; -9999 for next to never.")]


@exact
class Transcription(TypedDict):
    """`json`. `logprobs` if `include[]` asks for them; `languages` unless it is a translation."""

    text: str
    usage: Usage
    languages: NotRequired[list[SpokenLanguage]]
    logprobs: NotRequired[list[Logprob]]
    warnings: NotRequired[Warnings]


@exact
class TranscriptWord(TypedDict):
    """A word; `score` in [0, 1] says how sure the aligner is."""

    word: str
    start: Seconds
    end: Seconds
    score: NotRequired[float]
    speaker: NotRequired[str]


@exact
class TranscriptSegment(TypedDict):
    """A sentence; `words` with granularity `word`, `speaker` with `diarize`."""

    id: int
    seek: Annotated[int, Field(description="The start in hundredths of a second.")]
    start: Seconds
    end: Seconds
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: NotRequired[list[TranscriptWord]]
    speaker: NotRequired[str]


@exact
class VerboseTranscription(TypedDict):
    """`verbose_json`. `timestamp_granularities[]` decides about `segments` and `words`."""

    task: Task
    language: Annotated[str, Field(description="English name in lower case.")]
    duration: Seconds
    text: str
    segments: NotRequired[list[TranscriptSegment]]
    words: NotRequired[list[TranscriptWord]]
    logprobs: NotRequired[list[Logprob]]
    speaker_embeddings: NotRequired[dict[str, list[float]]]
    usage: Usage
    warnings: NotRequired[Warnings]


@exact
class VttTranscription(VerboseTranscription):
    """`vtt_json`."""

    vtt_text: Annotated[str, Field(description="The `vtt` format.")]


@exact
class DiarizedSegment(TypedDict):
    """What one speaker says; also an event."""

    type: Literal["transcript.text.segment"]
    id: str
    start: Seconds
    end: Seconds
    text: str
    speaker: Annotated[str, Field(description="`A`, `B`… or a known speaker's name.")]


@exact
class DiarizedTranscription(TypedDict):
    """`diarized_json`."""

    task: Literal["transcribe"]
    duration: Seconds
    text: str
    segments: list[DiarizedSegment]
    usage: Usage
    warnings: NotRequired[Warnings]


# -- events -----------------------------------------------------------------------------------


@exact
class TextDelta(TypedDict):
    """What a window adds to the text; all deltas together are the text."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: NotRequired[list[Logprob]]


@exact
class InputTokens(TypedDict):
    """What the input tokens stand for."""

    audio_tokens: Annotated[int, Field(ge=0, description="Ten per second of the recording.")]
    text_tokens: Annotated[int, Field(ge=0, description="0: a prompt is not counted.")]


@exact
class TokenUsage(TypedDict):
    """Tokens of the recording and of the text; words, from an engine without tokens."""

    type: Literal["tokens"]
    input_tokens: Annotated[int, Field(ge=0)]
    input_token_details: InputTokens
    output_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


@exact
class TextDone(TypedDict):
    """The whole transcript; the last event before `[DONE]`."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[SpokenLanguage]
    usage: TokenUsage
    logprobs: NotRequired[list[Logprob]]
    warnings: NotRequired[Warnings]


# -- jobs -------------------------------------------------------------------------------------


@exact
class JobStage(TypedDict):
    """When a stage began and ended."""

    name: str
    started_at: Timestamp
    finished_at: Timestamp | None


@exact
class JobStatus(TypedDict):
    """A job: how far it is, and where its result will be."""

    request_id: str
    status: JobState
    status_url: str
    events_url: str
    result_url: str
    submitted_at: Timestamp
    finished_at: Timestamp | None
    duration: Annotated[float | None, Field(description="The recording's length in seconds.")]
    percent: Annotated[float, Field(ge=0, le=100)]
    eta_seconds: Annotated[float | None, Field(ge=0, description="What it should still take.")]
    queue_position: Annotated[int, Field(ge=0, description="Requests before it not done yet.")]
    stages: list[JobStage]
    error: Annotated[ErrorDetail | None, Field(description="Why it failed.")]


@exact
class CancelledJob(JobStatus):
    """A job that was cancelled, or, once it had ended, deleted."""

    deleted: bool


@exact
class JobEvent(JobStatus):
    """A job after a change."""

    type: Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]


@exact
class WebhookEvent(TypedDict):
    """What `callback_url` is sent when a job has ended."""

    id: Annotated[str, Field(description="The same in every try.")]
    object: Literal["event"]
    type: Literal["transcription.completed", "transcription.failed", "transcription.cancelled"]
    created_at: int
    data: JobStatus


# -- models -----------------------------------------------------------------------------------


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


# -- the server -------------------------------------------------------------------------------


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


class Info(TypedDict):
    """What this server is and does."""

    version: str
    mode: str
    device: str
    backends: dict[str, str]
    engine: dict[str, Any]
    default_model: str
    limits: dict[str, float]
    event_loop: EventLoop
    queue: Queue
