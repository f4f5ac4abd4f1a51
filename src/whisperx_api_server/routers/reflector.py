"""The API of Reflector's GPU servers: words, speakers, translations, generated text.

All paths are below `/reflector`; those that do not collide with OpenAI's are at the root too. There
`/v1/audio/transcriptions` answers in Reflector's shape only if the form has `files` or `batch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ..answers.reflector import (
    ReflectorDiarization,
    ReflectorFile,
    ReflectorFiles,
    ReflectorGeneration,
    ReflectorTranscript,
    ReflectorTranscription,
    ReflectorTranslation,
)
from ..domain import RemoteUrl, Source, Transcript, TranscriptionRequest
from ..errors import InvalidRequest, MissingParameter, ServiceError
from ..fields import rules
from ..fields.transcription import FilesForm, TranscriptionForm, validated
from ..formats.reflector_json import (
    reflector_diarization,
    reflector_file,
    reflector_transcript,
    reflector_transcription,
)
from ..formats.render import dump
from ..text_service import TextRequest
from . import openapi
from .body import read_json
from .deps import ActiveDep, Call, CallDep, TextDep, new_request_id
from .forms import choose_source, parse_form, parse_query
from .multipart import Form

router = APIRouter(tags=["reflector"])
"""Served at the root and below `/reflector`."""

prefixed = APIRouter(prefix="/reflector", tags=["reflector"])

PARAKEET = "parakeet"
LANGUAGE = "en"
"""The language of Reflector's recordings when it names none."""

URL_PARAM = "audio_file_url"
MAX_OFFSET = 1e9  # s

Offset = Annotated[float, Field(ge=0, le=MAX_OFFSET, allow_inf_nan=False)]


class FromUrl(BaseModel):
    """`POST /v1/audio/transcriptions-from-url`."""

    audio_file_url: str = Field(min_length=1, description="An http(s) URL that the server fetches.")
    model: str | None = Field(None, description="The Parakeet default if absent.")
    language: str = LANGUAGE
    timestamp_offset: Offset = Field(0.0, description="Seconds that are added to every time.")


class DiarizationQuery(BaseModel):
    """The query of `POST /diarize`."""

    audio_file_url: str | None = Field(None, description="Instead of `file`: an http(s) URL.")
    timestamp: Offset = Field(0.0, description="Seconds that are added to every time.")


class Translation(BaseModel):
    """`POST /translate`; each field may also be in the query."""

    text: str = Field(description="A text of any length.")
    source_language: str
    target_language: str


class Generation(BaseModel):
    """`POST /llm`."""

    prompt: str = Field(min_length=1)
    gen_schema: dict[str, Any] | None = Field(
        None, description="A JSON schema: the answer is then JSON text that satisfies it."
    )
    gen_cfg: dict[str, Any] | None = Field(
        None, description="Settings of transformers' GenerationConfig, such as max_new_tokens."
    )


# -- files to words ---------------------------------------------------------------------------


def is_reflector_form(form: Form) -> bool:
    """Whether a form has the fields that only Reflector's clients send."""
    return bool(form.uploads("files", "files[]") or any(map(str.strip, form.values("batch"))))


async def answer_files(call: Call, form: Form, fields: TranscriptionForm) -> Response:
    """One file's words, or the words of several in the order sent.

    Raises:
        ServiceError: as with one file; of several, the message begins with the file's name.
    """
    together = parse_form(FilesForm, form).batch
    uploads = form.uploads("file", "files", "files[]")
    if fields.audio_url and uploads:
        raise InvalidRequest("send files or audio_url, not both", param="files")
    sources: list[Source] = [*uploads] or [choose_source(form, fields.audio_url)]
    requests = [_request(call, fields, source) for source in sources]
    transcripts = await _run_all(call, requests, together=together)

    def body() -> ReflectorFile | ReflectorFiles:
        results = [
            reflector_file(transcript, source.filename)
            for transcript, source in zip(transcripts, sources, strict=True)
        ]
        return results[0] if len(results) == 1 else {"results": results}

    return await _json(body)


@prefixed.post(
    "/v1/audio/transcriptions",
    responses=openapi.answers(ReflectorFile, ReflectorFiles),
    openapi_extra=openapi.TRANSCRIPTION_BODY,
)
async def transcribe_files(call: CallDep) -> Response:
    """The words of one file, or of several in the order sent."""
    call.admit()
    async with call.form() as form:
        return await answer_files(call, form, parse_form(TranscriptionForm, form))


@router.post(
    "/transcribe",
    responses=openapi.answers(ReflectorTranscript),
    openapi_extra=openapi.SPEECH_BODY,
)
async def transcribe(call: CallDep) -> Response:
    """One file's words, as Reflector's first GPU server gave them."""
    call.admit()
    async with call.form() as form:
        fields = parse_form(TranscriptionForm, form)
        request = _request(call, fields, choose_source(form, fields.audio_url))
        transcript = await call.run(request)
    return await _json(lambda: reflector_transcript(transcript))


