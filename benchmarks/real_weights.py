"""Whisper on real weights beside faster-whisper: short clips at once, one clip, half an hour.

    python -m benchmarks.real_weights MODEL_DIRECTORY

Needs the recordings of `../shared/real`. Both sides have the same weights, int8 and beam 5, and
take turns. CPU seconds are compared, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import RATE, TESTS, Row, machine, server, wav
from .long_audio import cpu_seconds

AT_A_TIME = 8
SHORT = (2.0, 12.0)
ONE = (4.5, 5.5)
LONG_SECONDS = 1800.0
PEER_BATCH = 8
ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """Samples at 16 kHz, their language (ISO-639-1), and the reference text."""

    samples: NDArray[np.float32]
    language: str
    text: str

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.samples) / RATE


def spoken() -> list[Spoken]:
    """Recordings with a text, in a fixed random order."""
    sys.path.insert(0, str(TESTS))
    from real_speech import BECKETT, DICKENS, folder

    chosen = [each for each in folder().values() if each.kind == "speech" and each.text]
    found = [
        Spoken(samples=each.samples, language=each.language, text=each.text)
        for each in (*chosen, DICKENS, BECKETT)
    ]
    random.Random(1).shuffle(found)
    return found


def joined(parts: Sequence[Spoken], seconds: float) -> Spoken:
    """The English parts one after the other, with pauses of 0.3 s, again and again."""
    parts = [part for part in parts if part.language == "en"]
    pause = np.zeros(round(0.3 * RATE), np.float32)
    samples: list[NDArray[np.float32]] = []
    texts: list[str] = []
    while sum(map(len, samples)) < seconds * RATE:
        part = parts[len(texts) % len(parts)]
        samples += [part.samples, pause]
        texts.append(part.text)
    return Spoken(samples=np.concatenate(samples), language="en", text=" ".join(texts))


class Ours:
    """The server; its CPU seconds include those of ffmpeg."""

    def __init__(self, running: Any) -> None:
        self._running = running

    def cpu_seconds(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self._running.process.pid)

    def texts(self, clips: Sequence[Spoken]) -> list[str]:
        """What it hears in the clips, `AT_A_TIME` at once."""

        def send(clip: Spoken) -> str:
            answer = self._running.http.post(
                "/v1/audio/transcriptions",
                files={"file": ("audio.wav", wav(clip.samples))},
                data={
                    "language": clip.language,
                    "response_format": "text",
                    "suppress_numerals": "false",
                },
                timeout=None,
            )
            return str(answer.raise_for_status().text)

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return list(pool.map(send, clips))


class FasterWhisper:
    """faster-whisper in this process; `batch_size` selects its `BatchedInferencePipeline`."""

    def __init__(self, model: Path, *, batch_size: int = 0) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        from whisperx_api_server.backends.vendors import usable_cores

        whisper: Any = WhisperModel(
            str(model), device="cpu", compute_type="int8", cpu_threads=usable_cores()
        )
        transcribe = BatchedInferencePipeline(whisper).transcribe if batch_size else None
        self._transcribe: Callable[..., Any] = (
            partial(transcribe, batch_size=batch_size) if transcribe else whisper.transcribe
        )

    @staticmethod
    def cpu_seconds() -> float:
        """CPU seconds so far."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def texts(self, clips: Sequence[Spoken]) -> list[str]:
        """What it hears in the clips, one after the other."""
        found = []
        for clip in clips:
            segments, _ = self._transcribe(clip.samples, beam_size=5, language=clip.language)
            found.append(" ".join(segment.text for segment in segments))
        return found


def compare(
    name: str,
    ours: Ours,
    other: FasterWhisper,
    clips: Sequence[Spoken],
    *,
    target: float,
    rounds: int = ROUNDS,
) -> Row:
    """Both sides in turn on the same clips; prints their word error rates."""
    spent = {ours: 0.0, other: 0.0}
    heard: dict[object, list[str]] = {}
    for _ in range(rounds):
        for side in (ours, other):
            begun = side.cpu_seconds()
            heard[side] = side.texts(clips)
            spent[side] += side.cpu_seconds() - begun
    seconds = rounds * sum(clip.seconds for clip in clips)
    rates = [error_rate(clips, heard[side]) for side in (ours, other)]
    print(f"{name}: word error rates {rates[0]:.2f} % and {rates[1]:.2f} %", flush=True)
    return Row(
        name=name,
        ours=spent[ours] / seconds,
        other=spent[other] / seconds,
        ratio=spent[other] / spent[ours],
        target=target,
        better="higher",
        unit="CPU s per s of audio",
    )


def error_rate(clips: Sequence[Spoken], texts: Sequence[str]) -> float:
    """Word errors over words of the references, in percent."""
    from real_speech import tokens
    from support import edit_distance

    wanted = [tokens(clip.text, clip.language) for clip in clips]
    wrong = sum(
        edit_distance(words, tokens(text, clip.language))
        for words, text, clip in zip(wanted, texts, clips, strict=True)
    )
    return 100 * wrong / sum(map(len, wanted))


def run(model: Path, *, long_seconds: float = LONG_SECONDS) -> Iterator[Row]:
    """Measure the rows one by one; `model` is a directory in CTranslate2's format."""
    parts = spoken()
    short = [part for part in parts if SHORT[0] <= part.seconds <= SHORT[1]]
    one = next(part for part in parts if ONE[0] <= part.seconds <= ONE[1])
    long = joined(parts, long_seconds)
    sequential, batched = FasterWhisper(model), FasterWhisper(model, batch_size=PEER_BATCH)
    with server(model) as running:
        ours = Ours(running)
        name = f"clips of 2–12 s, {AT_A_TIME} at once, vs faster-whisper one by one"
        yield compare(name, ours, sequential, short, target=3.0)
        name = "one clip of 5 s vs faster-whisper"
        yield compare(name, ours, sequential, [one], target=2.5, rounds=5)
        name = f"{long_seconds / 60:g} min of speech vs BatchedInferencePipeline"
        yield compare(name, ours, batched, [long], target=1.3, rounds=1)


def main() -> None:
    """Run, and print the rows."""
    parser = argparse.ArgumentParser(description="Whisper on real weights beside faster-whisper.")
    parser.add_argument("model", type=Path, help="a model's directory in CTranslate2's format")
    parser.add_argument("--long-seconds", type=float, default=LONG_SECONDS)
    arguments = parser.parse_args()
    print(machine())
    for row in run(arguments.model, long_seconds=arguments.long_seconds):
        print(
            f"{row.name}: {row.ours:.3f} vs {row.other:.3f} {row.unit}, ratio {row.ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
