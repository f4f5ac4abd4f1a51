"""The word errors and word times of a server beside faster-whisper and WhisperX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import SequenceMatcher
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


FASTER_WHISPER = "faster-whisper"

Engine = Callable[[Recording, int], str]
"""Transcribes a recording after that many milliseconds of silence."""


@dataclass(frozen=True)
class Comparison:
    """What a server and other engines heard in a recording with a text.

    `ours` and each of `others` are (mean errors over the delays, tokens of the reference);
    `language_right` is true if all of the server's answers have the right language.
    """

    recording: Recording
    ours: tuple[float, int]
    others: Mapping[str, tuple[float, int]]
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


def engines(weights: Path) -> dict[str, Engine]:
    """faster-whisper's sequential mode and WhisperX, in int8 with beam 5.

    `weights` is the model's directory. WhisperX cuts at pyannote's voice activity, its default.
    """
    import whisperx
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(weights), device="cpu", compute_type="int8")
    pipeline: Any = whisperx.load_model(
        str(weights), device="cpu", compute_type="int8", vad_method="pyannote"
    )

    def faster_whisper(recording: Recording, delay: int) -> str:
        segments, _ = whisper.transcribe(recording.late(delay), beam_size=5)
        return " ".join(segment.text for segment in segments)

    def whisper_x(recording: Recording, delay: int) -> str:
        found = pipeline.transcribe(recording.late(delay), batch_size=1)
        return " ".join(segment["text"] for segment in found["segments"])

    return {FASTER_WHISPER: faster_whisper, "WhisperX": whisper_x}


def compare(
    server: Server,
    others: Mapping[str, Engine],
    recordings: Sequence[Recording],
    *,
    workers: int = 2,
) -> Iterator[Comparison]:
    """Yield the server beside other engines; each transcribes a recording with its `delays`."""

    def ours(file: bytes) -> dict[str, Any]:
        answer = server.transcribe(file, response_format="verbose_json")
        assert answer.status_code == 200, answer.text
        heard: dict[str, Any] = answer.json()
        return heard

    chosen = delays(recordings)
    with ThreadPoolExecutor(workers) as pool:
        for recording in recordings:
            late = chosen[recording.language]
            answers = list(pool.map(ours, [recording.delayed(ms) for ms in late]))
            name = language_name(recording.language).lower()
            yield Comparison(
                recording,
                mean_errors(recording, [answer["text"] for answer in answers]),
                {
                    engine: mean_errors(recording, [transcribe(recording, ms) for ms in late])
                    for engine, transcribe in others.items()
                },
                all(answer["language"] == name for answer in answers),
            )


def difference(compared: Sequence[Comparison]) -> tuple[float, float, float]:
    """The server's word error rate less faster-whisper's, and its 95 % interval, in points.

    The interval is that of recordings drawn with replacement: the paired bootstrap of Bisani and
    Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (2004).
    """
    other = [each.others[FASTER_WHISPER] for each in compared]
    more = np.array(
        [each.ours[0] - wrong for each, (wrong, _) in zip(compared, other, strict=True)]
    )
    counts = np.array([each.ours[1] for each in compared])
    drawn = np.random.default_rng(0).integers(len(more), size=(RESAMPLINGS, len(more)))
    rates = 100 * more[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(rates, [2.5, 97.5]).tolist()
    return (
        error_rate(each.ours for each in compared) - error_rate(other),
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
) -> Iterator[TimeDifferences]:
    """Yield the server's word times beside faster-whisper's; the same model, int8 and beam 5."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(weights), device="cpu", compute_type="int8")
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
        yield TimeDifferences(recording.language, len(pairs), apart)


def unpacked_base(server: Server) -> Path:
    """The directory into which a server with `base_settings` has unpacked its model."""
    server.http.post("/models/load", data={"model": "base"}).raise_for_status()
    (directory,) = (server.temp.parent / "cache" / "whisperx-api-server").glob("base-*")
    return directory
