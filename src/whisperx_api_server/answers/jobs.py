"""Jobs, their events and webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ..domain import JobState
from .common import exact
from .errors import ErrorDetail

JobEventType = Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]
WebhookEventType = Literal[
    "transcription.completed", "transcription.failed", "transcription.cancelled"
]
Timestamp = Annotated[float, Field(description="Seconds since the epoch.")]


@exact
class JobStage(TypedDict):
    """When a stage began and ended."""

    name: str
    started_at: Timestamp
    finished_at: Timestamp | None


@exact
class JobStatus(TypedDict):
    """A job: how far it is, and where its result will be."""

    request_id: str
    status: JobState
    status_url: str
    events_url: str
    result_url: str
    submitted_at: Timestamp
    finished_at: Timestamp | None
    duration: Annotated[float | None, Field(description="The recording's length in seconds.")]
    percent: Annotated[float, Field(ge=0, le=100)]
    eta_seconds: Annotated[float | None, Field(ge=0, description="What it should still take.")]
    queue_position: Annotated[int, Field(ge=0, description="Requests before it not done yet.")]
    stages: list[JobStage]
    error: Annotated[ErrorDetail | None, Field(description="Why it failed.")]


@exact
class CancelledJob(JobStatus):
    """A job that was cancelled, or, once it had ended, deleted."""

    deleted: bool


@exact
class JobEvent(JobStatus):
    """A job after a change."""

    type: JobEventType


@exact
class WebhookEvent(TypedDict):
    """What `callback_url` is sent when a job has ended."""

    id: Annotated[str, Field(description="The same in every try.")]
    object: Literal["event"]
    type: WebhookEventType
    created_at: int
    data: JobStatus
