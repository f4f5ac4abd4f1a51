"""Logs failures with their tracebacks, then clears the tracebacks of exceptions that are stored.

An exception refers to every frame that it passed: as long as a task or a future holds it, it holds
the recording's memory map (and so its disk space) and the model too.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from .errors import ServiceError

T = TypeVar("T")


async def released(work: Callable[[], Awaitable[T]], logger: logging.Logger, message: str) -> T:
    """The result of `work()`; what it raises is logged first, and raised without its traceback."""
    try:
        return await work()
    except BaseException as error:
        log_and_release(error, logger, message)
        raise


def log_and_release(error: BaseException, logger: logging.Logger, message: str) -> None:
    """Log a fault of the server, and clear the error's traceback.

    The traceback is logged where the code is at fault (status 500, and unexpected errors), not
    where a package, the hub or memory is missing. Refusals (below 500) and cancellations are not
    faults.
    """
    status = error.status if isinstance(error, ServiceError) else 500
    if status == 500 and isinstance(error, Exception):
        logger.error("%s", message, exc_info=error)
    elif status > 500:
        logger.error("%s: %s (%r)", message, error, error.__cause__)
    release_frames(error)


def release_frames(error: BaseException) -> None:
    """Clear the tracebacks of an error and of its causes.

    A single frame refers to all its callers, so no part of a traceback is kept. Functions that have
    returned are cleared as well, for a log handler may keep the record. Coroutines are not: that
    would end those that still wait, where requests share an error.
    """
    for each in _chain(error):
        trace, each.__traceback__ = each.__traceback__, None
        while trace is not None:
            if not trace.tb_frame.f_code.co_flags & _RESUMABLE:
                with suppress(RuntimeError):  # it is running still
                    trace.tb_frame.clear()
            trace = trace.tb_next


_RESUMABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _chain(error: BaseException) -> list[BaseException]:
    """An error, and all that led to it."""
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or any(each is known for known in found):
            continue
        found.append(each)
        pending += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
    return found
