"""OpenAI's two audio endpoints."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..domain import OutputOptions, TranscriptionRequest
from ..fields.transcription import TranscriptionForm
from ..formats.render import render
from ..jobs.service import LocalService
from ..jobs.view import job_object
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
from .events import HEARTBEAT, EventStream, transcript_events
from .forms import choose_source, parse_form, parse_translation
from .multipart import read_form
from .reflector import answer_files, is_reflector_form
from .voice_samples import save_references

logger = logging.getLogger(__name__)

router = APIRouter(tags=["audio"])


@router.post(
    "/v1/audio/transcriptions",
    responses=openapi.TRANSCRIPTION,
    openapi_extra=openapi.TRANSCRIPTION_BODY,
)
async def transcribe(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> Response:
    """Turn speech into a transcript in its own language."""
    service.admit(retry=is_retry(request))
    async with AsyncExitStack() as stack:
        form = await stack.enter_async_context(read_form(request, uploads))
        fields = parse_form(TranscriptionForm, form)
        if is_reflector_form(form):
            return await answer_files(request, service, defaults, client, form, fields)
        source = choose_source(form, fields.audio_url)
        references = await save_references(fields, uploads, stack)
        job, output = fields.request(new_request_id(), client, source, defaults, references)
        if fields.asynchronous:
            service.admit()
            accepted = await service.submit(job, output, stack, fields.callback_url)
            return JSONResponse(job_object(accepted), status_code=202)
        if fields.streams(output):
            heard = service.stream(job, retry=is_retry(request))
            stack.push_async_callback(heard.aclose)
            begun = asyncio.ensure_future(anext(heard))
            stack.push_async_callback(asyncio.wait, {begun})
            stack.callback(begun.cancel)
            # A failure is answered with its status, unless heartbeats must begin before it.
            await cancel_on_disconnect(request, asyncio.wait({begun}, timeout=HEARTBEAT))
            if begun.done():
                begun.result()
            return EventStream(transcript_events(begun, heard, output), stack.pop_all())
        return await _answer(request, service, job, output)


@router.post(
    "/v1/audio/translations",
    responses=openapi.TRANSLATION,
    openapi_extra=openapi.TRANSLATION_BODY,
)
async def translate(
    request: Request,
    service: ServiceDep,
    uploads: UploadsDep,
    defaults: DefaultsDep,
    client: ClientDep,
) -> Response:
    """Turn speech into an English transcript."""
    service.admit(retry=is_retry(request))
    async with read_form(request, uploads) as form:
        fields = parse_translation(form)
        source = choose_source(form, fields.audio_url)
        job, output = fields.request(new_request_id(), client, source, defaults)
        return await _answer(request, service, job, output)


async def _answer(
    request: Request, service: LocalService, job: TranscriptionRequest, output: OutputOptions
) -> Response:
    transcript = await cancel_on_disconnect(request, service.run(job, retry=is_retry(request)))
    logger.info("%s: %.1f s of audio for %s", job.decode.task, transcript.duration, job.client)
    rendered = await asyncio.to_thread(render, transcript, output)
    return Response(rendered.body, media_type=rendered.media_type)
