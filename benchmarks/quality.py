"""`make quality`: word error rates on real speech beside faster-whisper, by language and by kind.

Needs the recordings of `../shared/real`. Digits count as the words that they are read as. The exit
status is 1 if the server makes more errors over all speech than faster-whisper's sequential mode,
by more than ALLOWED (0.3) percentage points.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .common import TESTS, machine

if TYPE_CHECKING:
    from real_speech import Comparison


def main() -> int:
    """Run, print the table; 1 if the server is worse than allowed."""
    sys.path.insert(0, str(TESTS))
    from real_speech import FOLDER, compare, error_rate, folder, unpacked_base
    from server import Server, base_settings

    allowed = float(os.environ.get("ALLOWED", "0.3"))
    clips = [clip for clip in folder().values() if clip.kind in ("speech", "numbers") and clip.text]
    if not clips:
        print(f"there are no recordings in {FOLDER}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="quality-") as name:
        directory = Path(name)
        with Server(directory, base_settings(directory)) as server:
            weights = unpacked_base(server)
            compared = compare(server, weights, clips)
    speech = [each for each in compared if each.recording.kind == "speech"]
    _print(compared)
    ours, other = (error_rate(getattr(each, side) for each in speech) for side in ("ours", "other"))
    print(f"all speech: {ours:.2f} %, faster-whisper {other:.2f} %, allowed {allowed} points more")
    return 0 if ours <= other + allowed else 1


def _print(compared: Sequence[Comparison]) -> None:
    """One row for each language and kind, and one for all."""
    from real_speech import error_rate

    table = Table("", "recordings", "tokens", "WER, %", "faster-whisper", "language right")

    def row(label: str, members: Iterable[Comparison]) -> None:
        chosen = list(members)
        right = sum(each.language_right for each in chosen)
        table.add_row(
            label,
            str(len(chosen)),
            str(sum(each.ours[1] for each in chosen)),
            f"{error_rate(each.ours for each in chosen):.1f}",
            f"{error_rate(each.other for each in chosen):.1f}",
            f"{right}/{len(chosen)}",
        )

    for language in sorted({each.recording.language for each in compared}):
        row(language, (each for each in compared if each.recording.language == language))
    for kind in sorted({each.recording.kind for each in compared}):
        row(kind, (each for each in compared if each.recording.kind == kind))
    row("all", compared)
    Console().print(table)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))


if __name__ == "__main__":
    sys.exit(main())
