"""The errors of the onnx diarizer on the meetings of `../shared/real`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from real_speech import FOLDER
from recordings import decode
from support import diarize
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.onnx import load_diarizer
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


def measure_meetings() -> list[SpeakerErrors]:
    """Diarize each meeting; without collar, overlaps included."""
    diarizer = load_diarizer(ModelSpec(name="onnx"))
    measured = []
    for entry in json.loads((FOLDER / "index.json").read_text(encoding="utf-8")):
        if entry["kind"] == "meeting":
            clip = AudioClip(samples=decode(FOLDER / entry["file"]), sample_rate=SAMPLE_RATE)
            turns = diarize(diarizer, clip, DiarizeOptions()).turns
            found = [(turn.start, turn.end, turn.speaker) for turn in turns]
            measured.append(speaker_errors(entry["file"], entry["turns"], found, clip.duration))
    return measured


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
