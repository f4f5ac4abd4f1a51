"""Is it alive, is it ready, and what is it doing."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from ..backends import model_source
from ..errors import Unavailable
from . import schema, shapes
from .deps import ClientDep, ServicesDep

router = APIRouter(tags=["system"])


@router.get("/health", responses=schema.HEALTH)
@router.get("/healthcheck", responses=schema.HEALTH)
async def healthcheck() -> dict[str, str]:
    """Alive; no key is needed."""
    return {"status": "healthy"}


@router.get("/ready", responses=schema.READINESS)
async def ready(services: ServicesDep) -> dict[str, str]:
    """200 once the preloaded models are in and as long as requests are taken, else 503."""
    services.service.check_open()
    if not services.preloaded.is_set():
        raise Unavailable("the models that load at start are not in yet", retry_after=5)
    return {"status": "ready"}


@router.get("/info", responses=schema.answers(shapes.Info))
async def info(services: ServicesDep, _: ClientDep) -> dict[str, Any]:
    """Version, configuration, limits, and the state of each model's queue."""
    statuses = services.pool.statuses()
    sources = await asyncio.to_thread(
        lambda: [model_source(each.key) if each.state == "ready" else None for each in statuses]
    )
    lanes = [
        {
            "model": status.key.name,
            "stage": status.key.stage,
            "source": source,
            "state": status.state,
            "requests": status.leases,
            "waiting": status.waiting,
            "in_flight": status.lane.in_flight,
            "batch_limit": status.lane.batch_limit,
            **asdict(status.lane.stats),
        }
        for status, source in zip(statuses, sources, strict=True)
    ]
    return {
        **services.info,
        "event_loop": {
            "longest_delay_seconds": round(services.loop_lag.longest, 3),
            "longest_blocked_seconds": round(services.loop_lag.longest_blocked, 3),
        },
        "queue": {
            "requests": services.service.active,
            "seconds": round(services.admission.seconds, 3),
            "limit_seconds": services.admission.limit,
            "audio_seconds_per_second": round(services.admission.speed, 3),
            "lanes": lanes,
        },
    }
