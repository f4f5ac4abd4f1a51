"""What an error keeps alive by its trace, and how it lets go of that."""

from __future__ import annotations

import inspect
from contextlib import suppress


def release_frames(error: BaseException) -> None:
    """Let go of all that the frames of an error, and of its causes, hold; log its trace before.

    The whole trace goes: even a single frame in it holds all those that called it. Functions that
    have returned are cleared as well, for a log handler may keep the trace. Coroutines are not:
    that would end those that still wait, where requests share an error.
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
