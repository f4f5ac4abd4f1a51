"""Error answers in OpenAI's format."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from ..errors import ErrorType
from .common import exact


@exact
class ErrorDetail(TypedDict):
    """What went wrong."""

    message: Annotated[str, Field(description="One sentence: what is wrong and what mends it.")]
    type: ErrorType
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: Annotated[str | None, Field(description="What a program can tell errors apart by.")]


@exact
class Error(TypedDict):
    """Every answer that is no success, and the event that ends a stream that failed."""

    error: ErrorDetail
