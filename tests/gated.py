"""A backend that a test holds the reins of, and the reins.

It is the fake backend, plugged in as a third party's would be, but it transcribes one window at a
time and only as many as it is allowed to: so a test can look at the server while a request is half
done, whatever the machine's speed, and sees which windows were transcribed at all.

    gate = Gate(tmp_path)
    with Server(tmp_path, gate.settings()) as server: ...
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from whisperx_api_server.backends.base import Capabilities, ModelSpec
from whisperx_api_server.backends.fake import (
    FakeTranscriber,
    align_model,
    load_aligner,
    load_diarizer,
    load_voice_detector,
)
from whisperx_api_server.domain import DecodeOptions, Window, WindowTranscript

__all__ = ["Gate", "align_model", "load_aligner", "load_diarizer", "load_voice_detector"]

DIRECTORY = "GATE_DIRECTORY"
ALL = 10**9


class Gate:
    """Lets windows pass; both sides know it by its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)

    def settings(self) -> dict[str, str]:
        """The environment of a server that this gate rules."""
        metadata = self.directory / "gated_backend-1.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: gated-backend\nVersion: 1\n"
        )
        (metadata / "entry_points.txt").write_text(
            "[whisperx_api_server.backends]\ngated = gated\n"
        )
        return {
            "BACKENDS__TRANSCRIPTION": "gated",
            "BACKENDS__ALIGNMENT": "fake",
            "BACKENDS__DIARIZATION": "fake",
            DIRECTORY: str(self.directory),
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(self.directory))),
        }

    # -- the test's side ----------------------------------------------------------------------

    def allow(self, windows: int = ALL) -> None:
        """Let that many more pass; what was allowed before and is not used is void."""
        self._write("allowed", str(len(self.passed) + windows if windows < ALL else ALL))

    def break_down(self) -> None:
        """From now on fail at each window that may pass."""
        self._write("broken", "")

    def mend(self) -> None:
        (self.directory / "broken").unlink()

    @property
    def passed(self) -> list[str]:
        """When each transcribed window starts, as `"6.0"` for seconds, in order."""
        record = self.directory / "passed"
        return record.read_text().split() if record.exists() else []

    # -- the server's side --------------------------------------------------------------------

    def enter(self, window: Window) -> None:
        """Wait until a window may pass."""
        allowed = self.directory / "allowed"
        while not allowed.exists() or len(self.passed) >= int(allowed.read_text()):
            time.sleep(0.005)
        if (self.directory / "broken").exists():
            raise RuntimeError("the test broke it")
        with (self.directory / "passed").open("a") as record:
            record.write(f"{round(window.start, 1)}\n")

    def _write(self, name: str, text: str) -> None:
        unfinished = self.directory / f"{name}.new"
        unfinished.write_text(text)
        unfinished.replace(self.directory / name)


class GatedTranscriber(FakeTranscriber):
    """Hears tones, a window at a time, when the gate lets it."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_batch=1)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        for window in windows:
            self._gate.enter(window)
        return super().transcribe(windows, options, features)


def load_transcriber(spec: ModelSpec) -> GatedTranscriber:
    """See `backends.base`."""
    return GatedTranscriber(Gate(Path(os.environ[DIRECTORY])))
