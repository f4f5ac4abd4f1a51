"""The answers of whisper-asr-webservice's API."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from .common import DecodedSegment, Seconds, Warnings


class AsrWord(TypedDict):
    """A word; `probability` in [0, 1] is null if it is not known."""

    word: str
    start: Seconds
    end: Seconds
    probability: float | None
    speaker: NotRequired[str]


class AsrSegment(DecodedSegment):
    """A sentence; `words` with `word_timestamps`, `speaker` with `diarize`."""

    words: NotRequired[list[AsrWord]]


class AsrTranscript(TypedDict):
    """`/asr` with `output=json`."""

    text: str
    segments: list[AsrSegment]
    language: Annotated[str, Field(description="ISO-639-1.")]
    warnings: NotRequired[Warnings]


class DetectedLanguage(TypedDict):
    """`/detect-language`."""

    detected_language: Annotated[str, Field(description="English name in lower case.")]
    language_code: Annotated[str, Field(description="ISO-639-1.")]
    confidence: Annotated[float, Field(ge=0, le=1, description="0 without speech.")]
