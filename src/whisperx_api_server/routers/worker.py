"""Health, readiness and metrics of a worker of MODE=kafka; it has no other routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import APIRouter, Request, Response

from ..answers.server import Health, Readiness
from ..telemetry.metrics import MEDIA_TYPE, Metrics

router = APIRouter(tags=["system"])


@router.get("/healthcheck")
async def healthcheck() -> Health:
    """200 while the process answers."""
    return {"status": "healthy"}


@router.get("/ready")
async def ready(request: Request) -> Readiness:
    """200 while the worker takes runs, else 503 with the reason."""
    check = cast("Callable[[], Awaitable[None]]", request.app.state.check_ready)
    await check()
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    shown = cast("Metrics", request.app.state.metrics)
    return Response(await shown.scrape(), media_type=MEDIA_TYPE)
