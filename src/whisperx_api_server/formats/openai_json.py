"""Transcript -> the JSON objects and events of OpenAI's audio API.

Shapes are checked against the types of its Python SDK; `score`, `speaker`, `words` in a segment and
`speaker_embeddings` are additional keys. Times are rounded to milliseconds,
and no number is infinite or NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain, count, groupby
from typing import cast

from ..answers.common import DecodedSegment
from ..answers.errors import ErrorDetail
from ..answers.openai import (
    DiarizedSegment,
    DiarizedTranscription,
    Logprob,
    SpokenLanguage,
    TextDelta,
    TextDone,
    TokenUsage,
    Transcription,
    TranscriptSegment,
    TranscriptWord,
    Usage,
    VerboseTranscription,
)
from ..domain import (
    SPACELESS_LANGUAGES,
    OutputOptions,
    Segment,
    TokenLogprob,
    Transcript,
    Word,
    join_texts,
)
from ..errors import Failure
from ..languages import language_name

LIMIT = 9999.0
"""Stands for infinity: OpenAI's API gives -9999.0 for tokens that are all but impossible."""

AUDIO_TOKENS_PER_SECOND = 10
"""OpenAI's audio models take a token for each 100 ms of sound."""

# One function per format.


def plain_json(transcript: Transcript, options: OutputOptions) -> Transcription:
    """`json`."""
    body: Transcription = {"text": transcript.text, "usage": _usage(transcript)}
    if transcript.task == "transcribe":
        body["languages"] = _languages(transcript)
    if options.logprobs:
        body["logprobs"] = _all_logprobs(transcript)
    if transcript.warnings:
        body["warnings"] = list(transcript.warnings)
    return body


def verbose_json(transcript: Transcript, options: OutputOptions) -> VerboseTranscription:
    """`verbose_json`."""
    translated = transcript.task == "translate"
    body: VerboseTranscription = {
        "task": transcript.task,
        "language": "english" if translated else language_name(transcript.language),
        "duration": seconds(transcript.duration),
        "text": transcript.text,
        "usage": _usage(transcript),
    }
    with_words = "word" in options.granularities
    if "segment" in options.granularities:
        body["segments"] = [
            _segment_json(segment, index, with_words=with_words)
            for index, segment in enumerate(transcript.segments)
        ]
    if with_words:
        body["words"] = [_word_json(word) for word in transcript.words]
    if options.logprobs:
        body["logprobs"] = _all_logprobs(transcript)
    if transcript.speaker_embeddings:
        body["speaker_embeddings"] = {
            speaker: [_finite(value) for value in vector]
            for speaker, vector in transcript.speaker_embeddings.items()
        }
    if transcript.warnings:
        body["warnings"] = list(transcript.warnings)
    return body


def diarized_json(transcript: Transcript, options: OutputOptions) -> DiarizedTranscription:
    """`diarized_json`."""
    names = SpeakerNames(options.known_speakers)
    body: DiarizedTranscription = {
        "task": "transcribe",
        "duration": seconds(transcript.duration),
        "text": transcript.text,
        "segments": [
            segment_event(segment, index, names)
            for index, segment in enumerate(transcript.segments)
        ],
        "usage": _usage(transcript),
    }
    if transcript.warnings:
        body["warnings"] = list(transcript.warnings)
    return body


def error_detail(failure: Failure) -> ErrorDetail:
    """OpenAI's error object."""
    return {
        "message": failure.message,
        "type": failure.type,
        "param": failure.param,
        "code": failure.code,
    }


# Streaming.


def text_delta(segments: Iterable[Segment], *, first: bool) -> str:
    """The text that more segments add; all deltas together are the transcript's text exactly.

    `first` says that no text came before. Empty if the segments are blank.
    """
    parts = [(segment.text, segment.language) for segment in segments]
    # A placeholder for the text before them makes `join_texts` put the gap that belongs there.
    return join_texts(parts) if first else join_texts(chain([("x", None)], parts))[1:]


def delta_event(text: str, *, logprobs: Sequence[TokenLogprob] | None = None) -> TextDelta:
    """`transcript.text.delta`."""
    event: TextDelta = {"type": "transcript.text.delta", "delta": text}
    if logprobs is not None:
        event["logprobs"] = token_logprobs(logprobs)
    return event


def segment_event(segment: Segment, index: int, names: SpeakerNames) -> DiarizedSegment:
    """`transcript.text.segment`, also a segment of diarized_json."""
    start, end = times(segment)
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{index + 1:03d}",
        "start": start,
        "end": end,
        "text": segment.text.strip(),
        "speaker": names(segment.speaker),
    }


def done_event(transcript: Transcript, options: OutputOptions) -> TextDone:
    """`transcript.text.done`; its `usage` is in tokens, as OpenAI's is."""
    event: TextDone = {
        "type": "transcript.text.done",
        "text": transcript.text,
        "languages": _languages(transcript),
        "usage": _token_usage(transcript),
    }
    if options.logprobs:
        event["logprobs"] = _all_logprobs(transcript)
    if transcript.warnings:
        event["warnings"] = list(transcript.warnings)
    return event


