"""Health and readiness of a worker of MODE=kafka; it has no other routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from fastapi import APIRouter, Request

from ..answers.server import Health, Readiness

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
