"""Renders a transcript in each output format."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import srt
import webvtt
from webvtt.models import Timestamp

from ..answers.openai import VttTranscription
from ..domain import OutputOptions, Transcript
from ..output_formats import FORMATS, OutputFormat
from .cues import Cue, make_cues, plain, speaker_prefix
from .openai_json import diarized_json, plain_json, times, verbose_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A response body and its media type."""

    body: str
    media_type: str


def render(transcript: Transcript, options: OutputOptions) -> Rendered:
    """Render a transcript in the format of the options."""
    body = _RENDERERS[options.format](transcript, options)
    return Rendered(body=body, media_type=FORMATS[options.format].media_type)


# Subtitles and text.


def _vtt_json(transcript: Transcript, options: OutputOptions) -> VttTranscription:
    return {**verbose_json(transcript, options), "vtt_text": _vtt(transcript, options)}


def _srt(transcript: Transcript, options: OutputOptions) -> str:
    subtitles = [
        srt.Subtitle(
            index=index,
            start=timedelta(milliseconds=cue.start),
            end=timedelta(milliseconds=cue.end),
            content=_cue_text(cue, str),
        )
        for index, cue in enumerate(_cues(transcript, options), 1)
    ]
    return str(srt.compose(subtitles, reindex=False))


def _vtt(transcript: Transcript, options: OutputOptions) -> str:
    file = webvtt.WebVTT()
    for cue in _cues(transcript, options):
        text = _cue_text(cue, lambda line: html.escape(line, quote=False))
        file.captions.append(webvtt.Caption(_timestamp(cue.start), _timestamp(cue.end), text))
    return str(file.content) + "\n"


def _timestamp(milliseconds: int) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    return str(Timestamp(*divmod(minutes, 60), seconds, milliseconds))


def _aud(transcript: Transcript, _: OutputOptions) -> str:
    return "".join(
        f"{start:.6f}\t{end:.6f}\t{speaker_prefix(segment)}{plain(segment.text)}\n"
        for segment in transcript.segments
        for start, end in [times(segment)]
    )


def _cues(transcript: Transcript, options: OutputOptions) -> list[Cue]:
    return make_cues(transcript.segments, highlight_words=options.highlight_words)


def _cue_text(cue: Cue, escape: Callable[[str], str]) -> str:
    return "\n".join(
        escape(line.before)
        + (f"<u>{escape(line.marked)}</u>" if line.marked else "")
        + escape(line.after)
        for line in cue.lines
    )


_RENDERERS: Mapping[OutputFormat, Callable[[Transcript, OutputOptions], str]] = MappingProxyType(
    {
        "json": lambda transcript, options: dump(plain_json(transcript, options)),
        "text": lambda transcript, _: transcript.text + "\n",
        "verbose_json": lambda transcript, options: dump(verbose_json(transcript, options)),
        "vtt_json": lambda transcript, options: dump(_vtt_json(transcript, options)),
        "srt": _srt,
        "vtt": _vtt,
        "aud": _aud,
        "diarized_json": lambda transcript, options: dump(diarized_json(transcript, options)),
    }
)


def dump(body: Mapping[str, object]) -> str:
    """JSON text, with letters as they are; the items of lists are encoded one by one.

    The encoder holds the interpreter's lock, and with it the event loop, for as long as one call
    takes, which for hours of speech at once is half a second.
    """
    return "{" + ", ".join(f"{_encode(key)}: {_value(value)}" for key, value in body.items()) + "}"


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_encode, value)) + "]"
    return _encode(value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
