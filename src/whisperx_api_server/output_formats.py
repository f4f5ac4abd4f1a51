"""The output formats: names, media types, file extensions, and what each of them can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

OutputFormat = Literal[
    "text", "srt", "vtt", "json", "verbose_json", "vtt_json", "diarized_json", "aud"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """An output format, and the fields of a request that it can honour.

    `timed`: it always shows times. `segments`: `timestamp_granularities[]` chooses its parts.
    `highlights`: it can underline words. `streams`: OpenAI's events can carry it.
    """

    media_type: str = "application/json"
    extension: str = ".json"
    timed: bool = False
    segments: bool = False
    highlights: bool = False
    logprobs: bool = False
    streams: bool = False


_TEXT = "text/plain; charset=utf-8"

FORMATS: Mapping[OutputFormat, Format] = MappingProxyType(
    {
        "json": Format(logprobs=True, streams=True),
        "text": Format(media_type=_TEXT, extension=".txt", streams=True),
        "verbose_json": Format(segments=True, logprobs=True),
        "vtt_json": Format(timed=True, segments=True, highlights=True, logprobs=True),
        "srt": Format(media_type=_TEXT, extension=".srt", timed=True, highlights=True),
        "vtt": Format(media_type=_TEXT, extension=".vtt", timed=True, highlights=True),
        "aud": Format(media_type=_TEXT, extension=".aud", timed=True),
        "diarized_json": Format(streams=True),
    }
)
