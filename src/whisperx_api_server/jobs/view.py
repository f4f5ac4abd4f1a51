"""Converts jobs to JSON, for status, events and webhooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from ..answers.jobs import (
    JobEvent,
    JobEventType,
    JobList,
    JobStatus,
    WebhookEvent,
    WebhookEventType,
)
from ..domain import Job
from ..formats.openai_json import error_detail


def job_object(job: Job) -> JobStatus:
    """Return a job's JSON object."""
    base = f"/v1/audio/transcriptions/{job.id}"
    return {
        "request_id": job.id,
        "status": job.state,
        "filename": job.filename or None,
        "status_url": f"{base}/status",
        "events_url": f"{base}/events",
        "result_url": f"{base}/result",
        "submitted_at": round(job.submitted_at, 3),
        "finished_at": _rounded(job.finished_at),
        "duration": _rounded(job.duration),
        "percent": round(100 * job.progress, 1),
        "eta_seconds": _rounded(job.eta),
        "queue_position": job.queue_position,
        "stages": [
            {
                "name": stage.name,
                "started_at": round(stage.started_at, 3),
                "finished_at": _rounded(stage.finished_at),
            }
            for stage in job.stages
        ],
        "error": None if job.error is None else error_detail(job.error),
    }


def job_list(jobs: Sequence[Job], has_more: bool) -> JobList:
    """Return a page of jobs as JSON, as OpenAI writes lists."""
    return {
        "object": "list",
        "data": [job_object(job) for job in jobs],
        "first_id": jobs[0].id if jobs else None,
        "last_id": jobs[-1].id if jobs else None,
        "has_more": has_more,
    }


def job_event(job: Job) -> JobEvent:
    """Return the event for the job's current state."""
    return {"type": cast("JobEventType", f"job.{job.state}"), **job_object(job)}


def webhook_event(job: Job) -> WebhookEvent:
    """Return the event of an ended job for `callback_url`; each attempt has the same id."""
    return {
        "id": f"evt_{job.id}",
        "object": "event",
        "type": cast("WebhookEventType", f"transcription.{job.state}"),
        "created_at": int(job.finished_at or job.submitted_at),
        "data": job_object(job),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
