"""The fields of `POST /v1/audio/translations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from ..domain import (
    AlignMode,
    DecodeOptions,
    OutputFormat,
    OutputOptions,
    Source,
    TranscriptionRequest,
)
from ..errors import UnservableCombination
from .common import AudioForm, FormDefaults, validated
from .transcription import TranscriptionForm

TranslationFormat = Literal["json", "text", "verbose_json", "vtt_json", "srt", "vtt", "aud"]


class TranslationForm(AudioForm):
    """`POST /v1/audio/translations`."""

    response_format: TranslationFormat | None = Field(
        None, description="`json` unless the server is set otherwise."
    )

    def request(
        self, request_id: str, client: str, source: Source, defaults: FormDefaults
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        """What to do, and how to answer."""
        fallback = defaults.response_format
        output: OutputFormat = self.response_format or (
            fallback if fallback != "diarized_json" else "json"
        )
        return (
            TranscriptionRequest(
                id=request_id,
                client=client,
                source=source,
                model=self.model or defaults.model,
                decode=DecodeOptions(
                    task="translate",
                    language=self.named_language(),
                    prompt=self.prompt,
                    hotwords=self.all_hotwords(),
                    temperature=self.temperature,
                    beam_size=defaults.beam_size,
                ),
                align=AlignMode.OFF if output in ("json", "text") else AlignMode.AUTO,
                batch_size=self.batch_size,
                chunk_size=self.chunk_size,
            ),
            OutputOptions(format=output),
        )


def translation_fields(values: Mapping[str, Any]) -> TranslationForm:
    """The fields of a translation.

    Raises:
        InvalidRequest: a value that a field cannot have.
        UnservableCombination: a field that only transcriptions can honour.
    """
    form = validated(TranslationForm, values)
    others = validated(TranscriptionForm, {**values, "response_format": None})
    for name, info in TranscriptionForm.model_fields.items():
        unknown = name not in TranslationForm.model_fields and name in others.model_fields_set
        if unknown and getattr(others, name) not in _ASKS_NOTHING:
            param = info.alias or name
            raise UnservableCombination(f"a translation cannot honour {param}", param=param)
    return form


_ASKS_NOTHING: tuple[Any, ...] = (None, False, [], "auto", ["segment"])
"""Values of transcription fields that a translation honours without knowing the field."""
