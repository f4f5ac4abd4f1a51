"""Functions that report their progress, run in steps."""

from __future__ import annotations

import threading
from collections.abc import Callable

from support import PATIENCE
from whisperx_api_server.backends.steps import in_steps


def test_a_function_that_is_ended_may_report_while_it_cleans_up() -> None:
    ended = threading.Event()

    def run(report: Callable[[float], None]) -> None:
        try:
            report(0.5)
        finally:
            try:
                report(1.0)
            finally:
                ended.set()

    steps = in_steps(run)
    assert next(steps) == 0.5
    steps.close()

    assert ended.wait(PATIENCE)
