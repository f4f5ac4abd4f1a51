"""The API of whisper-asr-webservice, which Bazarr and other programs call.

Fields are in the query, the recording is the form's `audio_file`; errors are in OpenAI's format.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ..answers.asr import AsrTranscript, DetectedLanguage
from ..domain import Task, Upload
from ..errors import MissingParameter, UnservableCombination
from ..fields.transcription import AUTO, SpeakerCount, TranscriptionForm, validated
from ..formats.asr_formats import AsrOutput, render_asr
from ..languages import language_name
from ..output_formats import OutputFormat
from ..pipeline.supported import SILENCE_LANGUAGE
from . import openapi
from .deps import CallDep
from .forms import parse_query
from .multipart import Form

router = APIRouter(tags=["asr"])

FILE = "audio_file"


class DetectionQuery(BaseModel):
    """The query of `POST /detect-language`."""

    encode: bool = Field(
        True, description="false: the file is headerless 16-bit PCM, 16 kHz, mono, little-endian."
    )


class AsrQuery(DetectionQuery):
    """The query of `POST /asr`."""

    task: Task = Field("transcribe", description="`translate` gives English.")
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

    def transcription(self) -> TranscriptionForm:
        """The same in the fields of OpenAI's API; raises as `validated`."""
        if self.task == "translate" and self.with_words:
            raise UnservableCombination(
                "word_timestamps needs task=transcribe", param="word_timestamps"
            )
        return validated(
            TranscriptionForm,
            {
                "language": self.language,
                "prompt": self.initial_prompt,
                "response_format": self._format,
                "timestamp_granularities[]": ["word"] if self.with_words else None,
                "diarize": self.diarize,
                "min_speakers": self.min_speakers,
                "max_speakers": self.max_speakers,
                "suppress_numerals": False,  # whisper-asr-webservice writes digits
            },
        )

    @property
    def _format(self) -> OutputFormat:
        """The format of OpenAI's API that has the same content."""
        if self.output in ("srt", "vtt"):
            return self.output
        return "text" if self.output == "txt" and not self.diarize else "verbose_json"


_UPLOAD = openapi.form({}, files={FILE: openapi.file()}, sources=[FILE])
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


@router.post(
    "/asr",
    responses=openapi.answers(AsrTranscript, others=_TEXT),
    openapi_extra=openapi.query(AsrQuery) | _UPLOAD,
)
async def asr(call: CallDep) -> Response:
    """Turn speech into text, as whisper-asr-webservice does."""
    call.admit()
    query = parse_query(AsrQuery, call.request)
    async with call.form(pcm=not query.encode) as form:
        source = _upload(form)
        request, _ = call.transcription(query.transcription(), source, task=query.task)
        transcript = await call.run(request)
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
    openapi_extra=openapi.query(DetectionQuery) | _UPLOAD,
)
async def detect_language(call: CallDep) -> DetectedLanguage:
    """Tell the language of the first windows of speech."""
    call.admit()
    query = parse_query(DetectionQuery, call.request)
    async with call.form(pcm=not query.encode) as form:
        request, _ = call.transcription(TranscriptionForm(language=AUTO), _upload(form))
        found = await call.wait(call.service.detect_language(request))
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
