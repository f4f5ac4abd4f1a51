"""The API of Reflector's GPU servers: words, speakers, translations, generated text.

All of it is below `/reflector`. At the root are the paths that do not collide with OpenAI's; there
`/v1/audio/transcriptions` is Reflector's only for a form with `files` or `batch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

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
from ..errors import InvalidRequest, MissingParameter, ServiceError, UnservableCombination
from ..fields.common import FormDefaults
from ..fields.transcription import TranscriptionForm
from ..formats.reflector_json import (
    reflector_diarization,
    reflector_file,
    reflector_transcript,
    reflector_transcription,
)
from ..formats.render import dump
from ..jobs.service import LocalService
from . import openapi
from .deps import (
    ActiveDep,
    ClientDep,
    DefaultsDep,
    ServiceDep,
    TextDep,
    UploadsDep,
    cancel_on_disconnect,
    is_retry,
    new_request_id,
)
from .forms import choose_source, parse_form
from .json_body import checked, read_json
from .multipart import Form, read_form

router = APIRouter(tags=["reflector"])
"""Served at the root and below `/reflector`."""

prefixed = APIRouter(prefix="/reflector", tags=["reflector"])

PARAKEET = "parakeet"
LANGUAGE = "en"
"""What Reflector's recordings are in when it names no language."""

URL_PARAM = "audio_file_url"
MAX_OFFSET = 1e9  # s

Offset = Annotated[float, Field(ge=0, le=MAX_OFFSET, allow_inf_nan=False)]


class FromUrl(BaseModel):
    """`POST /v1/audio/transcriptions-from-url`."""

    audio_file_url: str = Field(min_length=1, description="An http(s) URL that the server fetches.")
    model: str | None = Field(None, description="The Parakeet default if absent.")
    language: str = LANGUAGE
    timestamp_offset: Offset = Field(0.0, description="Seconds that are added to every time.")


class Translation(BaseModel):
    """`POST /translate`; each field may also be in the query."""

    text: str = Field(description="A text of any length.")
    source_language: str
    target_language: str


class Generation(BaseModel):
    """`POST /llm`."""

    model_config = ConfigDict(protected_namespaces=())

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


async def answer_files(
    request: Request,
    service: LocalService,
    defaults: FormDefaults,
    client: str,
    form: Form,
    fields: TranscriptionForm,
) -> Response:
    """One file's words, or the words of several in the order sent.

    Raises:
        ServiceError: as with one file; of several, the message begins with the file's name.
    """
    together = _flag(form, "batch", default=True)
    uploads = form.uploads("file", "files", "files[]")
    if fields.audio_url and uploads:
        raise InvalidRequest("send files or audio_url, not both", param="files")
    sources: list[Source] = [*uploads] or [choose_source(form, fields.audio_url)]
    _check_shape(fields)
    jobs = [_request(source, client, defaults, fields) for source in sources]
    work = _run_all(service, jobs, together=together, retry=is_retry(request))
    transcripts = await cancel_on_disconnect(request, work)

    def body() -> ReflectorFile | ReflectorFiles:
        results = [
            reflector_file(transcript, _filename(source))
            for transcript, source in zip(transcripts, sources, strict=True)
        ]
        return results[0] if len(results) == 1 else {"results": results}

    return await _json(body)


@prefixed.post(
    "/v1/audio/transcriptions",
    responses=openapi.REFLECTOR_TRANSCRIPTION,
    openapi_extra=openapi.TRANSCRIPTION_BODY,
)
async def transcribe_files(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> Response:
    """The words of one file, or of several in the order sent."""
    service.admit(retry=is_retry(request))
    async with read_form(request, uploads) as form:
        fields = parse_form(TranscriptionForm, form)
        return await answer_files(request, service, defaults, client, form, fields)


@router.post(
    "/transcribe",
    responses=openapi.answers(ReflectorTranscript, *openapi.RUN_ERRORS),
    openapi_extra=openapi.SPEECH_BODY,
)
async def transcribe(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> Response:
    """One file's words, as Reflector's first GPU server gave them."""
    service.admit(retry=is_retry(request))
    async with read_form(request, uploads) as form:
        fields = parse_form(TranscriptionForm, form)
        _check_shape(fields)
        source = choose_source(form, fields.audio_url)
        job = _request(source, client, defaults, fields)
        work = service.run(job, retry=is_retry(request))
        transcript = await cancel_on_disconnect(request, work)
    return await _json(lambda: reflector_transcript(transcript))


@router.post(
    "/v1/audio/transcriptions-from-url",
    responses=openapi.answers(ReflectorTranscription, *openapi.RUN_ERRORS),
    openapi_extra=openapi.json_body(FromUrl),
)
async def transcribe_url(
    request: Request, service: ServiceDep, defaults: DefaultsDep, client: ClientDep
) -> Response:
    """The words of a recording that is fetched, `timestamp_offset` added to their times."""
    service.admit()
    body = checked(FromUrl, await read_json(request))
    source = RemoteUrl(url=body.audio_file_url, param=URL_PARAM)
    fields = TranscriptionForm(model=body.model, language=body.language)
    work = service.run(_request(source, client, defaults, fields))
    transcript = await cancel_on_disconnect(request, work)
    return await _json(lambda: reflector_transcription(transcript, body.timestamp_offset))


def _request(
    source: Source, client: str, defaults: FormDefaults, fields: TranscriptionForm
) -> TranscriptionRequest:
    """With words, by Parakeet and in English unless the client says otherwise."""
    asked = fields.model_copy(
        update={
            "model": fields.model or PARAKEET,
            "language": fields.language or (None if fields.languages else LANGUAGE),
            "response_format": "verbose_json",
            "timestamp_granularities": ["word"],
        }
    )
    request, _ = asked.request(new_request_id(), client, source, defaults)
    return request


def _check_shape(fields: TranscriptionForm) -> None:
    """See whether Reflector's answer, words and nothing else, can hold what is asked for.

    Raises:
        UnservableCombination: it cannot.
    """
    beyond = {
        "stream": fields.stream,
        "async": fields.asynchronous,
        "diarize": fields.diarize,
        "align": fields.align is False,
        "response_format": fields.response_format not in (None, "json", "verbose_json"),
        "include[]": bool(fields.include),
        "highlight_words": fields.highlight_words,
    }
    for param, asked in beyond.items():
        if asked:
            raise UnservableCombination(
                f"an answer in Reflector's shape holds words only and cannot honour {param}: send "
                "one file as `file`, without batch, to /v1/audio/transcriptions",
                param=param,
            )


async def _run_all(
    service: LocalService, jobs: Sequence[TranscriptionRequest], *, together: bool, retry: bool
) -> list[Transcript]:
    """The transcripts in order; side by side, so that they share batches, or one by one."""

    async def run(job: TranscriptionRequest) -> Transcript:
        try:
            return await service.run(job, retry=retry)
        except ServiceError as error:
            if len(jobs) == 1:
                raise
            message = f"{_filename(job.source)[:100]!r}: {error.message}"
            raise type(error)(
                message, param=error.param, retry_after=error.retry_after
            ) from error.__cause__

    if not together:
        return [await run(job) for job in jobs]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(job)) for job in jobs]
    except BaseExceptionGroup as failures:
        # the first failure has withdrawn the others
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
    return [task.result() for task in tasks]


