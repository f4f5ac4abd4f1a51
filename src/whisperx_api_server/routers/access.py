"""One log line and the metrics of each HTTP request and of each live session."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import logging_setup
from ..telemetry.metrics import Metrics

if TYPE_CHECKING:
    from ..telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
PROBES = frozenset({"/health", "/healthcheck", "/metrics", "/ready"})
"""Routes that machines ask every few seconds; their lines are of level DEBUG."""


class RequestLog:
    """A middleware that logs and counts each HTTP request once it is answered.

    A live session is a request that ends with it, of status 101 unless it is refused.
    It has the route as the server defines it in place of the path, which clients write.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status = 500
        begun = time.monotonic()
        note = logging_setup.AccessNote()
        logging_setup.access_note.set(note)

        async def send_noted(message: Message) -> None:
            nonlocal status
            status = _status(message) or status
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except asyncio.CancelledError:  # the grace period is over; `RequestContext` answers
            status = 503
            raise
        finally:
            self._end(scope, status, time.monotonic() - begun, note)

    def _end(
        self, scope: Scope, status: int, seconds: float, note: logging_setup.AccessNote
    ) -> None:
        method, route = _operation(scope)
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "seconds": round(seconds, 3),
            "audio_seconds": None if note.audio_seconds is None else round(note.audio_seconds, 3),
            "client": scope.get("state", {}).get("client"),
        }
        logger.log(
            logging.DEBUG if route in PROBES else logging.INFO,
            " ".join(f"{name}=%({name})s" for name, value in fields.items() if value is not None),
            fields,
            extra={logging_setup.FIELDS: fields},
        )


class RequestTrace:
    """A middleware that makes the span of each request and live session, probes aside."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        with self._tracing.request(Headers(scope=scope)) as span:

            async def send_traced(message: Message) -> None:
                status = _status(message)
                if status is not None:
                    span.set_attribute("http.response.status_code", status)
                await send(message)

            try:
                await self._app(scope, receive, send_traced)
            finally:
                method, route = _operation(scope)
                span.update_name(f"{method} {route}")
                span.set_attribute("http.request.method", method)
                span.set_attribute("http.route", route)
                span.set_attribute("whisperx.request.id", logging_setup.request_id.get())


def _status(message: Message) -> int | None:
    """The status, if a message begins an answer; 101 opens a WebSocket."""
    if message["type"] in ("http.response.start", "websocket.http.response.start"):
        return int(message["status"])
    return 101 if message["type"] == "websocket.accept" else None


def _operation(scope: Scope) -> tuple[str, str]:
    """The method and the route of a request that was routed, without text of the client."""
    method = scope.get("method", "GET")  # a WebSocket has none
    method = method if method in METHODS else "other"
    return method, getattr(scope.get("route"), "path", "none")
