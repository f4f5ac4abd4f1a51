"""Transcript -> body + media type, in the formats of whisper-asr-webservice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, cast

from ..answers.asr import AsrSegment, AsrTranscript, AsrWord
from ..domain import OutputOptions, Segment, Transcript, Word
from .cues import plain, speaker_prefix
from .openai_json import score, segment_json, times
from .render import Rendered, dump, render

AsrOutput = Literal["txt", "vtt", "srt", "tsv", "json"]


def render_asr(transcript: Transcript, output: AsrOutput, *, words: bool) -> Rendered:
    """The transcript in that format; `words` adds their times to json."""
    if output in ("srt", "vtt"):
        return render(transcript, OutputOptions(format=output))
    if output == "json":
        return Rendered(body=dump(_json(transcript, words=words)), media_type="application/json")
    return Rendered(body=_TEXT[output](transcript), media_type="text/plain; charset=utf-8")


def _json(transcript: Transcript, *, words: bool) -> AsrTranscript:
    """openai/whisper's result: `language` is a code, a word's `score` is its `probability`."""
    body: AsrTranscript = {
        "text": transcript.text,
        "segments": [
            _segment(segment, index, words=words)
            for index, segment in enumerate(transcript.segments)
        ],
        "language": transcript.language,
    }
    if transcript.warnings:
        body["warnings"] = list(transcript.warnings)
    return body


def _segment(segment: Segment, index: int, *, words: bool) -> AsrSegment:
    body = cast("AsrSegment", segment_json(segment, index))
    if words and segment.words is not None:
        body["words"] = [_word(word) for word in segment.words]
    return body


def _word(word: Word) -> AsrWord:
    start, end = times(word)
    body: AsrWord = {
        "word": word.text.strip(),
        "start": start,
        "end": end,
        "probability": None if word.score is None else score(word.score),
    }
    if word.speaker is not None:
        body["speaker"] = word.speaker
    return body


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
