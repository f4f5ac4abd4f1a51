"""How a job changes: pure functions from a job to the next one.

`now` is in seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from ..domain import Job
from ..errors import Interrupted, ServiceError
from ..pipeline.events import Progress
from .store import JobSettings

MAX_RUNNING_PROGRESS = 0.999
"""Maximum progress of a job that is under way: its speakers may still be missing."""


def under_way(job: Job, progress: Progress, *, position: int, now: float) -> Job:
    """The job while its run is that far, with `position` earlier runs under way."""
    part = min(progress.part, MAX_RUNNING_PROGRESS)
    since = progress.transcribing_since
    return replace(
        job,
        state="queued" if progress.waits else "running",
        stages=progress.stages,
        duration=progress.duration,
        progress=part,
        eta=None if since is None or not part else max(0.0, (now - since) * (1 - part) / part),
        queue_position=0 if progress.reached else position,
    )


def completed(job: Job, now: float) -> Job:
    """The job at its end, its transcript being kept."""
    return replace(_ended(job, "completed", now), progress=1.0)


def cancelled(job: Job, now: float) -> Job:
    """The job at its end, withdrawn by its client."""
    return _ended(job, "cancelled", now)


def failed(job: Job, error: ServiceError, now: float) -> Job:
    """The job at its end, with the reason."""
    return replace(_ended(job, "failed", now), error=error.failure())


def interrupted(job: Job, now: float) -> Job:
    """The job at its end, which came with its server's."""
    error = Interrupted("the server was restarted before the job was done: submit it again")
    return failed(job, error, now)


def surplus(jobs: Iterable[Job], settings: JobSettings, now: float) -> list[Job]:
    """The ended jobs that are too old, or too many."""
    ended = sorted((job for job in jobs if job.ended), key=lambda job: -job.submitted_at)
    return [
        job
        for place, job in enumerate(ended)
        if place >= settings.max_count or now - (job.finished_at or now) > settings.max_age
    ]


def _ended(job: Job, state: Literal["completed", "failed", "cancelled"], now: float) -> Job:
    stages = tuple(
        stage if stage.finished_at else replace(stage, finished_at=now) for stage in job.stages
    )
    return replace(job, state=state, finished_at=now, eta=None, queue_position=0, stages=stages)
