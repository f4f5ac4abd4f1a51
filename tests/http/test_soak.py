"""A short run of `make soak`: mixed load with bad input and hang-ups leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

from server import REPOSITORY


def test_mixed_load_leaves_nothing_behind() -> None:
    soak = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak"],
        cwd=REPOSITORY,
        env=os.environ | {"SOAK_SECONDS": "6", "SOAK_SEED": "7"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    rows = {line.split()[0]: line.split()[1:] for line in soak.stdout.splitlines() if line}
    assert {
        "plain",
        "stream",
        "hang_up",
        "live",
    } <= rows.keys()  # the dice of that seed throw them early
