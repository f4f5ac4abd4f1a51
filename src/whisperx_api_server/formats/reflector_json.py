"""Transcript -> the JSON objects of Reflector's GPU servers."""

from __future__ import annotations

from collections.abc import Iterator

from ..answers.reflector import (
    ReflectorDiarization,
    ReflectorFile,
    ReflectorTranscript,
    ReflectorTranscription,
)
from ..domain import SPACELESS_LANGUAGES, Diarization, Transcript
from .openai_json import seconds, times


def reflector_file(transcript: Transcript, filename: str) -> ReflectorFile:
    """One file of Reflector's `/v1/audio/transcriptions`."""
    return {**reflector_transcription(transcript), "filename": filename}


def reflector_transcription(transcript: Transcript, offset: float = 0.0) -> ReflectorTranscription:
    """Reflector's `/v1/audio/transcriptions-from-url`: `offset` seconds added to every time."""
    return {
        "text": transcript.text,
        "words": [
            {"word": word, "start": start, "end": end}
            for word, start, end in _words(transcript, offset)
        ],
    }


def reflector_transcript(transcript: Transcript) -> ReflectorTranscript:
    """Reflector's `/transcribe`."""
    return {
        "text": transcript.text,
        "words": [
            {"text": word, "start": start, "end": end} for word, start, end in _words(transcript)
        ],
    }


def _words(transcript: Transcript, offset: float = 0.0) -> Iterator[tuple[str, float, float]]:
    """Each word with its start and end.

    Reflector makes its text by putting words next to one another, so each carries the space after
    it, where the language has spaces.
    """
    for segment in transcript.segments:
        gap = "" if segment.language in SPACELESS_LANGUAGES else " "
        for word in segment.words or ():
            yield word.text.strip() + gap, *times(word, offset)


def reflector_diarization(diarization: Diarization, offset: float = 0.0) -> ReflectorDiarization:
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
