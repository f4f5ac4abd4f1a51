"""The shapes of whisper-asr-webservice's answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from .shapes import Seconds, Warnings, exact


@exact
class AsrWord(TypedDict):
    """A word; `probability` in [0, 1] is null where nothing tells it."""

    word: str
    start: Seconds
    end: Seconds
    probability: float | None
    speaker: NotRequired[str]


@exact
class AsrSegment(TypedDict):
    """A sentence; `words` with `word_timestamps`, `speaker` with `diarize`."""

    id: int
    seek: int
    start: Seconds
    end: Seconds
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    words: NotRequired[list[AsrWord]]
    speaker: NotRequired[str]


@exact
class AsrTranscript(TypedDict):
    """`/asr` with `output=json`."""

    text: str
    segments: list[AsrSegment]
    language: Annotated[str, Field(description="ISO-639-1.")]
    warnings: NotRequired[Warnings]


@exact
class DetectedLanguage(TypedDict):
    """`/detect-language`."""

    detected_language: Annotated[str, Field(description="English name in lower case.")]
    language_code: Annotated[str, Field(description="ISO-639-1.")]
    confidence: Annotated[float, Field(ge=0, le=1, description="0 without speech.")]
