"""The base of settings sections, and the types of their fields.

A section is a plain value, defined beside the code that reads it. `config.Settings` composes the
sections and fills them from the environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from .errors import InvalidRequest
from .languages import parse_language


class Section(BaseModel):
    """Settings with a common prefix; the docstring's first line is their heading in documents."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _from_json(value: object) -> object:
    """Decode here and not in pydantic-settings, whose error does not name the variable."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        reason = {"reason": str(error)}
        raise PydanticCustomError("json", "Input should be JSON: {reason}", reason) from error


def _language(name: str) -> str:
    """The language's code, by which requests are matched with settings."""
    try:
        return parse_language(name)
    except InvalidRequest as error:
        raise PydanticCustomError("language", "{reason}", {"reason": error.message}) from error


def _align_model_key(name: str) -> str:
    return name if name == "multilingual" else _language(name)


def _language_pair(pair: str) -> str:
    source, separator, target = pair.partition("-")
    if not separator:
        raise PydanticCustomError("pair", "a key has two languages, such as en-fr")
    return f"{_language(source)}-{_language(target)}"


def _indices(value: object) -> object:
    """Accept `0,1` as well as a sequence."""
    return value.split(",") if isinstance(value, str) else value


def _distinct(indices: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(indices)) < len(indices):
        raise PydanticCustomError("distinct", "an index is there twice")
    return indices


Device = Literal["auto", "cpu", "cuda"]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
DeviceIndices = Annotated[
    tuple[NonNegativeInt, ...],
    NoDecode,
    Field(min_length=1),
    BeforeValidator(_indices),
    AfterValidator(_distinct),
]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
LanguageCode = Annotated[str, AfterValidator(_language)]
AlignModelKey = Annotated[str, AfterValidator(_align_model_key)]
LanguagePair = Annotated[str, AfterValidator(_language_pair)]
ModelPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/(\*|[A-Za-z0-9][\w.-]*))?$")]
JsonList = Annotated[list[str], NoDecode, BeforeValidator(_from_json)]
ModelPatterns = Annotated[list[ModelPattern], NoDecode, BeforeValidator(_from_json)]
Languages = Annotated[list[LanguageCode], NoDecode, BeforeValidator(_from_json)]
AlignModels = Annotated[dict[AlignModelKey, str], NoDecode, BeforeValidator(_from_json)]
TranslationModels = Annotated[dict[LanguagePair, str], NoDecode, BeforeValidator(_from_json)]
