"""Health, readiness, and the state of the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request, Response

from ..answers.server import Health, Info, Lane, Member, Readiness
from ..backends import model_source
from ..backends.base import ModelSource, ShortContexts
from ..distributed.wire import Heartbeat
from ..errors import Unavailable
from ..scheduling.model_pool import ModelStatus
from ..telemetry.metrics import MEDIA_TYPE
from . import openapi
from .deps import ClientDep, ServicesDep, authenticate

router = APIRouter(tags=["system"])


@router.get("/health")
@router.get("/healthcheck")
async def healthcheck() -> Health:
    """200 while the process answers; needs no key."""
    return {"status": "healthy"}


@router.get("/ready", responses=openapi.errors(503))
async def ready(services: ServicesDep) -> Readiness:
    """200 once the preloaded models are loaded, until the server drains; else 503.

    In MODE=kafka, 503 also while the broker or the bucket cannot be reached.
    """
    services.active.ensure_accepting()
    if not services.preloaded.is_set():
        raise Unavailable("the models that load at start are not loaded yet", retry_after=5)
    if services.check_cluster is not None:
        await services.check_cluster()
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses=openapi.errors())
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Metrics in Prometheus' text format."""
    if services.metrics_need_key:
        await authenticate(request, services, None)
    return Response(await services.metrics.scrape(), media_type=MEDIA_TYPE)


@router.get("/info", responses=openapi.errors())
async def info(services: ServicesDep, _: ClientDep) -> Info:
    """Version, configuration, limits, and the state of each model's queue."""
    statuses = services.pool.statuses()
    sources = await asyncio.to_thread(
        lambda: [model_source(each.key) if each.state == "ready" else None for each in statuses]
    )
    return {
        **services.configuration,
        "event_loop": {
            "longest_delay_seconds": round(services.loop_lag.longest, 3),
            "longest_blocked_seconds": round(services.loop_lag.longest_blocked, 3),
        },
        "queue": {
            "requests": services.active.count,
            "seconds": round(services.admission.seconds, 3),
            "limit_seconds": services.admission.limit,
            "audio_seconds_per_second": round(services.admission.speed, 3),
            "lanes": [
                _lane(status, source) for status, source in zip(statuses, sources, strict=True)
            ],
        },
        "members": [_member(each) for each in services.members.all()] if services.members else [],
    }


def _member(beat: Heartbeat) -> Member:
    return {
        "name": beat.member,
        "role": beat.role,
        "version": beat.version,
        "draining": beat.draining,
        "runs": beat.runs,
        "seconds": beat.seconds,
        "audio_seconds_per_second": beat.speed,
    }


def _lane(status: ModelStatus, source: ModelSource | None) -> Lane:
    stats = status.lane.stats
    lane: Lane = {
        "model": status.key.name,
        "stage": status.key.stage,
        "source": source,
        "state": status.state,
        "requests": status.leases,
        "waiting": status.waiting,
        "workers": status.lane.workers,
        "in_flight": status.lane.in_flight,
        "batch_limit": status.lane.batch_limit,
        "batches": stats.batches,
        "entries": stats.entries,
        "largest_batch": stats.largest_batch,
        "busy_seconds": stats.busy_seconds,
        "cancelled": stats.cancelled,
        "cancelled_cost": stats.cancelled_seconds,
        "failed": stats.failed,
        "retried_batches": stats.retried_batches,
        "restarts": stats.restarts,
    }
    with suppress(Unavailable):  # not loaded
        model = status.lane.model
        if isinstance(model, ShortContexts):
            used = model.context_stats
            lane["contexts"] = {
                "short": used.short,
                "windows": used.windows,
                "repeated": used.repeated,
            }
    return lane
