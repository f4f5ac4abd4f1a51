"""What is asked of each recording: the fields of the API's form, for either engine."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .console import Watch

if TYPE_CHECKING:
    from ..routers.forms import TranscriptionForm, TranslationForm

Value = str | int | float | bool | list[str] | None

OPTIONS: Mapping[str, str] = {
    "response_format": "--format",
    "languages[]": "--language",
    "timestamp_granularities[]": "--word-timestamps",
    "include[]": "--logprobs",
    "known_speaker_names[]": "--known-speaker",
    "known_speaker_references[]": "--known-speaker",
}
"""The options whose names are not those of the form's fields."""

EXTENSIONS: Mapping[str, str] = {
    "text": ".txt",
    "srt": ".srt",
    "vtt": ".vtt",
    "aud": ".aud",
}
"""Of the formats that are not JSON."""


class OrderError(Exception):
    """The options do not go together; the message is one line that names the option."""


class TranscriptionFailure(Exception):
    """One recording could not be transcribed; the message is one line that says why."""


class Engine(Protocol):
    """Transcribes recordings, several at a time."""

    async def transcribe(self, file: Path, order: Order, watch: Watch) -> str:
        """The transcript of a file, rendered as ordered.

        Raises:
            TranscriptionFailure: one line that says why not.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Form fields as (name, value), checked; `translate` picks the endpoint that they are for."""

    fields: tuple[tuple[str, str], ...]
    translate: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Value], *, translate: bool = False) -> Order:
        """The order that these fields make up; None and empty lists are left out.

        Raises:
            OrderError: a value that its field cannot have, or not beside another.
        """
        from ..errors import ServiceError
        from ..routers.forms import FormDefaults

        order = cls(fields=tuple(_flattened(values)), translate=translate)
        try:
            if translate:
                order._refuse_untranslatable()
                order.translation()
            else:
                order.transcription().output(FormDefaults(model=""))
        except ServiceError as error:
            raise OrderError(f"{_option(error.param)}: {error.message}") from error
        return order

    def transcription(self) -> TranscriptionForm:
        """As the form of `POST /v1/audio/transcriptions`.

        Raises:
            InvalidRequest: a value that its field cannot have.
        """
        from ..routers.forms import TranscriptionForm, parse_form
        from ..routers.multipart import Form

        return parse_form(TranscriptionForm, Form(fields=list(self.fields)))

    def translation(self) -> TranslationForm:
        """As the form of `POST /v1/audio/translations`.

        Raises:
            InvalidRequest: a value that its field cannot have.
        """
        from ..routers.forms import TranslationForm, parse_form
        from ..routers.multipart import Form

        return parse_form(TranslationForm, Form(fields=list(self.fields)))

    @property
    def extension(self) -> str:
        """Of the file that the transcript goes to."""
        return EXTENSIONS.get(dict(self.fields)["response_format"], ".json")

    def _refuse_untranslatable(self) -> None:
        from ..routers.forms import TranslationForm

        for name, _ in self.fields:
            if name not in TranslationForm.model_fields:
                raise OrderError(f"{_option(name)} does not go with --translate: leave one out")


def known_speaker(text: str) -> tuple[str, str]:
    """NAME=FILE as the speaker's name and a data URL.

    Raises:
        OrderError: it is not NAME=FILE, or there is no such file.
    """
    name, _, path = text.partition("=")
    if not name or not path:
        raise OrderError(f"--known-speaker: give NAME=FILE, not {text!r}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OrderError(f"--known-speaker: {path}: {error.strerror}") from error
    return name, "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def _flattened(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, list):
            fields += [(name, each) for each in value]
        elif isinstance(value, bool):
            fields.append((name, str(value).lower()))
        elif value is not None:
            fields.append((name, str(value)))
    return fields


def _option(param: str | None) -> str:
    if param is None:
        return "the options"
    return OPTIONS.get(param, "--" + param.replace("_", "-"))
