"""`make fuzz`: mutated uploads and forms against a real server process.

COUNT (10,000) and SEED (1) come from the environment: `make fuzz COUNT=500 SEED=7`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from .common import TESTS


def main() -> int:
    """Run, say what was answered; 1 if the contract was broken."""
    sys.path.insert(0, str(TESTS))
    from fuzzing import fuzz, fuzzed_server

    count, seed = int(os.environ.get("COUNT", "10000")), int(os.environ.get("SEED", "1"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        directory = Path(name)
        with fuzzed_server(directory) as server:
            findings = fuzz(server, directory, seed=seed, count=count)
    for answer, times in sorted(findings.answers.items()):
        print(f"{times:6d}  {answer}")
    for failure in findings.failures:
        print(failure, file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"{count} requests of seed {seed} in {seconds:.0f} s: {len(findings.failures)} failures")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
