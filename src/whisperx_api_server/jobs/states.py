"""The states of a job, as pure functions; `now` is in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from ..domain import Job
from ..errors import ServiceError
from ..pipeline.events import Progress
from .store import JobSettings

EndState = Literal["completed", "failed", "cancelled"]

MAX_RUNNING_PROGRESS = 0.999
"""Maximum progress before the end: the speakers may still be missing."""


def under_way(job: Job, progress: Progress, *, position: int, now: float) -> Job:
    """Return the job with the progress of its run; `position` earlier runs are under way."""
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


def ended(job: Job, state: EndState, now: float, error: ServiceError | None = None) -> Job:
    """Return the job in a final state, with its error if it failed."""
    return replace(
        job,
        state=state,
        finished_at=now,
        progress=1.0 if state == "completed" else job.progress,
        eta=None,
        queue_position=0,
        stages=tuple(
            stage if stage.finished_at else replace(stage, finished_at=now) for stage in job.stages
        ),
        error=None if error is None else error.failure(),
    )


def page(jobs: Iterable[Job], *, after: Job | None, limit: int) -> tuple[list[Job], bool]:
    """Return the newest `limit` jobs, of those older than `after`, and whether there are more."""

    def age(job: Job) -> tuple[float, str]:
        return -job.submitted_at, job.id

    older = sorted((job for job in jobs if after is None or age(job) > age(after)), key=age)
    return older[:limit], len(older) > limit


def surplus(jobs: Iterable[Job], settings: JobSettings, now: float) -> list[Job]:
    """Return the ended jobs that are too old, or more than the maximum."""
    ended = sorted((job for job in jobs if job.ended), key=lambda job: -job.submitted_at)
    return [
        job
        for place, job in enumerate(ended)
        if place >= settings.max_count or now - (job.finished_at or now) > settings.max_age
    ]
