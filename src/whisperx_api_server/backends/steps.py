"""Runs a function that reports its progress through a callback in steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

R = TypeVar("R")


class _Abandoned(BaseException):
    """Ends a function whose generator is closed; not an Exception, so that vendors let it pass."""


def in_steps(run: Callable[[Callable[[float], None]], R]) -> Generator[float, None, R]:
    """Yield what `run(report)` reports, and return its result.

    `run` has a thread of its own, which computes only while the generator's caller waits for the
    next value. Closing the generator ends `run` at the report where it waits.
    """
    reports: SimpleQueue[float | None] = SimpleQueue()
    resume = threading.Semaphore(0)
    result: Future[R] = Future()
    abandoned = False

    def report(part: float) -> None:
        reports.put(part)
        resume.acquire()
        if abandoned:
            resume.release()  # a report while `run` cleans up does not wait either
            raise _Abandoned

    def compute() -> None:
        try:
            result.set_result(run(report))
        except BaseException as error:  # noqa: BLE001 - raised where the generator is used
            result.set_exception(error)
        reports.put(None)

    threading.Thread(target=compute, name=threading.current_thread().name, daemon=True).start()
    try:
        while (part := reports.get()) is not None:
            yield part
            resume.release()
    finally:
        abandoned = True
        resume.release()
    return result.result()
