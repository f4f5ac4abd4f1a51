"""Converts a form or query to its fields, and to the recording that it names."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from fastapi import Request
from pydantic import BaseModel
from pydantic_core import from_json

from ..domain import RemoteUrl, Source
from ..errors import InvalidRequest, MissingParameter
from ..fields.transcription import validated
from .multipart import Form, field_name

F = TypeVar("F", bound=BaseModel)

MAX_JSON_COMMAS = 10_000
"""More than a valid list or object has; megabytes of short values would hold up the event loop."""


def parse_form(model: type[F], form: Form) -> F:
    """The form's fields as `model`; raises as `validated`."""
    return validated(model, _values(model, form))


def parse_query(model: type[F], request: Request) -> F:
    """The fields that are in the query; raises as `validated`."""
    sent = request.query_params.multi_items()
    return parse_form(model, Form(fields=[(field_name(name), value) for name, value in sent]))


def choose_source(form: Form, audio_url: str | None) -> Source:
    """The one upload of the form, or the URL.

    Raises:
        MissingParameter: neither is there.
        InvalidRequest: more than one.
    """
    uploads = form.uploads("file")
    if len(uploads) > 1 or (uploads and audio_url):
        raise InvalidRequest("send exactly one of file and audio_url", param="file")
    if uploads:
        return uploads[0]
    if audio_url:
        return RemoteUrl(url=audio_url)
    if any(name == "file" for name, _ in form.fields):
        raise InvalidRequest(
            "the field file contains text: send the recording as a file, in multipart/form-data",
            param="file",
        )
    raise MissingParameter("file is missing: send a recording, or audio_url", param="file")


def _values(model: type[BaseModel], form: Form) -> dict[str, Any]:
    """The values that were sent of a model's fields, by alias; a blank value is absent."""
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if _takes(info.annotation, list):
            found: Any = _list_value(form, name)
        elif _takes(info.annotation, BaseModel):
            found = _object_value(form, name)
        else:
            sent = [value for field, value in form.fields if field == key and value.strip()]
            found = sent[-1] if sent else None
            if found is not None and not _takes(info.annotation, str):
                found = found.strip()
        if found is not None:
            values[key] = found
    return values


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a field's annotation is, or has among its alternatives, that kind of type."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_takes(each, kind) for each in get_args(annotation))
    plain = get_origin(annotation) or annotation
    return isinstance(plain, type) and issubclass(plain, kind)


def _list_value(form: Form, name: str) -> list[Any] | None:
    values = [value.strip() for value in form.values(name) if value.strip()]
    if len(values) == 1 and values[0].startswith("["):
        parsed = _json(values[0], f"{name}[]")
        return parsed if isinstance(parsed, list) else [parsed]
    return values or None


def _object_value(form: Form, name: str) -> Any:
    parts = {
        key[len(name) + 1 : -1]: value
        for key, value in form.fields
        if key.startswith(f"{name}[") and key.endswith("]") and value.strip()
    }
    if parts:
        return parts
    sent = [value.strip() for key, value in form.fields if key == name and value.strip()]
    if not sent:
        return None
    return _json(sent[-1], name) if sent[-1].startswith("{") else sent[-1]


def _json(text: str, param: str) -> Any:
    if text.count(",") > MAX_JSON_COMMAS:
        raise InvalidRequest(f"{param} has too many values", param=param)
    try:
        return from_json(text)
    except ValueError as error:
        raise InvalidRequest(f"{param} is not valid JSON", param=param) from error
