"""Transcript -> body + media type, one small function a format.

Shapes are those of OpenAI's audio API, checked against the types of its Python SDK; what is extra
(`score`, `speaker`, `words` in a segment, `vtt_text`, `speaker_embeddings`) stands beside, never
instead. Times are rounded to milliseconds, and no number in JSON is infinite or NaN.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from types import MappingProxyType
from typing import Any

import srt
import webvtt
from webvtt.models import Timestamp

from .cues import Cue, make_cues, plain, speaker_prefix
from .domain import (
    SPACELESS_LANGUAGES,
    Diarization,
    OutputFormat,
    OutputOptions,
    Segment,
    TokenLogprob,
    Transcript,
    Word,
    join_texts,
)
from .languages import language_name

MEDIA_TYPES: Mapping[OutputFormat, str] = MappingProxyType(
    {
        "json": "application/json",
        "text": "text/plain; charset=utf-8",
        "verbose_json": "application/json",
        "vtt_json": "application/json",
        "srt": "text/plain; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
        "aud": "text/plain; charset=utf-8",
        "diarized_json": "application/json",
    }
)

LIMIT = 9999.0
"""Stands for infinity: OpenAI's API gives -9999.0 for tokens that are all but impossible."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A response body and its media type."""

    body: str
    media_type: str


def render(transcript: Transcript, options: OutputOptions) -> Rendered:
    """The transcript as the client asked for it."""
    return Rendered(
        body=_RENDERERS[options.format](transcript, options),
        media_type=MEDIA_TYPES[options.format],
    )


# One function a format.


def _json(transcript: Transcript, options: OutputOptions) -> str:
    body: Json = {"text": transcript.text, "usage": _usage(transcript)}
    if transcript.task == "transcribe":
        body["languages"] = _languages(transcript)
    if options.logprobs:
        body["logprobs"] = _all_logprobs(transcript)
    return _dump(body | _warnings(transcript))


def _verbose_json(transcript: Transcript, options: OutputOptions) -> str:
    return _dump(_verbose(transcript, options))


def _vtt_json(transcript: Transcript, options: OutputOptions) -> str:
    return _dump(_verbose(transcript, options) | {"vtt_text": _vtt(transcript, options)})


def _diarized_json(transcript: Transcript, _: OutputOptions) -> str:
    names = letters(segment.speaker for segment in transcript.segments)
    return _dump(
        {
            "task": "transcribe",
            "duration": _time(transcript.duration),
            "text": transcript.text,
            "segments": [
                segment_event(segment, index, names)
                for index, segment in enumerate(transcript.segments)
            ],
            "usage": _usage(transcript),
        }
        | _warnings(transcript)
    )


def _text(transcript: Transcript, _: OutputOptions) -> str:
    return transcript.text + "\n"


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
        for start, end in [_times(segment)]
    )


_Renderer = Callable[[Transcript, OutputOptions], str]

_RENDERERS: Mapping[OutputFormat, _Renderer] = MappingProxyType(
    {
        "json": _json,
        "text": _text,
        "verbose_json": _verbose_json,
        "vtt_json": _vtt_json,
        "srt": _srt,
        "vtt": _vtt,
        "aud": _aud,
        "diarized_json": _diarized_json,
    }
)


# Speakers, as diarized_json calls them.

_LABEL = re.compile(r"SPEAKER_\d+")


def letters(speakers: Iterable[str | None]) -> dict[str | None, str]:
    """Each speaker's name in order of appearance: A, B… Z, AA… for labels, known names as they are.

    None, which is whoever diarization did not name, counts as one speaker too.
    """
    present = list(dict.fromkeys(speakers))
    names: dict[str | None, str] = {
        speaker: speaker
        for speaker in present
        if speaker is not None and not _LABEL.fullmatch(speaker)
    }
    taken = set(names.values())
    free = (letter for letter in map(_letter, range(len(present) + len(taken))))
    unused = (letter for letter in free if letter not in taken)
    for speaker in present:
        if speaker not in names:
            names[speaker] = next(unused)
    return names


