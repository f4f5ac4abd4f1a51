"""Transcriptions that one submits, watches, fetches and cancels (`async=true`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import APIRouter, Request, Response

from ..answers.jobs import CancelledJob, JobStatus
from ..domain import Job, OutputOptions
from ..errors import UnservableCombination
from ..fields.common import WITH_SEGMENTS, ResultForm
from ..formats.render import render
from ..jobs.view import job_event, job_object
from . import openapi
from .deps import ClientDep, ServiceDep
from .events import DONE, EventStream, SentEvent
from .forms import parse_query

router = APIRouter(prefix="/v1/audio/transcriptions/{request_id}", tags=["jobs"])


@router.get("/status", responses=openapi.errors(404))
async def status(request_id: str, service: ServiceDep, client: ClientDep) -> JobStatus:
    """How far the job is."""
    return job_object(service.job(request_id, client))


@router.get("/events", response_class=Response, responses=openapi.JOB_EVENTS)
async def events(request_id: str, service: ServiceDep, client: ClientDep) -> Response:
    """The job, now and after each change, as server-sent events to its end."""
    service.job(request_id, client)
    return EventStream(_job_events(service.watch(request_id, client)), AsyncExitStack())


@router.get("/result", responses=openapi.JOB_RESULT, openapi_extra=openapi.RESULT_QUERY)
async def result(
    request_id: str, request: Request, service: ServiceDep, client: ClientDep
) -> Response:
    """The transcript, in the format asked for at the submission or in any other."""
    fields = parse_query(ResultForm, request)
    job = service.job(request_id, client)
    transcript = await service.result(request_id, client)
    output = fields.result(job.output)
    _check(job, output)
    rendered = await asyncio.to_thread(render, transcript, output)
    return Response(rendered.body, media_type=rendered.media_type)


@router.delete("", responses=openapi.errors(404))
async def cancel(request_id: str, service: ServiceDep, client: ClientDep) -> CancelledJob:
    """Cancel the job if it is under way, else delete it and its result."""
    ended = service.job(request_id, client).ended
    job = await service.cancel(request_id, client)
    return {**job_object(job), "deleted": ended}


def _check(job: Job, output: OutputOptions) -> None:
    """See whether the job was asked for what the format shows; it is not run again for that.

    Raises:
        UnservableCombination: it was not.
    """
    if output.format == "diarized_json" and not job.diarize:
        raise UnservableCombination(
            "the job has no speakers: submit it with diarize=true", param="response_format"
        )
    shows_words = output.format in WITH_SEGMENTS and "word" in output.granularities
    if shows_words and not job.words:
        raise UnservableCombination(
            "the job has no word times: submit it without align=false",
            param="timestamp_granularities[]",
        )


async def _job_events(
    jobs: AsyncGenerator[Job, None],
) -> AsyncGenerator[SentEvent, None]:
    async with aclosing(jobs):
        async for job in jobs:
            yield job_event(job)
    yield DONE
