"""The queries of jobs: their list, and the events of one."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ..domain import JobState


class JobsQuery(BaseModel):
    """Which of a client's jobs are listed."""

    status: JobState | None = Field(None, description="Only jobs of this status.")
    limit: int = Field(20, ge=1, le=100, description="Maximum number of jobs.")
    after: str | None = Field(
        None, description="Only jobs older than the one with this id: the last page's `last_id`."
    )


class EventsQuery(BaseModel):
    """The contents of a job's events."""

    text: bool = Field(
        False, description="Also send the text of each window, as `transcript.text.delta`."
    )
