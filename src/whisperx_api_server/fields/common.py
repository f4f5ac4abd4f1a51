"""Request fields that several endpoints share, and how they are checked.

Without HTTP: routers read fields from forms and queries, the command line from its options. The
models are the documentation too: their JSON schema is in the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..domain import Granularity, OutputFormat, OutputOptions
from ..errors import InvalidRequest, UnservableCombination
from ..languages import parse_language

SUBTITLES = frozenset({"srt", "vtt", "vtt_json", "aud"})
WITH_SEGMENTS = frozenset({"verbose_json", "vtt_json"})
WITH_HIGHLIGHTS = frozenset({"srt", "vtt", "vtt_json"})

AUTO = "auto"
"""The `language` that means detection, whatever the configured default is."""

M = TypeVar("M", bound=BaseModel)

SpeakerCount = Annotated[int, Field(ge=1, le=50)]
"""Clustering makes no sense of more speakers."""

Rule = tuple[bool, str, str]
"""Whether a combination is broken, the field at fault, and the message."""


def one_line(value: str) -> str:
    """The text without space around it.

    Raises:
        ValueError: it has several lines, or could pass for a special token.
    """
    if re.search(r"[\r\n<>]", value):
        raise ValueError("must be one line without '<' and '>'")
    return value.strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class FormDefaults:
    """Defaults for fields that the client did not send."""

    model: str
    language: str | None = None
    response_format: OutputFormat = "json"
    beam_size: int = 5


class ResultForm(BaseModel):
    """How a transcript is written; also the query of a job's result."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    response_format: OutputFormat | None = Field(
        None,
        description="`json` unless the server is set otherwise; `diarized_json` implies `diarize`.",
    )
    timestamp_granularities: list[Granularity] | None = Field(
        None,
        alias="timestamp_granularities[]",
        description="`segment` and `word` decide whether verbose_json has `segments` and `words`; "
        "`segment` if absent.",
    )
    highlight_words: bool = Field(False, description="Underline each word in srt and vtt.")

    def result(self, submitted: OutputOptions) -> OutputOptions:
        """How to answer with a job's result; fields that are absent are as submitted.

        Raises:
            UnservableCombination: fields that cannot be honoured together.
        """
        output = self.response_format or submitted.format
        check_rules(self.presentation_rules(output))
        given = self.model_fields_set
        return replace(
            submitted,
            format=output,
            granularities=self.shown_granularities(output) or submitted.granularities,
            highlight_words=self.highlight_words
            if "highlight_words" in given
            else submitted.highlight_words,
        )

    def presentation_rules(
        self, output: OutputFormat, *, times_optional: bool = False
    ) -> list[Rule]:
        words = "word" in (self.timestamp_granularities or ())
        return [
            (
                words and output not in WITH_SEGMENTS and not times_optional,
                "timestamp_granularities[]",
                "timestamp_granularities[]=word needs response_format verbose_json or vtt_json",
            ),
            (
                self.highlight_words and output not in WITH_HIGHLIGHTS,
                "highlight_words",
                "highlight_words needs response_format srt or vtt",
            ),
        ]

    def shown_granularities(self, output: OutputFormat) -> frozenset[Granularity]:
        """Those that were sent, where the format has times; none elsewhere."""
        return frozenset(self.timestamp_granularities or ()) if output in WITH_SEGMENTS else _NONE


_NONE: frozenset[Granularity] = frozenset()


class AudioForm(BaseModel):
    """The fields that both endpoints share."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    audio_url: str | None = Field(
        None, description="Instead of `file`: an http(s) URL that the server fetches."
    )
    model: str | None = Field(
        None,
        description="A published Whisper size or Parakeet, or one that the settings name. "
        "`whisper-1` and OpenAI's other names mean the configured default.",
    )
    language: str | None = Field(
        None, description="ISO-639-1 code of the speech; detected if absent or `auto`."
    )
    prompt: str | None = Field(None, description="Context for the decoder, such as spellings.")
    hotwords: str | None = Field(None, description="Comma-separated words to listen for.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="0 is beam search; above, the text is drawn among the beam's hypotheses.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=1024, description="The largest batch that this recording's windows join."
    )
    chunk_size: float | None = Field(
        None, ge=1, le=30, allow_inf_nan=False, description="Longest window in seconds."
    )

    @model_validator(mode="after")
    def _known_language(self) -> Self:
        self.named_language()
        return self

    def named_language(self) -> str | None:
        """The code of the language that the client names; None leaves it to detection."""
        if self.language is None or self.language.strip().lower() == AUTO:
            return None
        return language_code(self.language, "language")

    def all_hotwords(self, keywords: Iterable[str] = ()) -> str | None:
        try:
            listed = one_line(self.hotwords or "")  # at once: a form may list words by the 100,000
        except ValueError as error:
            raise InvalidRequest(f"hotwords {error}", param="hotwords") from error
        words = [word.strip() for word in (*listed.split(","), *keywords)]
        return ", ".join(filter(None, words)) or None


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The fields as `model`.

    Raises:
        InvalidRequest: a value that a field cannot have, or not beside another.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        given = first["input"]
        shown = f", got {given[:80]!r}" if isinstance(given, str) else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{param}: {message}{shown}", param=param) from error


def check_rules(rules: Iterable[Rule]) -> None:
    """Refuse the first combination that is broken.

    Raises:
        UnservableCombination: naming the field at fault.
    """
    for broken, param, message in rules:
        if broken:
            raise UnservableCombination(message, param=param)


def language_code(value: str, param: str) -> str:
    """The ISO-639-1 code of a language that the field `param` names.

    Raises:
        InvalidRequest: the language is not known.
    """
    try:
        return parse_language(value)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=param) from error
