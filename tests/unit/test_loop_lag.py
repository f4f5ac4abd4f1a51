"""The event loop's delays: a callback that computes is told from a busy machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from live import until
from server import LOOP_GUARD
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


@pytest.mark.parametrize(
    "call",
    ["time.sleep(0.001)", "socket.getaddrinfo('127.0.0.1', 80)", "socket.create_connection(there)"],
)
def test_servers_under_test_report_what_waits_on_the_loop(call: str) -> None:
    """Neither threads nor asyncio's own calls are reported."""
    script = f"""
import asyncio, socket, time

async def main():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    there = server.sockets[0].getsockname()
    await asyncio.to_thread(lambda: {call})
    await asyncio.open_connection("localhost", there[1])
    print("now", flush=True)
    {call}

asyncio.run(main())
"""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(LOOP_GUARD)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    before, after = ran.stdout.split("now")
    assert before == ""
    assert "the event loop was blocked by " in after
