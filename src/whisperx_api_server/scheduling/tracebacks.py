"""Logs failures with their tracebacks, and clears the tracebacks of stored exceptions.

An exception refers to every frame that it passed. While a task or a future keeps it, it keeps
the recording's memory map (and its disk space) and the model too.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from ..errors import ServiceError

T = TypeVar("T")


async def released(work: Callable[[], Awaitable[T]], logger: logging.Logger, message: str) -> T:
    """Await `work()`; an error is logged and raised again without its traceback."""
    try:
        return await work()
    except BaseException as error:
        log_and_release(error, logger, message)
        raise


def log_and_release(error: BaseException, logger: logging.Logger, message: str) -> None:
    """Log an error of the server, and clear its traceback.

    The traceback is logged for errors in the code (status 500, and unexpected exceptions), not
    for a missing package, hub or memory. Refusals (below 500) and cancellations are not logged.
    """
    status = error.status if isinstance(error, ServiceError) else 500
    if status == 500 and isinstance(error, Exception):
        logger.error("%s", message, exc_info=error)
    elif status > 500:
        logger.error("%s: %s (%r)", message, error, error.__cause__)
    release_frames(error)


def release_frames(error: BaseException) -> None:
    """Clear the tracebacks of an error and of its causes.

    A frame refers to all its callers, so no part of a traceback is kept. The frames of functions
    that have returned are cleared too, because a log handler may keep the record. Coroutines are
    not cleared: requests can share an error, and clearing would end those that still wait.
    """
    for each in _chain(error):
        trace, each.__traceback__ = each.__traceback__, None
        while trace is not None:
            if not trace.tb_frame.f_code.co_flags & _RESUMABLE:
                with suppress(RuntimeError):  # the frame is still executing
                    trace.tb_frame.clear()
            trace = trace.tb_next


_RESUMABLE = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _chain(error: BaseException) -> list[BaseException]:
    """An error and all its causes."""
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
