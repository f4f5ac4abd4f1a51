"""A JSON body: read and parsed."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from ..errors import InvalidRequest
from .body import read_body

MAX_JSON_BYTES = 1024**2


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body; empty if there is no body.

    Raises:
        InvalidRequest: it is not a JSON object.
        TooLarge, RequestTimeout, Cancelled: the body did not arrive whole.
    """
    body = bytearray()
    async for chunk in read_body(request, max_bytes=MAX_JSON_BYTES):
        body += chunk
    try:
        parsed = json.loads(body, parse_constant=_no_constant) if body.strip() else {}
        json.dumps(parsed, ensure_ascii=False).encode()  # half a surrogate pair cannot be encoded
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise InvalidRequest("the body must be a JSON object")
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(name)
