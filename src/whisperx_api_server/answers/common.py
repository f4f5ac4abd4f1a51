"""Parts of answers; none of them is an answer by itself."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Seconds = Annotated[float, Field(ge=0, description="Seconds.")]

Warnings = Annotated[
    list[str], Field(description="Sentences about degraded results; absent if there are none.")
]


class DecodedSegment(TypedDict):
    """A sentence and what is known of its decoding."""

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
    speaker: NotRequired[str]


class Configuration(TypedDict):
    """The part of /info that follows from the settings."""

    version: str
    mode: str
    device: str
    backends: dict[str, str]
    engine: dict[str, Any]
    default_model: str
    limits: dict[str, int | float]
