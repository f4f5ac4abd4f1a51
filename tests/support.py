"""What the tests share: where the fixtures lie, and how texts are compared."""

from __future__ import annotations

import fcntl
import io
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from whisperx_api_server.backends.base import Diarizer
from whisperx_api_server.domain import AudioClip, Diarization, DiarizeOptions, Samples

FIXTURES = Path(__file__).parent / "fixtures"
WHISPER = FIXTURES / "models" / "whisper"
ALIGNER = FIXTURES / "models" / "aligner"
PARAKEET = FIXTURES / "models" / "parakeet.nemo"

PATIENCE = 120.0
"""Seconds until a test fails because something did not happen: more than a busy machine needs."""


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation, apostrophes and hyphens kept inside words."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def edit_distance(wanted: Sequence[str], got: Sequence[str]) -> int:
    """The least number of items to insert, delete or replace (Levenshtein)."""
    row = list(range(len(got) + 1))
    for i, expected in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, item in enumerate(got, 1):
            previous, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, previous + (expected != item)),
            )
    return row[-1]


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(word errors, reference words)."""
    wanted = words_of(reference)
    return edit_distance(wanted, words_of(hypothesis)), len(wanted)


def wav(samples: Samples, *, rate: int = 16_000) -> bytes:
    """A 16-bit mono WAV file."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


@dataclass(frozen=True)
class Turn:
    """One speaker, from `start` to `end` seconds."""

    speaker: str
    start: float
    end: float


FRAME = 0.01  # s
COLLAR = 0.25  # s on each side of a reference boundary that is not scored, as NIST's md-eval has it


def turns_of(words: Iterable[tuple[str, float, float]], *, pause: float = 0.5) -> list[Turn]:
    """(speaker, start, end) of words -> turns; a longer pause than that, in seconds, ends one."""
    turns: list[Turn] = []
    for speaker, start, end in words:
        if turns and turns[-1].speaker == speaker and start - turns[-1].end <= pause:
            start = turns.pop().start
        turns.append(Turn(speaker, start, end))
    return turns


def diarize(diarizer: Diarizer, clip: AudioClip, options: DiarizeOptions) -> Diarization:
    """All steps of a diarization."""
    steps = diarizer.diarize(clip, options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Diarization = end.value
            return result


def diarization_error(reference: Sequence[Turn], hypothesis: Sequence[Turn]) -> float:
    """Missed, false and confused speaker time over reference speaker time, outside the collar.

    Each hypothesis speaker stands for the one reference speaker that makes the error least.
    """
    frames = round(max(turn.end for turn in (*reference, *hypothesis)) / FRAME) + 1
    truth, heard = _activity(reference, frames), _activity(hypothesis, frames)
    scored = np.ones(frames, bool)
    for turn in reference:
        for edge in (turn.start, turn.end):
            first = max(0, round((edge - COLLAR) / FRAME))
            scored[first : round((edge + COLLAR) / FRAME)] = False
    truth, heard = truth[:, scored], heard[:, scored]
    size = max(len(truth), len(heard))
    truth = np.pad(truth, ((0, size - len(truth)), (0, 0)))
    heard = np.pad(heard, ((0, size - len(heard)), (0, 0)))
    together = truth.astype(int) @ heard.astype(int).T  # frames, reference x hypothesis
    correct = max(
        sum(int(together[row, column]) for row, column in enumerate(order))
        for order in permutations(range(size))
    )
    error = np.maximum(truth.sum(axis=0), heard.sum(axis=0)).sum() - correct
    return float(error / truth.sum())


def _activity(turns: Sequence[Turn], frames: int) -> NDArray[np.bool_]:
    speakers = sorted({turn.speaker for turn in turns})
    active = np.zeros((len(speakers), frames), bool)
    for turn in turns:
        first, last = round(turn.start / FRAME), round(turn.end / FRAME)
        active[speakers.index(turn.speaker), first:last] = True
    return active


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one process at a time make a directory that tests keep below build/."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """A port of the loopback on which nothing listens.

    Its socket stays bound until this process ends: the port is given to nobody else, and only a
    server that is told it listens on it, with SO_REUSEADDR, which all of them set.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        bound.detach()
        return port


def eventually(true: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; for what a server does after, or without, an answer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
