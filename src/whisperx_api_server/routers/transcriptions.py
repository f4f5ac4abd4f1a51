"""OpenAI's two audio endpoints."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from ..domain import OutputOptions, TranscriptionRequest
from ..fields.transcription import TranscriptionForm
from ..formats.render import render
from ..jobs.view import job_object
from . import openapi
from .deps import Call, CallDep
from .events import HEARTBEAT, EventStream, transcript_events
from .forms import choose_source, parse_form
from .reflector import answer_files, is_reflector_form
from .voice_samples import save_references

router = APIRouter(tags=["audio"])


@router.post(
    "/v1/audio/transcriptions",
    responses=openapi.TRANSCRIPTION,
    openapi_extra=openapi.TRANSCRIPTION_BODY,
)
async def transcribe(call: CallDep) -> Response:
    """Turn speech into a transcript in its own language."""
    call.admit()
    async with AsyncExitStack() as stack:
        form = await stack.enter_async_context(call.form())
        fields = parse_form(TranscriptionForm, form)
        if is_reflector_form(form):
            return await answer_files(call, form, fields)
        source = choose_source(form, fields.audio_url)
        references = await save_references(fields, call.uploads, stack)
        request, output = call.transcription(fields, source, references)
        if fields.asynchronous:
            call.service.admit()
            job = await call.service.submit(request, output, stack, fields.callback_url)
            return JSONResponse(job_object(job), status_code=202)
        if fields.streams(output):
            return await _stream(call, request, output, stack)
        return await _answer(call, request, output)


@router.post(
    "/v1/audio/translations",
    responses=openapi.TRANSLATION,
    openapi_extra=openapi.TRANSLATION_BODY,
)
async def translate(call: CallDep) -> Response:
    """Turn speech into an English transcript."""
    call.admit()
    async with call.form() as form:
        fields = parse_form(TranscriptionForm, form)
        source = choose_source(form, fields.audio_url)
        request, output = call.transcription(fields, source, task="translate")
        return await _answer(call, request, output)


async def _stream(
    call: Call, request: TranscriptionRequest, output: OutputOptions, stack: AsyncExitStack
) -> EventStream:
    """The run's events; a failure before the first is answered with its status."""
    events = call.service.stream(request, retry=call.retry)
    stack.push_async_callback(events.aclose)
    first = asyncio.ensure_future(anext(events))
    stack.push_async_callback(asyncio.wait, {first})
    stack.callback(first.cancel)
    # The status must be sent with the first heartbeat.
    await call.wait(asyncio.wait({first}, timeout=HEARTBEAT))
    if first.done():
        first.result()
    return EventStream(transcript_events(first, events, output), stack.pop_all())


async def _answer(call: Call, request: TranscriptionRequest, output: OutputOptions) -> Response:
    transcript = await call.run(request)
    rendered = await asyncio.to_thread(render, transcript, output)
    return Response(rendered.body, media_type=rendered.media_type)
