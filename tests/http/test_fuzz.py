"""A short run of `make fuzz`."""

from __future__ import annotations

from pathlib import Path

from fuzzing import fuzz, fuzzed_server

COUNT = 200
SEED = 1


def test_mutated_requests_leave_the_server_whole(tmp_path: Path) -> None:
    with fuzzed_server(tmp_path) as server:
        findings = fuzz(server, tmp_path, seed=SEED, count=COUNT)

    assert findings.failures == []
    assert findings.answers.total() == COUNT
    kinds = {answer.split()[0] for answer in findings.answers}
    assert kinds == {"recording", "fields", "form", "json", "path", "http", "hang-up"}
    assert any(answer.endswith(" 200") for answer in findings.answers)
