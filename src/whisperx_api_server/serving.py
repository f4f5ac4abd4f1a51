"""uvicorn with graceful shutdown: the first signal drains, the second exits."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .config import Settings
from .distributed.cluster import open_cluster

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

ANSWER_TIME = 5
"""Seconds for connections to send their last answers after the grace period."""

KEEP_ALIVE = 75
"""Seconds until an idle connection is closed: longer than clients keep one, since a request that is
sent while the server closes its connection fails. OpenAI's Python SDK keeps one for 5 s."""

MAX_MESSAGE = 16 * 1024**2
"""Bytes of a WebSocket message beyond which the connection is closed; the session's limit is
`REALTIME__MESSAGE_BYTES`."""


class LiveProtocol(WebSocketsSansIOProtocol):
    """A WebSocket whose connection does not outlive its session.

    uvicorn alone would keep a connection until a client that has stopped reading has read all, and
    log each refusal as an error.
    """

    async def run_asgi(self) -> None:
        await super().run_asgi()
        self.loop.call_later(ANSWER_TIME, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True


class Server(uvicorn.Server):
    """Drains on the first signal (503 for new requests), and exits on the second.

    uvicorn alone would close its socket at once, and a load balancer would see refused
    connections instead of answers with `Retry-After`.
    """

    def __init__(self, application: FastAPI, *, host: str, port: int, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=ANSWER_TIME,
                timeout_keep_alive=KEEP_ALIVE,
                ws=LiveProtocol,
                ws_max_size=MAX_MESSAGE,
                ws_per_message_deflate=False,
            )
        )
        self._application = application
        self._grace = grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is None or self._leaving is not None or not self.started:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        await self._application.state.drain(self._grace)
        self.should_exit = True


def check_cluster(settings: Settings) -> None:
    """Connect to the cluster of MODE=kafka once, before the server starts.

    Raises:
        ClusterError: one line that names what is wrong.
    """

    async def connect() -> None:
        async with open_cluster(settings.kafka, settings.s3):
            pass

    asyncio.run(connect())
