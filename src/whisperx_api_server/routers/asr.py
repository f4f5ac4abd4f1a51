"""The API of whisper-asr-webservice, which Bazarr and other programs call.

Fields are in the query, the recording is the form's `audio_file`; errors are in OpenAI's format.
"""

from __future__ import annotations

import asyncio
from typing import Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ..answers.asr import DetectedLanguage
from ..domain import OutputFormat, TranscriptionRequest, Upload
from ..errors import MissingParameter, UnservableCombination
from ..fields.common import FormDefaults, SpeakerCount, validated
from ..fields.transcription import TranscriptionForm
from ..fields.translation import translation_fields
from ..formats.asr_formats import AsrOutput, render_asr
from ..languages import language_name
from ..pipeline.stages import SILENCE_LANGUAGE
from . import openapi
from .deps import (
    ClientDep,
    DefaultsDep,
    ServiceDep,
    UploadsDep,
    cancel_on_disconnect,
    is_retry,
    new_request_id,
)
from .forms import parse_query
from .multipart import Form, read_form

router = APIRouter(tags=["asr"])

FILE = "audio_file"


class DetectionQuery(BaseModel):
    """The query of `POST /detect-language`."""

    model_config = ConfigDict(extra="ignore")

    encode: bool = Field(
        True, description="false: the file is headerless 16-bit PCM, 16 kHz, mono, little-endian."
    )


class AsrQuery(DetectionQuery):
    """The query of `POST /asr`."""

    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="`translate` gives English."
    )
    language: str | None = Field(
        None, description="ISO-639-1 code of the speech; detected if absent or `auto`."
    )
    initial_prompt: str | None = Field(
        None, description="Context for the decoder, such as spellings."
    )
    output: AsrOutput = Field("txt", description="The format of the answer.")
    word_timestamps: bool = Field(False, description="With json: each segment has `words`.")
    vad_filter: bool = Field(
        False, description="Without effect: speech is always found by voice activity detection."
    )
    diarize: bool = Field(False, description="Speaker labels.")
    min_speakers: SpeakerCount | None = Field(None, description="With `diarize`.")
    max_speakers: SpeakerCount | None = Field(None, description="With `diarize`.")

    @property
    def with_words(self) -> bool:
        """Whether the answer shows words."""
        return self.word_timestamps and self.output == "json"

    def request(self, client: str, source: Upload, defaults: FormDefaults) -> TranscriptionRequest:
        """What to do.

        Raises:
            InvalidRequest: a field has a value it cannot have, or not beside another.
        """
        if self.task == "translate" and self.with_words:
            raise UnservableCombination(
                "word_timestamps needs task=transcribe", param="word_timestamps"
            )
        values = {
            "language": self.language,
            "prompt": self.initial_prompt,
            "response_format": self._format,
            "timestamp_granularities[]": ["word"] if self.with_words else None,
            "diarize": self.diarize,
            "min_speakers": self.min_speakers,
            "max_speakers": self.max_speakers,
            "suppress_numerals": False,  # whisper-asr-webservice writes digits
        }
        if self.task == "translate":
            form = translation_fields(values)
            request, _ = form.request(new_request_id(), client, source, defaults)
        else:
            fields = validated(TranscriptionForm, values)
            request, _ = fields.request(new_request_id(), client, source, defaults)
        return request

    @property
    def _format(self) -> OutputFormat:
        """The format of ours that finds out as much."""
        if self.output in ("srt", "vtt"):
            return self.output
        return "text" if self.output == "txt" and not self.diarize else "verbose_json"


@router.post("/asr", responses=openapi.ASR, openapi_extra=openapi.audio_file(AsrQuery))
async def asr(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> Response:
    """Turn speech into text, as whisper-asr-webservice does."""
    service.admit(retry=is_retry(request))
    query = parse_query(AsrQuery, request)
    async with read_form(request, uploads, pcm=not query.encode) as form:
        source = _upload(form)
        job = query.request(client, source, defaults)
        work = service.run(job, retry=is_retry(request))
        transcript = await cancel_on_disconnect(request, work)
    rendered = await asyncio.to_thread(render_asr, transcript, query.output, words=query.with_words)
    name = quote(f"{source.filename}.{query.output}")
    return Response(
        rendered.body,
        media_type=rendered.media_type,
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


@router.post(
    "/detect-language",
    responses=openapi.errors(*openapi.RUN_ERRORS),
    openapi_extra=openapi.audio_file(DetectionQuery),
)
async def detect_language(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> DetectedLanguage:
    """Tell the language of the first windows of speech."""
    service.admit()
    query = parse_query(DetectionQuery, request)
    async with read_form(request, uploads, pcm=not query.encode) as form:
        job = TranscriptionRequest(
            id=new_request_id(), client=client, source=_upload(form), model=defaults.model
        )
        found = await cancel_on_disconnect(request, service.detect_language(job))
    code, confidence = max(found.items(), key=lambda each: each[1], default=(SILENCE_LANGUAGE, 0.0))
    return {
        "detected_language": language_name(code),
        "language_code": code,
        "confidence": round(confidence, 3),
    }


def _upload(form: Form) -> Upload:
    uploads = form.uploads(FILE)
    if len(uploads) != 1:
        raise MissingParameter(f"send exactly one file as {FILE}", param=FILE)
    return uploads[0]
