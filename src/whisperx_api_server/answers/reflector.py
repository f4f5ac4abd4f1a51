"""The answers of Reflector's GPU servers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from .common import Seconds


class ReflectorWord(TypedDict):
    """A word with the space that follows it."""

    word: str
    start: Seconds
    end: Seconds


class ReflectorText(TypedDict):
    """The same under `text`, as Reflector's first GPU server had it."""

    text: str
    start: Seconds
    end: Seconds


class ReflectorTranscription(TypedDict):
    """Text and words."""

    text: str
    words: list[ReflectorWord]


class ReflectorFile(ReflectorTranscription):
    """Text and words of an upload."""

    filename: str


class ReflectorFiles(TypedDict):
    """Several uploads, in the order sent."""

    results: list[ReflectorFile]


class ReflectorTranscript(TypedDict):
    """`/transcribe`."""

    text: str
    words: list[ReflectorText]


class ReflectorTurn(TypedDict):
    """A stretch of one speaker; speakers are numbered from 0 in order of appearance."""

    start: Seconds
    end: Seconds
    speaker: Annotated[int, Field(ge=0)]


class ReflectorDiarization(TypedDict):
    """`/diarize`."""

    diarization: list[ReflectorTurn]


class ReflectorTranslation(TypedDict):
    """`/translate`: language code to text, in the source's language and in the target's."""

    text: dict[str, str]


class ReflectorGeneration(TypedDict):
    """`/llm`."""

    text: str
