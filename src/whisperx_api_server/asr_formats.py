"""Transcript -> body + media type, in the formats of whisper-asr-webservice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from .cues import plain, speaker_prefix
from .domain import OutputOptions, Transcript
from .formats import Rendered, dump, render
from .openai_json import Json, segment_json, times, warnings_json

AsrOutput = Literal["txt", "vtt", "srt", "tsv", "json"]


def render_asr(transcript: Transcript, output: AsrOutput, *, words: bool) -> Rendered:
    """The transcript in that format; `words` adds their times to json."""
    if output in ("srt", "vtt"):
        return render(transcript, OutputOptions(format=output))
    if output == "json":
        return Rendered(body=dump(_json(transcript, words=words)), media_type="application/json")
    return Rendered(body=_TEXT[output](transcript), media_type="text/plain; charset=utf-8")


def _json(transcript: Transcript, *, words: bool) -> Json:
    """openai/whisper's result: `language` is a code, a word's `score` is its `probability`."""
    segments = [
        segment_json(segment, index, with_words=words)
        for index, segment in enumerate(transcript.segments)
    ]
    for segment in segments:
        for word in segment.get("words", ()):
            word["probability"] = word.pop("score", None)
    body = {"text": transcript.text, "segments": segments, "language": transcript.language}
    return body | warnings_json(transcript)


def _txt(transcript: Transcript) -> str:
    """One line per segment where speakers are known, else the text on one line."""
    if not any(segment.speaker for segment in transcript.segments):
        return transcript.text + "\n"
    return "".join(
        f"{speaker_prefix(segment)}{plain(segment.text)}\n" for segment in transcript.segments
    )


def _tsv(transcript: Transcript) -> str:
    """openai/whisper's table: start and end in whole milliseconds, and the text."""
    rows = ["start\tend\ttext"]
    for segment in transcript.segments:
        start, end = (round(1000 * time) for time in times(segment))
        rows.append(f"{start}\t{end}\t{speaker_prefix(segment)}{plain(segment.text)}")
    return "\n".join([*rows, ""])


_TEXT: Mapping[str, Callable[[Transcript], str]] = MappingProxyType({"txt": _txt, "tsv": _tsv})
