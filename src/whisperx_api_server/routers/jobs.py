"""Jobs (`async=true`): list, status, events, result, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from fastapi import APIRouter, Request, Response

from ..answers.jobs import CancelledJob, JobList, JobStatus
from ..domain import Job, OutputOptions
from ..fields.jobs import EventsQuery, JobsQuery
from ..fields.transcription import ResultForm
from ..formats.render import render
from ..jobs.view import job_event, job_list, job_object
from ..pipeline.events import WindowDone
from . import openapi
from .deps import ClientDep, ServiceDep
from .events import DONE, EventStream, SentEvent, TranscriptEvents
from .forms import parse_query

router = APIRouter(prefix="/v1/audio/transcriptions", tags=["jobs"])


@router.get("", responses=openapi.errors(400, 404), openapi_extra=openapi.query(JobsQuery))
async def jobs(request: Request, service: ServiceDep, client: ClientDep) -> JobList:
    """The client's jobs, newest first, a page at a time."""
    query = parse_query(JobsQuery, request)
    return job_list(*await service.jobs(client, query.status, query.after, query.limit))


@router.get("/{request_id}/status", responses=openapi.errors(404))
async def status(request_id: str, service: ServiceDep, client: ClientDep) -> JobStatus:
    """The job's state and progress."""
    return job_object(await service.find(request_id, client))


@router.get(
    "/{request_id}/events",
    response_class=Response,
    responses=openapi.JOB_EVENTS,
    openapi_extra=openapi.query(EventsQuery),
)
async def events(
    request_id: str, request: Request, service: ServiceDep, client: ClientDep
) -> Response:
    """The job as server-sent events: now, and after each change until it ends."""
    query = parse_query(EventsQuery, request)
    await service.find(request_id, client)
    watched = service.watch(request_id, client, with_windows=query.text)
    return EventStream(_job_events(watched), AsyncExitStack())


@router.get(
    "/{request_id}/result", responses=openapi.JOB_RESULT, openapi_extra=openapi.query(ResultForm)
)
async def result(
    request_id: str, request: Request, service: ServiceDep, client: ClientDep
) -> Response:
    """The transcript, in the format of the submission or in another one."""
    fields = parse_query(ResultForm, request)
    job = await service.find(request_id, client)
    transcript = await service.result(request_id, client)
    output = fields.result(job)
    rendered = await asyncio.to_thread(render, transcript, output)
    return Response(rendered.body, media_type=rendered.media_type)


@router.delete("/{request_id}", responses=openapi.errors(404))
async def cancel(request_id: str, service: ServiceDep, client: ClientDep) -> CancelledJob:
    """Cancel the job if it is under way, else delete it and its result."""
    ended = (await service.find(request_id, client)).ended
    job = await service.cancel(request_id, client)
    return {**job_object(job), "deleted": ended}


async def _job_events(
    watched: AsyncGenerator[Job | WindowDone, None],
) -> AsyncGenerator[SentEvent, None]:
    texts = TranscriptEvents(OutputOptions())
    async with aclosing(watched):
        async for change in watched:
            if isinstance(change, Job):
                yield job_event(change)
            else:
                for event in texts.of(change):
                    yield event
    yield DONE
