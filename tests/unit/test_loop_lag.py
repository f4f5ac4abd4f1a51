"""The event loop's delays: a callback that computes is told from a busy machine."""

from __future__ import annotations

import asyncio
import time

import pytest

from live import until
from whisperx_api_server.loop_lag import MAX_BLOCKED, LoopLag


def compute(cpu_seconds: float) -> None:
    end = time.thread_time() + cpu_seconds
    while time.thread_time() < end:
        pass


async def measure(work: float, *, on_the_loop: bool) -> LoopLag:
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0)
    if on_the_loop:
        compute(work)
    else:
        await asyncio.gather(*(asyncio.to_thread(compute, work) for _ in range(4)))
    await until(lambda: lag.longest > 0)
    watching.cancel()
    return lag


def test_a_callback_that_computes_is_measured_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    lag = asyncio.run(measure(2 * MAX_BLOCKED, on_the_loop=True))

    assert lag.longest >= lag.longest_blocked > MAX_BLOCKED
    assert "the event loop was blocked" in caplog.text


def test_threads_that_compete_with_the_loop_are_not_blocking() -> None:
    lag = asyncio.run(measure(2 * MAX_BLOCKED, on_the_loop=False))

    assert lag.longest_blocked < MAX_BLOCKED
