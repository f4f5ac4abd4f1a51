"""Reports calls that wait on an event loop, however short; Python imports it at its start.

`LoopLag` sees only what computes, because time alone cannot tell waiting from a busy machine.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any, SupportsIndex

RESOLVING = frozenset(
    f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo")
)


def _report(call: str) -> None:
    events = sys.modules.get("asyncio.events")
    if events is not None and events._get_running_loop() is not None:
        stack = "".join(traceback.format_stack(limit=12))
        print(f"the event loop was blocked by {call}\n{stack}", file=sys.stderr)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in RESOLVING or (event == "socket.connect" and arguments[0].gettimeout() != 0):
        _report(event)


_sleep = time.sleep


def _reported_sleep(seconds: float | SupportsIndex, /) -> None:
    if seconds:
        _report("time.sleep")
    _sleep(seconds)


time.sleep = _reported_sleep
sys.addaudithook(_hook)