@router.post(
    "/v1/audio/transcriptions-from-url",
    responses=openapi.answers(ReflectorTranscription),
    openapi_extra=openapi.json_body(FromUrl),
)
async def transcribe_url(call: CallDep) -> Response:
    """The words of a recording that is fetched, `timestamp_offset` added to their times."""
    call.admit()
    body = validated(FromUrl, await read_json(call.request))
    source = RemoteUrl(url=body.audio_file_url, param=URL_PARAM)
    fields = TranscriptionForm(model=body.model, language=body.language)
    transcript = await call.run(_request(call, fields, source))
    return await _json(lambda: reflector_transcription(transcript, body.timestamp_offset))


def _request(call: Call, fields: TranscriptionForm, source: Source) -> TranscriptionRequest:
    """Convert the fields to a request with words, by default by Parakeet and in English."""
    rules.check(rules.of_words(fields))
    asked = fields.model_copy(
        update={
            "model": fields.model or PARAKEET,
            "language": fields.language or (None if fields.languages else LANGUAGE),
            "response_format": "verbose_json",
            "timestamp_granularities": ["word"],
        }
    )
    return call.transcription(asked, source)[0]


async def _run_all(
    call: Call, requests: Sequence[TranscriptionRequest], *, together: bool
) -> list[Transcript]:
    """The transcripts in order; side by side, so that they share batches, or one by one."""
    turns = asyncio.Semaphore(len(requests) if together else 1)

    async def run(request: TranscriptionRequest) -> Transcript:
        try:
            async with turns:
                return await call.service.run(request, retry=call.retry)
        except ServiceError as error:
            if len(requests) == 1:
                raise
            message = f"{request.source.filename[:100]!r}: {error.message}"
            raise type(error)(
                message, param=error.param, retry_after=error.retry_after
            ) from error.__cause__

    async def run_all() -> list[Transcript]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(request)) for request in requests]
        except BaseExceptionGroup as failures:
            # The first failure has cancelled the others.
            raise failures.exceptions[0] from failures.exceptions[0].__cause__
        return [task.result() for task in tasks]

    return await call.wait(run_all())


# -- speakers ---------------------------------------------------------------------------------


@router.post(
    "/diarize",
    responses=openapi.answers(ReflectorDiarization),
    openapi_extra=openapi.query(DiarizationQuery) | openapi.form({}, files=openapi.FILE),
)
async def diarize(call: CallDep) -> Response:
    """The speaker turns of a recording, by URL or uploaded; `timestamp` is added to every time."""
    call.admit()
    query = parse_query(DiarizationQuery, call.request)
    url = query.audio_file_url
    async with AsyncExitStack() as stack:
        form = Form()
        content_type = call.request.headers.get("content-type", "").lower()
        if content_type.startswith(("multipart/", "application/x-www")):
            form = await stack.enter_async_context(call.form())
        if form.files and url:
            raise InvalidRequest(f"send either file or {URL_PARAM}, not both", param="file")
        if not (url or form.files or form.fields):
            raise MissingParameter(
                f"{URL_PARAM} is missing: send it in the query, or upload a file", param=URL_PARAM
            )
        source = RemoteUrl(url=url, param=URL_PARAM) if url else choose_source(form, None)
        diarization = await call.wait(call.service.diarize(new_request_id(), call.client, source))
    return await _json(lambda: reflector_diarization(diarization, query.timestamp))


# -- text -------------------------------------------------------------------------------------


@router.post(
    "/translate",
    responses=openapi.errors(*openapi.TEXT_ERRORS),
    openapi_extra=openapi.json_body(Translation, in_query=True),
)
async def translate(call: CallDep, text: TextDep, active: ActiveDep) -> ReflectorTranslation:
    """A text in its own language and in another; the fields come as JSON or in the query."""
    active.ensure_accepting()
    fields = {**call.request.query_params, **await read_json(call.request)}
    body = validated(Translation, fields)
    source, target = body.source_language, body.target_language
    request = TextRequest(
        id=new_request_id(), client=call.client, text=body.text, source=source, target=target
    )
    return {"text": {source: body.text, target: await call.wait(text.translate(request))}}


@router.post(
    "/llm",
    responses=openapi.errors(*openapi.TEXT_ERRORS),
    openapi_extra=openapi.json_body(Generation),
)
async def generate(call: CallDep, text: TextDep, active: ActiveDep) -> ReflectorGeneration:
    """The answer of the language model to a prompt."""
    active.ensure_accepting()
    body = validated(Generation, await read_json(call.request))
    request = TextRequest(
        id=new_request_id(),
        client=call.client,
        text=body.prompt,
        config=body.gen_cfg or {},
        schema=body.gen_schema,
    )
    return {"text": await call.wait(text.generate(request))}


async def _json(body: Callable[[], Mapping[str, object]]) -> Response:
    """A JSON answer, made on a thread: hours of speech have words by the ten thousand."""
    text = await asyncio.to_thread(lambda: dump(body()))
    return Response(text, media_type="application/json")


prefixed.include_router(router)
