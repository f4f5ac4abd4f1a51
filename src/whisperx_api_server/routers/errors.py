"""Errors in OpenAI's format; and the request's id on every answer."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import uuid
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import logging_setup
from ..answers.errors import Error, ErrorDetail
from ..errors import Cancelled, InvalidRequest, ServiceError, ShuttingDown
from ..formats.openai_json import error_detail

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for the log: the client has disconnected."""


def service_error_body(error: ServiceError) -> Error:
    """OpenAI's error object for one of ours."""
    return {"error": error_detail(error.failure())}


def error_response(error: ServiceError) -> JSONResponse:
    """The answer to a request that failed with one of our errors."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 408:
        headers["Connection"] = "close"  # its client is still in the middle of a request
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(service_error_body(error), status_code=error.status, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Translate what routes raise; unexpected errors are answered by `RequestContext`."""

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        if error.status >= 500:
            # A stack helps where the code is at fault, not where a package or the hub is absent.
            stack = error.__cause__ if error.status == 500 else None
            logger.error("%s: %s (%r)", error.code, error.message, error.__cause__, exc_info=stack)
        return error_response(error)

    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Cancelled)
    async def cancelled(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["loc"][0] == "path":
            return await http_error(request, HTTPException(HTTPStatus.NOT_FOUND))
        param = str(first["loc"][-1])
        return error_response(InvalidRequest(f"{param}: {first['msg']}", param=param))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        name = HTTPStatus(error.status_code).phrase.lower()
        body: ErrorDetail = {
            "message": f"{name}: {request.method} {request.url.path[:200]}",
            "type": "server_error" if error.status_code >= 500 else "invalid_request_error",
            "param": None,
            "code": name.replace(" ", "_"),
        }
        return JSONResponse({"error": body}, status_code=error.status_code, headers=error.headers)


def _at_root(scope: Scope) -> Scope:
    """`/openai/v1`, where Groq's SDKs call any server, is another root of `/v1`."""
    root = scope.get("root_path", "")
    if scope["path"].startswith(f"{root}/openai/v1/"):
        return {**scope, "root_path": f"{root}/openai"}
    return scope


class RequestContext:
    """The outermost middleware: gives each request its id, and answers unexpected errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            scope = _at_root(scope)
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

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the grace period is over
            if started:
                raise
            error = ShuttingDown("the server is shutting down; try again shortly", retry_after=5)
            await error_response(error)(scope, receive, send_with_id)
        except Exception:
            logger.exception("unexpected failure of %s %s", scope["method"], scope["path"])
            if started:
                raise
            error_of_ours = ServiceError("the server failed; its log says why")
            await error_response(error_of_ours)(scope, receive, send_with_id)
