"""The word errors and word times of a server beside faster-whisper's sequential mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from real_speech import Recording, error_rate, errors, hear
from server import Server
from whisperx_api_server.languages import language_name

DELAYS = (0, 10, 20, 30, 40)
"""Milliseconds of silence before a recording; it is transcribed once with each."""

FEW_TOKENS = 300
"""Only languages with fewer tokens are transcribed with all `DELAYS`. In these, single words
decide, and 10 ms of silence change them."""

RESAMPLINGS = 2000
"""Sets of recordings that the bootstrap draws."""

APART = 0.3
"""Seconds between two times of a word that count as a difference."""


@dataclass(frozen=True)
class Comparison:
    """What a server and faster-whisper heard in a recording with a text.

    `ours` and `other` are (mean errors over the delays, tokens of the reference);
    `language_right` is true if all of the server's answers have the right language.
    """

    recording: Recording
    ours: tuple[float, int]
    other: tuple[float, int]
    language_right: bool


def delays(recordings: Sequence[Recording]) -> dict[str, tuple[int, ...]]:
    """The delays with which the recordings of each language are transcribed."""
    counts: Counter[str] = Counter()
    for recording in recordings:
        counts[recording.language] += errors(recording, "")[1]
    return {
        language: DELAYS if count < FEW_TOKENS else DELAYS[:1] for language, count in counts.items()
    }


def mean_errors(recording: Recording, texts: Sequence[str]) -> tuple[float, int]:
    """(mean errors, tokens of the reference) of several answers to a recording."""
    wrong, counts = zip(*(errors(recording, text) for text in texts), strict=True)
    return sum(wrong) / len(wrong), counts[0]


def compare(
    server: Server,
    weights: Path,
    recordings: Sequence[Recording],
    *,
    workers: int = 2,
) -> list[Comparison]:
    """The server beside faster-whisper's sequential mode: the same model, int8 and beam 5.

    Both transcribe each recording with the same `delays`. `weights` is the model's directory.
    """
    from faster_whisper import WhisperModel

    def ours(file: bytes) -> dict[str, Any]:
        answer = server.transcribe(file, response_format="verbose_json")
        assert answer.status_code == 200, answer.text
        heard: dict[str, Any] = answer.json()
        return heard

    def other(file: bytes) -> str:
        segments, _ = model.transcribe(BytesIO(file), beam_size=5)
        return " ".join(segment.text for segment in segments)

    chosen = delays(recordings)
    files = [[each.delayed(ms) for ms in chosen[each.language]] for each in recordings]
    with ThreadPoolExecutor(workers) as pool:
        pending = [[pool.submit(ours, file) for file in versions] for versions in files]
    model = WhisperModel(str(weights), device="cpu", compute_type="int8")
    compared = []
    for recording, versions, futures in zip(recordings, files, pending, strict=True):
        answers = [future.result() for future in futures]
        name = language_name(recording.language).lower()
        compared.append(
            Comparison(
                recording,
                mean_errors(recording, [answer["text"] for answer in answers]),
                mean_errors(recording, [other(file) for file in versions]),
                all(answer["language"] == name for answer in answers),
            )
        )
    return compared


def difference(compared: Sequence[Comparison]) -> tuple[float, float, float]:
    """The server's word error rate less faster-whisper's, and its 95 % interval, in points.

    The interval is that of recordings drawn with replacement: the paired bootstrap of Bisani and
    Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (2004).
    """
    more = np.array([each.ours[0] - each.other[0] for each in compared])
    counts = np.array([each.ours[1] for each in compared])
    drawn = np.random.default_rng(0).integers(len(more), size=(RESAMPLINGS, len(more)))
    rates = 100 * more[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5]).tolist()
    return (
        error_rate(each.ours for each in compared) - error_rate(each.other for each in compared),
        low,
        high,
    )


@dataclass(frozen=True)
class TimeDifferences:
    """Words of a recording that the server and faster-whisper both heard.

    `apart` of them start or end more than APART seconds apart.
    """

    language: str
    words: int
    apart: int


def compare_times(
    server: Server, weights: Path, recordings: Sequence[Recording]
) -> list[TimeDifferences]:
    """The server's word times beside faster-whisper's; the same model, int8 and beam 5."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", compute_type="int8")
    compared = []
    for recording in recordings:
        ours = [
            (word["word"].strip(), word["start"], word["end"])
            for word in hear(server, recording).get("words", [])
        ]
        segments, _ = model.transcribe(str(recording.path), beam_size=5, word_timestamps=True)
        other = [
            (word.word.strip(), word.start, word.end)
            for segment in segments
            for word in segment.words
        ]
        pairs = [
            (ours[block.a + place], other[block.b + place])
            for block in SequenceMatcher(
                None, [word for word, *_ in ours], [word for word, *_ in other], autojunk=False
            ).get_matching_blocks()
            for place in range(block.size)
        ]
        apart = sum(
            abs(one[1] - two[1]) > APART or abs(one[2] - two[2]) > APART for one, two in pairs
        )
        compared.append(TimeDifferences(recording.language, len(pairs), apart))
    return compared


def unpacked_base(server: Server) -> Path:
    """The directory into which a server with `base_settings` has unpacked its model."""
    server.http.post("/models/load", data={"model": "base"}).raise_for_status()
    (directory,) = (server.temp.parent / "cache" / "whisperx-api-server").glob("base-*")
    return directory