def _letter(index: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, as spreadsheets count."""
    name = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


# Streaming.


def text_delta(segments: Iterable[Segment], *, first: bool) -> str:
    """What more segments add to the text; all of a transcript's deltas make up its text exactly.

    `first` says that no text came before. Empty if the segments are blank.
    """
    parts = [(segment.text, segment.language) for segment in segments]
    # A placeholder for the text before them makes `join_texts` put the gap that belongs there.
    return join_texts(parts) if first else join_texts(chain([("x", None)], parts))[1:]


def delta_event(
    text: str,
    *,
    segment_id: str | None = None,
    logprobs: Sequence[TokenLogprob] | None = None,
) -> Json:
    """`transcript.text.delta`; `segment_id` is that of the diarized segment it belongs to."""
    event: Json = {"type": "transcript.text.delta", "delta": text}
    if segment_id is not None:
        event["segment_id"] = segment_id
    if logprobs is not None:
        event["logprobs"] = _logprobs(logprobs)
    return event


def segment_id(index: int) -> str:
    """The id of the `index`th (from 0) diarized segment."""
    return f"seg_{index + 1:03d}"


def segment_event(segment: Segment, index: int, names: Mapping[str | None, str]) -> Json:
    """`transcript.text.segment`, also a segment of diarized_json; `names` is from `letters`."""
    start, end = _times(segment)
    return {
        "type": "transcript.text.segment",
        "id": segment_id(index),
        "start": start,
        "end": end,
        "text": segment.text.strip(),
        "speaker": names[segment.speaker],
    }


def done_event(transcript: Transcript, options: OutputOptions) -> Json:
    """`transcript.text.done`. Without `usage`: its type there knows tokens only, no duration."""
    event: Json = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": _languages(transcript),
    }
    if options.logprobs:
        event["logprobs"] = _all_logprobs(transcript)
    return event | _warnings(transcript)


# Reflector's shapes.


def reflector_file(transcript: Transcript, filename: str) -> Json:
    """One file of Reflector's `/v1/audio/transcriptions`."""
    return {
        "text": transcript.text,
        "words": _reflector_words(transcript, key="word"),
        "filename": filename,
    }


def reflector_transcribe(transcript: Transcript) -> Json:
    """Reflector's `/transcribe`."""
    return {"text": transcript.text, "words": _reflector_words(transcript, key="text")}


def reflector_url(transcript: Transcript, offset: float) -> Json:
    """Reflector's `/v1/audio/transcriptions-from-url`: `offset` seconds added to every time."""
    return {
        "text": transcript.text,
        "words": _reflector_words(transcript, key="word", offset=offset),
    }


def _reflector_words(transcript: Transcript, *, key: str, offset: float = 0.0) -> list[Json]:
    """Every word's text under `key`, `start` and `end`.

    Reflector makes its text by putting words next to one another, so each carries the space after
    it, where the language has spaces.
    """
    return [
        {
            key: word.text.strip() + ("" if segment.language in SPACELESS_LANGUAGES else " "),
            "start": start,
            "end": end,
        }
        for segment in transcript.segments
        for word in segment.words or ()
        for start, end in [_times(word, offset)]
    ]


def reflector_diarization(diarization: Diarization, offset: float = 0.0) -> Json:
    """Reflector's `/diarize`: speakers are numbers in order of appearance, from 0."""
    turns = sorted(diarization.turns, key=lambda turn: (turn.start, turn.end))
    numbers = {name: index for index, name in enumerate(dict.fromkeys(t.speaker for t in turns))}
    return {
        "diarization": [
            {
                "start": _time(turn.start + offset),
                "end": _time(turn.end + offset),
                "speaker": numbers[turn.speaker],
            }
            for turn in turns
        ]
    }


# What they are made of.


def _verbose(transcript: Transcript, options: OutputOptions) -> Json:
    translated = transcript.task == "translate"
    body: Json = {
        "task": transcript.task,
        "language": "english" if translated else language_name(transcript.language),
        "duration": _time(transcript.duration),
        "text": transcript.text,
    }
    with_words = "word" in options.granularities
    if "segment" in options.granularities:
        body["segments"] = [
            _segment(segment, index, with_words=with_words)
            for index, segment in enumerate(transcript.segments)
        ]
    if with_words:
        body["words"] = [_word(word) for word in transcript.words]
    if transcript.speaker_embeddings:
        body["speaker_embeddings"] = {
            speaker: [_finite(value) for value in vector]
            for speaker, vector in transcript.speaker_embeddings.items()
        }
    return body | {"usage": _usage(transcript)} | _warnings(transcript)


def _segment(segment: Segment, index: int, *, with_words: bool) -> Json:
    start, end = _times(segment)
    body: Json = {
        "id": index,
        "seek": int(start * 100),
        "start": start,
        "end": end,
        "text": segment.text.strip(),
        "tokens": [int(token) for token in segment.tokens],
        "temperature": _finite(segment.temperature),
        "avg_logprob": _finite(segment.avg_logprob),
        "compression_ratio": _finite(segment.compression_ratio),
        "no_speech_prob": _finite(segment.no_speech_prob),
    }
    if with_words and segment.words is not None:
        body["words"] = [_word(word) for word in segment.words]
    if segment.speaker is not None:
        body["speaker"] = segment.speaker
    return body


def _word(word: Word) -> Json:
    start, end = _times(word)
    body: Json = {"word": word.text.strip(), "start": start, "end": end}
    if word.score is not None:
        body["score"] = round(_finite(word.score), 3)
    if word.speaker is not None:
        body["speaker"] = word.speaker
    return body


def _usage(transcript: Transcript) -> Json:
    """OpenAI bills whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(_time(transcript.duration))}


def _warnings(transcript: Transcript) -> Json:
    """What could not be done as usual, where there is something to say."""
    return {"warnings": list(transcript.warnings)} if transcript.warnings else {}


def _languages(transcript: Transcript) -> list[Json]:
    return [{"code": code} for code in transcript.languages]


def _all_logprobs(transcript: Transcript) -> list[Json]:
    return _logprobs(chain.from_iterable(segment.logprobs for segment in transcript.segments))


def _logprobs(logprobs: Iterable[TokenLogprob]) -> list[Json]:
    return [
        {"token": each.token, "bytes": list(each.bytes), "logprob": _finite(each.logprob)}
        for each in logprobs
    ]


def _cues(transcript: Transcript, options: OutputOptions) -> list[Cue]:
    return make_cues(transcript.segments, highlight_words=options.highlight_words)


def _cue_text(cue: Cue, escape: Callable[[str], str]) -> str:
    return "\n".join(
        escape(line.before)
        + (f"<u>{escape(line.marked)}</u>" if line.marked else "")
        + escape(line.after)
        for line in cue.lines
    )


def _finite(value: float) -> float:
    """A number that JSON has: NaN is 0, infinity is a large one."""
    return 0.0 if math.isnan(value) else min(max(float(value), -LIMIT), LIMIT)


def _time(seconds: float) -> float:
    """Seconds, never negative, to the millisecond."""
    return round(max(0.0, float(seconds)), 3) if math.isfinite(seconds) else 0.0


def _times(timed: Segment | Word, offset: float = 0.0) -> tuple[float, float]:
    start = _time(timed.start + offset)
    return start, max(start, _time(timed.end + offset))


def _dump(body: Json) -> str:
    return json.dumps(body, ensure_ascii=False, allow_nan=False)
