"""Transcripts and stream events of OpenAI's audio API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ..domain import Task
from .common import DecodedSegment, Seconds, Warnings


class Usage(TypedDict):
    """The recording's length in whole seconds, rounded up."""

    type: Literal["duration"]
    seconds: Annotated[int, Field(ge=0)]


class SpokenLanguage(TypedDict):
    """A language that occurs."""

    code: Annotated[str, Field(description="ISO-639-1.")]


class Logprob(TypedDict):
    """A decoded token."""

    token: str
    bytes: list[Annotated[int, Field(ge=0, le=255)]]
    logprob: Annotated[float, Field(description="Natural logarithm; at least -9999.")]


class Transcription(TypedDict):
    """`json`. `logprobs` if `include[]` asks for them; `languages` unless it is a translation."""

    text: str
    usage: Usage
    languages: NotRequired[list[SpokenLanguage]]
    logprobs: NotRequired[list[Logprob]]
    warnings: NotRequired[Warnings]


class TranscriptWord(TypedDict):
    """A word; `score` in [0, 1] says how sure the aligner is."""

    word: str
    start: Seconds
    end: Seconds
    score: NotRequired[float]
    speaker: NotRequired[str]


class TranscriptSegment(DecodedSegment):
    """A sentence; `words` with granularity `word`, `speaker` with `diarize`."""

    words: NotRequired[list[TranscriptWord]]


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


class VttTranscription(VerboseTranscription):
    """`vtt_json`."""

    vtt_text: Annotated[str, Field(description="The `vtt` format.")]


class DiarizedSegment(TypedDict):
    """A segment of one speaker; also an event."""

    type: Literal["transcript.text.segment"]
    id: str
    start: Seconds
    end: Seconds
    text: str
    speaker: Annotated[str, Field(description="`A`, `B`… or a known speaker's name.")]


class DiarizedTranscription(TypedDict):
    """`diarized_json`."""

    task: Literal["transcribe"]
    duration: Seconds
    text: str
    segments: list[DiarizedSegment]
    usage: Usage
    warnings: NotRequired[Warnings]


# -- events ----------------------------------------------------------------------------------


class TextDelta(TypedDict):
    """The text that a window adds; all deltas together are the text."""

    type: Literal["transcript.text.delta"]
    delta: str
    logprobs: NotRequired[list[Logprob]]


class InputTokens(TypedDict):
    """The parts of the input tokens."""

    audio_tokens: Annotated[int, Field(ge=0, description="Ten per second of the recording.")]
    text_tokens: Annotated[int, Field(ge=0, description="0: a prompt is not counted.")]


class TokenUsage(TypedDict):
    """Tokens of the recording and of the text; words, from an engine without tokens."""

    type: Literal["tokens"]
    input_tokens: Annotated[int, Field(ge=0)]
    input_token_details: InputTokens
    output_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]


class TextDone(TypedDict):
    """The whole transcript; the last event before `[DONE]`."""

    type: Literal["transcript.text.done"]
    text: str
    languages: list[SpokenLanguage]
    usage: TokenUsage
    logprobs: NotRequired[list[Logprob]]
    warnings: NotRequired[Warnings]


class RealtimeClientSecret(TypedDict):
    """A short-lived key, with which a web page opens live sessions."""

    value: str
    expires_at: Annotated[int, Field(description="Seconds since the epoch.")]
    session: Annotated[dict[str, Any], Field(description="The configuration of its sessions.")]
