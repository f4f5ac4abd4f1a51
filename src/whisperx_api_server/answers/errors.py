"""Error answers in OpenAI's format."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from ..errors import ErrorType


class ErrorDetail(TypedDict):
    """OpenAI's error object."""

    message: Annotated[str, Field(description="One sentence: what is wrong, and the remedy.")]
    type: ErrorType
    param: Annotated[str | None, Field(description="The field at fault.")]
    code: Annotated[str | None, Field(description="Identifies the kind of error for programs.")]


class Error(TypedDict):
    """An error answer, and the last event of a stream that failed."""

    error: ErrorDetail