def _filename(source: Source) -> str:
    if isinstance(source, RemoteUrl):
        return PurePosixPath(urlsplit(source.url).path).name
    return source.filename


# -- speakers ---------------------------------------------------------------------------------


@router.post(
    "/diarize",
    responses=openapi.answers(ReflectorDiarization, *openapi.RUN_ERRORS),
    openapi_extra=openapi.DIARIZATION_BODY,
)
async def diarize(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    client: ClientDep,
    audio_file_url: str | None = None,
    timestamp: Annotated[float, Query(ge=0, le=MAX_OFFSET, allow_inf_nan=False)] = 0.0,
) -> Response:
    """Who speaks when in a recording, by URL or uploaded; `timestamp` is added to every time."""
    service.admit()
    async with AsyncExitStack() as stack:
        form = Form()
        if (
            request.headers.get("content-type", "")
            .lower()
            .startswith(("multipart/", "application/x-www"))
        ):
            reading = read_form(request, uploads)
            form = await stack.enter_async_context(reading)
        if form.files and audio_file_url:
            raise InvalidRequest(f"send either file or {URL_PARAM}, not both", param="file")
        source: Source
        if audio_file_url:
            source = RemoteUrl(url=audio_file_url, param=URL_PARAM)
        elif form.files or form.fields:
            source = choose_source(form, None)
        else:
            raise MissingParameter(
                f"{URL_PARAM} is missing: send it in the query, or upload a file", param=URL_PARAM
            )
        work = service.diarize(new_request_id(), client, source)
        diarization = await cancel_on_disconnect(request, work)
    return await _json(lambda: reflector_diarization(diarization, timestamp))


# -- text -------------------------------------------------------------------------------------


@router.post(
    "/translate",
    responses=openapi.errors(*openapi.TEXT_ERRORS),
    openapi_extra=openapi.json_body(Translation, in_query=True),
)
async def translate(
    request: Request, active: ActiveDep, text: TextDep, client: ClientDep
) -> ReflectorTranslation:
    """A text in its own language and in another; the fields come as JSON or in the query."""
    active.ensure_accepting()
    body = checked(Translation, {**request.query_params, **await read_json(request)})
    source, target = body.source_language, body.target_language
    work = text.translate(body.text, source, target, request_id=new_request_id(), client=client)
    translated = await cancel_on_disconnect(request, work)
    return {"text": {source: body.text, target: translated}}


@router.post(
    "/llm",
    responses=openapi.errors(*openapi.TEXT_ERRORS),
    openapi_extra=openapi.json_body(Generation),
)
async def generate(
    request: Request, active: ActiveDep, text: TextDep, client: ClientDep
) -> ReflectorGeneration:
    """The answer of the language model to a prompt."""
    active.ensure_accepting()
    body = checked(Generation, await read_json(request))
    work = text.generate(
        body.prompt,
        config=body.gen_cfg or {},
        schema=body.gen_schema,
        request_id=new_request_id(),
        client=client,
    )
    return {"text": await cancel_on_disconnect(request, work)}


# -- reading and answering --------------------------------------------------------------------


async def _json(body: Callable[[], Mapping[str, object]]) -> Response:
    """A JSON answer, made on a thread: hours of speech have words by the ten thousand."""
    text = await asyncio.to_thread(lambda: dump(body()))
    return Response(text, media_type="application/json")


def _flag(form: Form, name: str, *, default: bool) -> bool:
    """A field as true or false, in any of the spellings that forms have."""
    sent = [value for value in form.values(name) if value.strip()]
    if not sent:
        return default
    try:
        return TypeAdapter(bool).validate_python(sent[-1].strip())
    except ValidationError as error:
        raise InvalidRequest(f"{name} must be true or false", param=name) from error


prefixed.include_router(router)
