"""Every answer that is no success, in OpenAI's shape; and the request's id on every answer."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import logging_setup
from ..answers.errors import Error
from ..errors import Cancelled, ErrorType, ServiceError, ShuttingDown

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for the log: nobody is there to read the answer."""


def error_body(message: str, kind: ErrorType, code: str | None, param: str | None = None) -> Error:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def service_error_body(error: ServiceError) -> Error:
    """OpenAI's error object for one of ours."""
    return error_body(error.message, error.type, error.code, error.param)


def install_error_handlers(app: FastAPI) -> None:
    """Translate what routes raise; what is nobody's fault but ours ends in the middleware."""

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        if error.status >= 500:
            # A stack helps where the code is at fault, not where a package or the hub is absent.
            stack = error.__cause__ if error.status == 500 else None
            logger.error("%s: %s (%r)", error.code, error.message, error.__cause__, exc_info=stack)
        headers = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if error.status == 408:
            headers["Connection"] = "close"  # its client is still in the middle of a request
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(service_error_body(error), status_code=error.status, headers=headers)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Cancelled)
    async def cancelled(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse(
            error_body("the request was cancelled", "invalid_request_error", "cancelled"),
            status_code=CLIENT_CLOSED_REQUEST,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["loc"][0] == "path":
            return await http_error(request, HTTPException(HTTPStatus.NOT_FOUND))
        param = str(first["loc"][-1])
        missing = first["type"] == "missing"
        return JSONResponse(
            error_body(
                f"{param}: {first['msg']}",
                "invalid_request_error",
                "missing_required_parameter" if missing else "invalid_value",
                param,
            ),
            status_code=400,
        )

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        name = HTTPStatus(error.status_code).phrase.lower()
        kind: ErrorType = "server_error" if error.status_code >= 500 else "invalid_request_error"
        return JSONResponse(
            error_body(
                f"{name}: {request.method} {request.url.path[:200]}", kind, name.replace(" ", "_")
            ),
            status_code=error.status_code,
            headers=error.headers,
        )


def _at_root(scope: Scope) -> Scope:
    """`/openai/v1`, where Groq's SDKs call any server, is another root of `/v1`."""
    root = scope.get("root_path", "")
    if scope["path"].startswith(f"{root}/openai/v1/"):
        return {**scope, "root_path": f"{root}/openai"}
    return scope


class RequestContext:
    """Outermost: gives each request its id, and an answer when everything else failed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex.encode()
        logging_setup.request_id.set(request_id.decode())
        scope = _at_root(scope)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        async def answer(error: ServiceError) -> None:
            headers = [(b"content-type", b"application/json")]
            if error.retry_after is not None:
                headers.append((b"retry-after", str(math.ceil(error.retry_after)).encode()))
            await send_with_id(
                {"type": "http.response.start", "status": error.status, "headers": headers}
            )
            body = json.dumps(service_error_body(error)).encode()
            await send_with_id({"type": "http.response.body", "body": body})

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the server ends, and waits for it no longer
            if started:
                raise
            await answer(ShuttingDown("the server shuts down; try again shortly", retry_after=5))
        except Exception:
            logger.exception("unexpected failure of %s %s", scope["method"], scope["path"])
            if started:
                raise
            await answer(ServiceError("the server failed; its log says why"))
