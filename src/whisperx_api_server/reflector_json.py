"""Transcript -> the JSON objects of Reflector's GPU servers."""

from __future__ import annotations

from .domain import SPACELESS_LANGUAGES, Diarization, Transcript
from .openai_json import Json, seconds, times


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
        for start, end in [times(word, offset)]
    ]


def reflector_diarization(diarization: Diarization, offset: float = 0.0) -> Json:
    """Reflector's `/diarize`: speakers are numbers in order of appearance, from 0."""
    turns = sorted(diarization.turns, key=lambda turn: (turn.start, turn.end))
    numbers = {name: index for index, name in enumerate(dict.fromkeys(t.speaker for t in turns))}
    return {
        "diarization": [
            {
                "start": seconds(turn.start + offset),
                "end": seconds(turn.end + offset),
                "speaker": numbers[turn.speaker],
            }
            for turn in turns
        ]
    }
