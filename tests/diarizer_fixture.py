"""The pyannote pipeline that the tests diarize with, assembled from installed wheels and kept.

The pipeline's embedding model is defined in tests/fixtures/make/resemblyzer_pyannote.py, which has
to be importable where the pipeline is loaded: importing this module sees to it in this process, a
server in another one needs `MODULES` on its PYTHONPATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from support import FIXTURES, locked

MODULES = FIXTURES / "make"

if str(MODULES) not in sys.path:
    sys.path.append(str(MODULES))


def build(out: Path) -> Path:
    """The pipeline's directory, `out`: built if there is none yet, in a process of its own.

    That other process keeps what building imports and warns of out of the tests' own.
    """
    with locked(out), tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        if (out / "config.yaml").exists():
            return out
        made = Path(scratch) / out.name
        subprocess.run(
            [sys.executable, "-W", "ignore", str(MODULES / "build_diarizer.py"), str(made)],
            check=True,
            capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        made.rename(out)  # at once, so that an interrupted build is never taken for a whole one
    return out
