"""Recordings for the fake backend, whose windows a test can count."""

from __future__ import annotations

import base64

import numpy as np

from support import wav
from whisperx_api_server.backends.fake import VOCABULARY, say, silence

SPACING = 5.0
"""Seconds from one sentence to the next: two of them do not fit a window of 5 s."""

CHUNK = {"chunk_size": "5"}


def sentences(count: int, *, language: str = "en", speakers: int = 1) -> bytes:
    """A WAV file in which something is said every 5 s; with `CHUNK` each is a window of its own."""
    words = VOCABULARY[language]
    pieces = []
    for place in range(count):
        said = f"{words[place % 16]} {words[(place * 3 + 1) % 16]} {words[(place // 16) % 16]}"
        sound = say(said, language=language, speaker=place % speakers)
        pieces += [sound, silence(SPACING - len(sound) / 16_000)]
    return wav(np.concatenate(pieces))


def text(count: int, *, language: str = "en") -> str:
    """What is said in them."""
    words = VOCABULARY[language]
    return " ".join(
        f"{words[place % 16]} {words[(place * 3 + 1) % 16]} {words[(place // 16) % 16]}."
        for place in range(count)
    )


def reference(speaker: int) -> str:
    """A data URL with 3 s of a speaker's voice, for `known_speaker_references[]`."""
    sound = wav(say(" ".join(VOCABULARY["en"][:10]), speaker=speaker))
    return f"data:audio/wav;base64,{base64.b64encode(sound).decode()}"
