"""Reads a request's body, within limits of size and time; whole, and as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from ..errors import Cancelled, InvalidRequest, RequestTimeout, TooLarge

MAX_JSON_BYTES = 1024**2

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


async def read_whole(request: Request, *, max_bytes: int) -> bytes:
    """The body of a request; raises as `read_body`."""
    body = bytearray()
    async for chunk in read_body(request, max_bytes=max_bytes):
        body += chunk
    return bytes(body)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body, {} if there is no body; raises as `read_body`.

    Raises:
        InvalidRequest: it is not a JSON object.
    """
    body = await read_whole(request, max_bytes=MAX_JSON_BYTES)
    try:
        parsed = from_json(body, allow_inf_nan=False) if body.strip() else {}
    except ValueError as error:
        raise InvalidRequest("the body is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("the body must be a JSON object")
    return parsed
