"""Recordings of real speech: those that packages carry, and more in a folder beside the project."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recordings import decode
from server import REPOSITORY, Server
from support import edit_distance, wav, words_of
from whisperx_api_server.domain import Samples
from whisperx_api_server.transcript.numerals import spell_numerals

FOLDER = REPOSITORY.parent / "shared" / "real"
"""Recordings that this project may not carry; `index.json` says what is in them."""

RATE = 16_000

WORDS = {"timestamp_granularities[]": "word"}

needs_folder = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the recordings in ../shared/real are not on this machine"
)


@dataclass(frozen=True)
class Recording:
    """A file, its language (ISO-639-1) and the words in it; `text` is "" where they are unknown."""

    path: Path
    language: str
    kind: str = "speech"
    text: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def samples(self) -> Samples:
        """At 16 kHz, mono."""
        return decode(self.path)

    def late(self, milliseconds: int) -> Samples:
        """The samples after that much silence."""
        return np.concatenate([silence(milliseconds / 1000), self.samples])

    def delayed(self, milliseconds: int) -> bytes:
        """The file; with a delay, a WAV file that begins with that much silence."""
        return wav(self.late(milliseconds)) if milliseconds else self.path.read_bytes()


def _carried(package: str, path: str) -> Path:
    return Path(str(distribution(package).locate_file(path)))


def _moonshine(name: str) -> Path:
    return _carried("moonshine-voice", f"moonshine_voice/assets/{name}.wav")


DICKENS = Recording(
    _moonshine("two_cities"),
    "en",
    text="It was the best of times, it was the worst of times, it was the age of wisdom, it "
    "was the age of foolishness, it was the epoch of belief, it was the epoch of "
    "incredulity, it was the season of light, it was the season of darkness, it was the "
    "spring of hope, it was the winter of despair, we had everything before us, we had "
    "nothing before us, we were all going direct to heaven, we were all going direct the "
    "other way. In short, the period was so far like the present period, that some of its "
    "noisiest authorities insisted on its being received, for good or for evil, in the "
    "superlative degree of comparison only.",
)
"""One reader, 44 s at 48 kHz."""

OPENING = "It was the best of times, it was the worst of times, it was the age of wisdom"
"""What the fixture `opening`, the first 6 s of it, says."""

BECKETT = Recording(
    _moonshine("beckett"),
    "en",
    text="Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
)
"""One reader with pauses, 10 s."""

DIALOGUE = Recording(_moonshine("endgame_nagg_nell"), "en", kind="dialogue")
"""Two actors, 28 s."""

CHIMES = [Recording(_moonshine(name), "none", kind="music") for name in ("error", "success")]
"""A second of sounds each, nothing said."""

TELEPHONE = Recording(
    _carried("pyannote-audio", "pyannote/audio/sample/sample.wav"), "en", kind="dialogue"
)
"""Two speakers on the telephone, 30 s."""


@cache
def folder() -> dict[str, Recording]:
    """The folder's recordings by name, its meetings aside; none where there is no folder."""
    if not FOLDER.is_dir():
        return {}
    entries = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    recordings = [
        Recording(FOLDER / entry["file"], entry["language"], entry["kind"], entry["text"] or "")
        for entry in entries
        if entry["kind"] != "meeting"
    ]
    return {recording.name: recording for recording in recordings}


def tokens(text: str, language: str) -> list[str]:
    """What errors are counted in: words, or characters where a language has no spaces.

    Spelling that says nothing about what was heard is made equal.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"\bmr\b", "mister", text)
    if language in ("zh", "ja", "ko"):
        return [each for each in text if each.isalnum()]
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text)


def errors(recording: Recording, text: str) -> tuple[int, int]:
    """(errors, tokens of the reference) of what was heard in a recording with a text.

    Numerals count as the words that they are read as: references, the server and faster-whisper
    write some as digits, some as words.
    """
    wanted, heard = (
        tokens(spell_numerals(each, recording.language), recording.language)
        for each in (recording.text, text)
    )
    return edit_distance(wanted, heard), len(wanted)


def error_rate(counts: Iterable[tuple[float, int]]) -> float:
    """Errors over tokens, in percent."""
    wrong, all_ = map(sum, zip(*counts, strict=True))
    return 100 * wrong / all_


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def noise(seconds: float, *, level: float = 0.01, seed: int = 0) -> Samples:
    """White noise of that RMS level."""
    generator = np.random.default_rng(seed)
    return (level * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def chord(seconds: float) -> Samples:
    """A major chord that fades in and out."""
    time = np.arange(round(seconds * RATE)) / RATE
    tones = np.sum([np.sin(2 * np.pi * pitch * time) for pitch in (261.63, 329.63, 392.0)], axis=0)
    envelope = np.minimum(1, 10 * np.minimum(time, seconds - time))
    return np.asarray(0.1 * tones * envelope, np.float32)


def louder(samples: Samples, decibels: float) -> Samples:
    return (samples * 10 ** (decibels / 20)).astype(np.float32)


def peak_at(samples: Samples, decibels: float) -> Samples:
    """The samples at a peak of that many dB below full scale (0 is full scale)."""
    return louder(samples / np.abs(samples).max(), decibels)


def hear(server: Server, audio: Recording | Samples | bytes, **fields: str) -> dict[str, Any]:
    """The verbose_json answer to a recording, samples at 16 kHz, or a file.

    It has word times, which are checked, unless `align` is "false".
    """
    if isinstance(audio, Recording):
        audio = audio.path.read_bytes()
    elif isinstance(audio, np.ndarray):
        audio = wav(audio)
    timed = {} if fields.get("align") == "false" else WORDS
    answer = server.transcribe(audio, response_format="verbose_json", **timed, **fields)
    assert answer.status_code == 200, answer.text
    heard: dict[str, Any] = answer.json()
    assert_times_are_sound(heard.get("words", []), heard["duration"])
    return heard


def assert_times_are_sound(words: list[dict[str, Any]], duration: float) -> None:
    assert all(0 <= word["start"] < word["end"] <= duration + 0.01 for word in words), words
    assert all(one["start"] <= other["start"] for one, other in pairwise(words)), words


def first_starts(words: list[dict[str, Any]]) -> dict[str, float]:
    """When each word is first said."""
    return {words_of(word["word"])[0]: word["start"] for word in reversed(words)}


def excerpt(recording: Recording, start: float, end: float) -> Samples:
    """The samples between two times in seconds."""
    return recording.samples[round(start * RATE) : round(end * RATE)]
