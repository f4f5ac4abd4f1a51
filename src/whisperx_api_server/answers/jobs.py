"""Jobs, their events and webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from ..domain import JobState
from .errors import ErrorDetail

JobEventType = Literal["job.queued", "job.running", "job.completed", "job.failed", "job.cancelled"]
WebhookEventType = Literal[
    "transcription.completed", "transcription.failed", "transcription.cancelled"
]
Timestamp = Annotated[float, Field(description="Seconds since the epoch.")]


class JobStage(TypedDict):
    """When a stage began and ended."""

    name: str
    started_at: Timestamp
    finished_at: Timestamp | None


class JobStatus(TypedDict):
    """A job: its state, its progress, and the URL of its result."""

    request_id: str
    status: JobState
    filename: Annotated[
        str | None, Field(description="Of the upload, or the last part of the URL's path.")
    ]
    status_url: str
    events_url: str
    result_url: str
    submitted_at: Timestamp
    finished_at: Timestamp | None
    duration: Annotated[float | None, Field(description="The recording's length in seconds.")]
    percent: Annotated[float, Field(ge=0, le=100)]
    eta_seconds: Annotated[float | None, Field(ge=0, description="Estimated seconds to its end.")]
    queue_position: Annotated[int, Field(ge=0, description="Unfinished requests before it.")]
    stages: list[JobStage]
    error: Annotated[ErrorDetail | None, Field(description="Why it failed.")]


class JobList(TypedDict):
    """A page of a client's jobs, newest first; `last_id` is the next page's `after`."""

    object: Literal["list"]
    data: list[JobStatus]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CancelledJob(JobStatus):
    """A job that was cancelled, or, once it had ended, deleted."""

    deleted: bool


class JobEvent(JobStatus):
    """A job after a change."""

    type: JobEventType


class WebhookEvent(TypedDict):
    """The event that `callback_url` receives when a job has ended."""

    id: Annotated[str, Field(description="The same in every try.")]
    object: Literal["event"]
    type: WebhookEventType
    created_at: int
    data: JobStatus
