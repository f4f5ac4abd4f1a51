"""OpenAI's realtime transcription over a WebSocket, and the short-lived keys of web pages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response, WebSocket
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect, WebSocketState

from .. import logging_setup
from ..answers.openai import RealtimeClientSecret
from ..errors import InvalidRequest, OriginRefused, ServiceError, UpgradeRequired
from ..fields.transcription import validated
from ..live.events import ServerEvent, new_id
from ..live.messages import ClientSecretBody, SessionConfig
from ..live.secrets import ClientSecret
from ..live.session import Ending, Session
from ..live.transcriber import Send
from . import openapi
from .body import read_json
from .deps import CallerDep, Services, ServicesDep
from .errors import error_response

logger = logging.getLogger(__name__)

router = APIRouter(tags=["audio"])

PROTOCOL = "realtime"
_KEY_PROTOCOL = "openai-insecure-api-key."


@router.get("/v1/realtime", response_class=Response, responses=openapi.errors(426))
async def upgrade() -> None:
    """A WebSocket: OpenAI's realtime transcription session; see docs/live.md."""
    raise UpgradeRequired(
        "live transcription needs a WebSocket: connect with ws:// or wss:// instead of http"
    )


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """Transcribe speech while it is spoken."""
    services: Services = socket.app.state.services
    try:
        client, config = _begin(socket, services)
        socket.state.client = client  # for the access log
        beta = socket.headers.get("openai-beta") == "realtime=v1"
        timeout = services.live.settings.send_timeout
        with services.live.open(client, config, _sender(socket, timeout), beta=beta) as session:
            await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
            logging_setup.request_id.set(session.id)
            logger.info("live session of %s begins", client)
            await _serve(socket, session, timeout)
    except ServiceError as error:
        await socket.send_denial_response(error_response(error))


async def _serve(socket: WebSocket, session: Session, send_seconds: float) -> None:
    try:
        async with aclosing(_messages(socket)) as messages:
            ending = await session.run(messages)
        async with asyncio.timeout(send_seconds):
            await socket.close(ending.code, ending.reason)
    except WebSocketDisconnect:
        ending = Ending(1006, "disconnected")
    except TimeoutError:
        ending = Ending(1008, "the client does not read its messages")
    logger.info("live session ends: %d %s", ending.code, ending.reason)


def _begin(socket: WebSocket, services: Services) -> tuple[str, SessionConfig]:
    """The client behind a request's key, and how its session begins.

    Raises:
        Unauthorized: no key, or a wrong one.
        OriginRefused: no key is required, and a page of another site connects.
        InvalidRequest: the query asks for another kind of session.
    """
    if not services.keys.required:
        check_origin(socket, services.allowed_origins)
    secret, client = _authenticate(socket, services)
    config = SessionConfig() if secret is None else secret.session
    intent = socket.query_params.get("intent", "transcription")
    if intent != "transcription":
        raise InvalidRequest(
            "only transcription sessions are served here: connect with intent=transcription",
            param="intent",
        )
    model = socket.query_params.get("model")
    if model is None:
        return client, config
    return client, config.updated({"audio": {"input": {"transcription": {"model": model}}}})


def check_origin(request: HTTPConnection, allowed: Collection[str]) -> None:
    """See whether a web page may connect; browsers do not apply CORS to WebSockets.

    Raises:
        OriginRefused: it is another site's.
    """
    origin = request.headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise OriginRefused("pages of this site may not connect: add the site to ALLOWED_ORIGINS")


def _authenticate(socket: WebSocket, services: Services) -> tuple[ClientSecret | None, str]:
    """The client secret that was sent, if it is one, and the name of the client."""
    authorization = dict(socket.scope["headers"]).get(b"authorization")
    for offered in socket.scope["subprotocols"]:  # browsers cannot send headers
        if authorization is None and offered.startswith(_KEY_PROTOCOL):
            authorization = b"Bearer " + offered.removeprefix(_KEY_PROTOCOL).encode()
    secret = services.client_secrets.find((authorization or b"").partition(b" ")[2].strip())
    if secret is not None:
        return secret, secret.caller.client
    return None, services.keys.caller(authorization).client


def _sender(socket: WebSocket, timeout: float) -> Send:
    """Sends events; TimeoutError if the client does not read one in time."""

    async def send(event: ServerEvent) -> None:
        if socket.application_state is not WebSocketState.CONNECTED:  # another event found out
            raise WebSocketDisconnect(1006)
        async with asyncio.timeout(timeout):
            await socket.send_text(event.model_dump_json())

    return send


async def _messages(socket: WebSocket) -> AsyncGenerator[str | bytes, None]:
    """The client's messages until it disconnects."""
    while (message := await socket.receive())["type"] == "websocket.receive":
        text = message.get("text")
        yield message["bytes"] if text is None else text


# -- client secrets ---------------------------------------------------------------------------


@router.post(
    "/v1/realtime/client_secrets",
    responses=openapi.errors(400, 408, 413, 429, 501, 503),
    openapi_extra=openapi.json_body(ClientSecretBody),
)
async def create_client_secret(
    request: Request, services: ServicesDep, caller: CallerDep
) -> RealtimeClientSecret:
    """Issue a short-lived key, with which a web page opens live sessions."""
    services.live.ensure_enabled()
    body = validated(ClientSecretBody, await read_json(request))
    config = SessionConfig().updated(body.session)
    value, secret = services.client_secrets.issue(caller, body.expires_after.seconds, config)
    return {
        "value": value,
        "expires_at": int(secret.expires_at),
        "session": config.described(new_id("sess")),
    }
