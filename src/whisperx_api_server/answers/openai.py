"""Transcripts and stream events of OpenAI's audio API."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ..domain import Task
from .common import DecodedSegment, Seconds, Warnings, exact


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
class TranscriptSegment(DecodedSegment):
    """A sentence; `words` with granularity `word`, `speaker` with `diarize`."""

    words: NotRequired[list[TranscriptWord]]


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


# -- events ----------------------------------------------------------------------------------


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
