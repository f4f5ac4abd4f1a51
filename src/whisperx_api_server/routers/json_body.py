"""A JSON body: read, parsed and checked against a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ..errors import InvalidRequest, MissingParameter
from .body import read_body

MAX_JSON_BYTES = 1024**2

M = TypeVar("M", bound=BaseModel)


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


def checked(model: type[M], values: Mapping[str, Any]) -> M:
    """The fields as `model`.

    Raises:
        MissingParameter: a field is absent that must be there.
        InvalidRequest: a value that a field cannot have.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = str(first["loc"][0])
        if first["type"] == "missing":
            raise MissingParameter(f"{param} is missing", param=param) from error
        raise InvalidRequest(f"{param}: {first['msg']}", param=param) from error