# Speakers, as diarized_json calls them.

_LABEL = re.compile(r"SPEAKER_\d+")


class SpeakerNames:
    """Names speakers in order of appearance: A, B… Z, AA…; known names stay as they are.

    A name is never given twice, and no letter is given that `known` has. None, the speaker that
    diarization did not find, counts as one speaker too.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._names: dict[str | None, str] = {name: name for name in known}
        self._letters = map(_letter, count())

    def __call__(self, speaker: str | None) -> str:
        """The name of a speaker, the same each time."""
        if speaker not in self._names:
            if speaker is None or _LABEL.fullmatch(speaker):
                self._names[speaker] = self._next_letter()
            else:
                self._names[speaker] = speaker
        return self._names[speaker]

    def _next_letter(self) -> str:
        taken = self._names.values()
        return next(letter for letter in self._letters if letter not in taken)


def _letter(index: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, as spreadsheets count."""
    name = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        name = chr(ord("A") + digit) + name
    return name


# Parts.


def segment_json(segment: Segment, index: int) -> DecodedSegment:
    """The `index`th segment, from 0, without its words."""
    start, end = times(segment)
    body: DecodedSegment = {
        "id": index,
        "seek": int(start * 100),
        "start": start,
        "end": end,
        "text": _spaced(segment),
        "tokens": [int(token) for token in segment.tokens],
        "temperature": _finite(segment.temperature),
        "avg_logprob": _finite(segment.avg_logprob),
        "compression_ratio": _finite(segment.compression_ratio),
        "no_speech_prob": _finite(segment.no_speech_prob),
    }
    if segment.speaker is not None:
        body["speaker"] = segment.speaker
    return body


def _spaced(segment: Segment) -> str:
    """The text with the space before it, as OpenAI has it: joined, the segments are the text."""
    text = segment.text.strip()
    return text if not text or segment.language in SPACELESS_LANGUAGES else f" {text}"


def _segment_json(segment: Segment, index: int, *, with_words: bool) -> TranscriptSegment:
    body = cast("TranscriptSegment", segment_json(segment, index))
    if with_words and segment.words is not None:
        body["words"] = [_word_json(word) for word in segment.words]
    return body


def _word_json(word: Word) -> TranscriptWord:
    start, end = times(word)
    body: TranscriptWord = {"word": word.text.strip(), "start": start, "end": end}
    if word.score is not None:
        body["score"] = score(word.score)
    if word.speaker is not None:
        body["speaker"] = word.speaker
    return body


def score(value: float) -> float:
    """How sure the aligner is of a word."""
    return round(_finite(value), 3)


def _usage(transcript: Transcript) -> Usage:
    """OpenAI bills whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(seconds(transcript.duration))}


def _token_usage(transcript: Transcript) -> TokenUsage:
    """Audio tokens by the length of the recording, output tokens as decoded.

    An engine without tokens counts words, or letters where the script has no spaces.
    """
    heard = math.ceil(AUDIO_TOKENS_PER_SECOND * seconds(transcript.duration))
    written = sum(_window_tokens(window) for _, window in groupby(transcript.segments, _decoding))
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        "output_tokens": written,
        "total_tokens": heard + written,
    }


def _decoding(segment: Segment) -> tuple[object, ...]:
    """Equal for the sentences of one window, which repeat what is known of its decoding."""
    return segment.tokens, segment.avg_logprob, segment.compression_ratio, segment.no_speech_prob


def _window_tokens(sentences: Iterable[Segment]) -> int:
    segments = list(sentences)
    if tokens := segments[0].tokens:
        return len(tokens)
    return sum(
        len(
            "".join(each.text.split())
            if each.language in SPACELESS_LANGUAGES
            else each.text.split()
        )
        for each in segments
    )


def _languages(transcript: Transcript) -> list[SpokenLanguage]:
    return [{"code": code} for code in transcript.languages]


def _all_logprobs(transcript: Transcript) -> list[Logprob]:
    return token_logprobs(chain.from_iterable(segment.logprobs for segment in transcript.segments))


def token_logprobs(logprobs: Iterable[TokenLogprob]) -> list[Logprob]:
    """The tokens as OpenAI writes them."""
    return [
        {"token": each.token, "bytes": list(each.bytes), "logprob": _finite(each.logprob)}
        for each in logprobs
    ]


def _finite(value: float) -> float:
    """A number that JSON has: NaN is 0, infinity is a large one."""
    return 0.0 if math.isnan(value) else min(max(float(value), -LIMIT), LIMIT)


def seconds(time: float) -> float:
    """Seconds, never negative, to the millisecond."""
    return round(max(0.0, float(time)), 3) if math.isfinite(time) else 0.0


def times(timed: Segment | Word, offset: float = 0.0) -> tuple[float, float]:
    """Start and end in seconds, `offset` added; the end is never before the start."""
    start = seconds(timed.start + offset)
    return start, max(start, seconds(timed.end + offset))
