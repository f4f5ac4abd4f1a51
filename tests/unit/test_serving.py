"""Connections of the server, without services behind it."""

from __future__ import annotations

import socket
from threading import Thread

from fastapi import FastAPI, WebSocket

from support import PATIENCE, eventually, free_port
from whisperx_api_server.serving import Server

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING, PONG = 0x89, 0x8A


def opened(port: int) -> socket.socket:
    """A WebSocket after its handshake."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(UPGRADE)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    return connection


def test_a_client_is_dropped_once_it_answers_no_ping() -> None:
    application = FastAPI()

    @application.websocket("/")
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive()

    port = free_port()
    server = Server(application, host="127.0.0.1", port=port, grace=0)
    config = server.config
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (20, 20)
    config.ws_ping_interval, config.ws_ping_timeout = 0.1, PATIENCE
    thread = Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        with opened(port) as connection, connection.makefile("rb") as stream:
            for _ in range(3):
                kind, length = stream.read(2)
                assert kind == PING
                connection.sendall(bytes([PONG, 0x80 | length, *bytes(4)]) + stream.read(length))
        config.ws_ping_timeout = 0.1
        with opened(port) as connection, connection.makefile("rb") as stream:
            assert stream.read(1)[0] == PING
            stream.read()  # until the connection ends
    finally:
        server.should_exit = True
        thread.join()
