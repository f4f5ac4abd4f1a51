"""The fields of the API's form that the options of `transcribe` stand for, for either engine."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..output_formats import FORMATS, OutputFormat
from .console import Report

if TYPE_CHECKING:
    from ..domain import Task
    from ..fields.transcription import TranscriptionForm

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


class OptionError(Exception):
    """An option has a wrong value, or not beside another; the message is one line that names it."""


class TranscriptionFailure(Exception):
    """One recording could not be transcribed; the message is one line that says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FormFields:
    """Form fields by name, checked; `task` decides about the endpoint that they are for."""

    values: Mapping[str, Value]
    task: Task = "transcribe"

    @classmethod
    def of(cls, values: Mapping[str, Value], *, task: Task = "transcribe") -> FormFields:
        """Check the fields, without the absent ones: None and empty lists.

        Raises:
            OptionError: a value that its field cannot have, or not beside another.
        """
        from ..domain import Upload
        from ..errors import ServiceError, UnservableCombination
        from ..fields.transcription import FormDefaults

        sent = {name: value for name, value in values.items() if value not in (None, [])}
        fields = cls(values=sent, task=task)
        try:
            fields.form().request("", "", Upload(id=""), FormDefaults(model=""), task=task)
        except ServiceError as error:
            option = "the options" if error.param is None else _option(error.param)
            if task == "translate" and isinstance(error, UnservableCombination):
                message = f"{option} does not go with --translate: leave one out"
            else:
                message = f"{option}: {error.message}"
            raise OptionError(message) from error
        return fields

    def form(self) -> TranscriptionForm:
        """The fields as the API's form."""
        from ..fields.transcription import TranscriptionForm, validated

        return validated(TranscriptionForm, self.values)

    @property
    def extension(self) -> str:
        """Of the file that the transcript is written to."""
        return FORMATS[cast("OutputFormat", self.values["response_format"])].extension


Transcribe = Callable[[Path, FormFields, Report], Awaitable[str]]
"""The rendered transcript of a file, or TranscriptionFailure; called for several at a time."""


def form_values(options: Mapping[str, Any]) -> dict[str, Value]:
    """The form's fields that the options stand for; the other options have the fields' names.

    Raises:
        OptionError: a known speaker is not NAME=FILE, or the file does not exist.
    """
    values = dict(options)
    languages = values.pop("language") or []
    words, logprobs = values.pop("word_timestamps"), values.pop("logprobs")
    known = [_known_speaker(each) for each in values.pop("known_speakers") or ()]
    speakers = ("num_speakers", "min_speakers", "max_speakers", "speaker_embeddings")
    return {
        **values,
        "timestamp_granularities[]": ["segment", "word"] if words else None,
        "include[]": ["logprobs"] if logprobs else None,
        "language": languages[0] if len(languages) == 1 else None,
        "languages[]": languages if len(languages) > 1 else None,
        "diarize": True if known or any(map(values.get, speakers)) else values["diarize"],
        "known_speaker_names[]": [name for name, _ in known],
        "known_speaker_references[]": [reference for _, reference in known],
    }


def _known_speaker(text: str) -> tuple[str, str]:
    """NAME=FILE as the speaker's name and a data URL."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise OptionError(f"--known-speaker: give NAME=FILE, not {text!r}")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"--known-speaker: {path}: {error.strerror}") from error
    return name, "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def _option(param: str) -> str:
    return OPTIONS.get(param, "--" + param.replace("_", "-"))
