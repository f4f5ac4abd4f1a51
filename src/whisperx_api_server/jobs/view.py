"""A job as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..answers.jobs import JobEvent, JobEventType, JobStatus, WebhookEvent, WebhookEventType
from ..domain import Job, JobState

_EVENT_TYPES: Mapping[JobState, JobEventType] = MappingProxyType(
    {
        "queued": "job.queued",
        "running": "job.running",
        "completed": "job.completed",
        "failed": "job.failed",
        "cancelled": "job.cancelled",
    }
)
_WEBHOOK_TYPES: Mapping[JobState, WebhookEventType] = MappingProxyType(
    {
        "completed": "transcription.completed",
        "failed": "transcription.failed",
        "cancelled": "transcription.cancelled",
    }
)


def job_object(job: Job) -> JobStatus:
    """A job in JSON: in the status, in events and in the webhook."""
    base = f"/v1/audio/transcriptions/{job.id}"
    error = job.error
    return {
        "request_id": job.id,
        "status": job.state,
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
        "error": None
        if error is None
        else {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        },
    }


def job_event(job: Job) -> JobEvent:
    """The event that says how the job is now."""
    return {"type": _EVENT_TYPES[job.state], **job_object(job)}


def webhook_event(job: Job) -> WebhookEvent:
    """The event that `callback_url` gets when a job has ended; every try has the same id."""
    return {
        "id": f"evt_{job.id}",
        "object": "event",
        "type": _WEBHOOK_TYPES[job.state],
        "created_at": int(job.finished_at or job.submitted_at),
        "data": job_object(job),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
