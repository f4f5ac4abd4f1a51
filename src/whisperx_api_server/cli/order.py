"""What is asked of each recording: the fields of the API's form, for either engine."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .console import ProgressReporter

if TYPE_CHECKING:
    from ..fields.transcription import TranscriptionForm
    from ..fields.translation import TranslationForm

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

    async def transcribe(self, file: Path, order: Order, reporter: ProgressReporter) -> str:
        """The transcript of a file, rendered as ordered.

        Raises:
            TranscriptionFailure: one line that says why not.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Form fields by name, checked; `translate` picks the endpoint that they are for."""

    values: Mapping[str, Value]
    translate: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Value], *, translate: bool = False) -> Order:
        """The order that these fields make up; None and empty lists are left out.

        Raises:
            OrderError: a value that its field cannot have, or not beside another.
        """
        from ..errors import ServiceError, UnservableCombination
        from ..fields.common import FormDefaults

        sent = {name: value for name, value in values.items() if value not in (None, [])}
        order = cls(values=sent, translate=translate)
        try:
            if translate:
                order.translation()
            else:
                order.transcription().output(FormDefaults(model=""))
        except UnservableCombination as error:
            if translate:
                message = f"{_option(error.param)} does not go with --translate: leave one out"
                raise OrderError(message) from error
            raise OrderError(f"{_option(error.param)}: {error.message}") from error
        except ServiceError as error:
            raise OrderError(f"{_option(error.param)}: {error.message}") from error
        return order

    def transcription(self) -> TranscriptionForm:
        """As the form of `POST /v1/audio/transcriptions`.

        Raises:
            InvalidRequest: a value that its field cannot have.
        """
        from ..fields.common import validated
        from ..fields.transcription import TranscriptionForm

        return validated(TranscriptionForm, self.values)

    def translation(self) -> TranslationForm:
        """As the form of `POST /v1/audio/translations`.

        Raises:
            InvalidRequest: a value that its field cannot have.
            UnservableCombination: a field that only transcriptions can honour.
        """
        from ..fields.translation import translation_fields

        return translation_fields(self.values)

    @property
    def extension(self) -> str:
        """Of the file that the transcript goes to."""
        return EXTENSIONS.get(str(self.values["response_format"]), ".json")


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


def _option(param: str | None) -> str:
    if param is None:
        return "the options"
    return OPTIONS.get(param, "--" + param.replace("_", "-"))
