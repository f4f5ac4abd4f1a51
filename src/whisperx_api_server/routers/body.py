"""Reads a request's body, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect

from ..errors import Cancelled, RequestTimeout, TooLarge

STALL_TIMEOUT = 30.0
"""Maximum seconds that the server waits for the next chunk."""

MIN_RATE = 256
"""Bytes per second: a body that stays below it for `STALL_TIMEOUT` seconds is ended too."""


async def read_body(request: Request, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The chunks of a request's body.

    Only the time spent waiting for the client counts, not what is done with a chunk.

    Raises:
        TooLarge: more than `max_bytes`, declared or sent.
        RequestTimeout: the body stalls or is slower than `MIN_RATE`.
        Cancelled: the client disconnected before its end.
    """
    declared = request.headers.get("content-length", "")
    _check_size(int(declared) if declared.isdecimal() else 0, max_bytes)
    clock = asyncio.get_running_loop().time
    chunks = request.stream()
    received, patience = 0, STALL_TIMEOUT
    while True:
        began = clock()
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise RequestTimeout(
                "the upload stalled: send it again over a faster connection"
            ) from error
        except ClientDisconnect as error:
            raise Cancelled from error
        patience = min(STALL_TIMEOUT, patience - (clock() - began) + len(chunk) / MIN_RATE)
        received += len(chunk)
        _check_size(received, max_bytes)
        if chunk:
            yield chunk


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"the request is larger than {max_bytes} bytes: send less at once")
