"""Uploads beside clients that stall, and name servers that do not answer, in both modes."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import memory_server
from server import FAKE, Mode, Server
from support import eventually, wav
from whisperx_api_server.backends.fake import say

PATH = "/v1/audio/transcriptions"
GOOD = wav(say("red door house"))
TEXT = "red door house."
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

PATCHED = """
import pathlib, socket, sys, time
from whisperx_api_server.routers import body

ask, release = socket.getaddrinfo, pathlib.Path(sys.argv.pop(1))

def getaddrinfo(host, *args, **options):
    while str(host).endswith(".silent.example") and not release.exists():
        time.sleep(0.01)
    return ask(host, *args, **options)

socket.getaddrinfo = getaddrinfo
body.STALL_TIMEOUT = 1.0
"""
SERVE: Mapping[Mode, str] = {
    "direct": "from whisperx_api_server.cli import app; app()",
    "kafka": "from memory_server import main; main(int(sys.argv[-1]))",
}


@pytest.fixture(scope="module")
def release(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose existence lets the name server answer."""
    return tmp_path_factory.mktemp("names") / "release"


@pytest.fixture(scope="module")
def server(mode: Mode, tmp_path_factory: pytest.TempPathFactory, release: Path) -> Iterator[Server]:
    """Waits one second for a body, and asks a name server that is silent about some names."""
    code = PATCHED + SERVE[mode]
    command = (sys.executable, "-c", code, str(release), "serve", "--port")
    settings = FAKE | {"PYTHONPATH": str(Path(memory_server.__file__).parent)}
    made = Server(tmp_path_factory.mktemp("uploads"), settings, command=command)
    try:
        yield made.wait_until_healthy()
    finally:
        release.touch()
        status = made.stop()
    assert status == 0, made.log
    assert made.temp_files() == []


def connect(
    server: Server,
    path: str = PATH,
    content_type: str = "multipart/form-data; boundary=b",
    length: int = 9_000_000,
) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
    return connection


def answer_of(connection: socket.socket) -> str:
    """All that the server sends until it closes the connection."""
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer.decode()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (PATH, "multipart/form-data; boundary=b"),
        ("/v1/audio/translations", "multipart/form-data; boundary=b"),
        (PATH, "application/x-www-form-urlencoded"),
        ("/v1/audio/transcriptions-from-url", "application/json"),
        ("/models/load", "multipart/form-data; boundary=b"),
    ],
)
def test_a_stalled_body_is_ended(server: Server, path: str, content_type: str) -> None:
    with connect(server, path, content_type, 9000) as connection:
        connection.sendall(HEAD[:50] if "multipart" in content_type else b"{")
        answer = answer_of(connection)

    assert answer.startswith("HTTP/1.1 408 ")
    assert '"code":"request_timeout"' in answer
    assert server.temp_files() == []


def test_a_stalled_file_leaves_nothing(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + bytes(3_000_000))
        eventually(lambda: bool(server.temp_files()))
        assert answer_of(connection).startswith("HTTP/1.1 408 ")

    assert server.temp_files() == []


def test_a_trickling_upload_is_ended(server: Server) -> None:
    ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        while not ended.wait(0.1):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    with (
        connect(server) as connection,
        ThreadPoolExecutor() as threads,
    ):
        threads.submit(trickle, connection)
        try:
            assert answer_of(connection).startswith("HTTP/1.1 408 ")
        finally:
            ended.set()
    assert server.temp_files() == []


@pytest.mark.parametrize("mode", ["direct"], indirect=True, scope="module")
def test_unresolved_names_do_not_delay_uploads(server: Server, release: Path) -> None:
    def from_url(number: int) -> int:
        fields = {"audio_url": f"http://{number}.silent.example/a.wav"}
        return server.http.post(PATH, data=fields).status_code

    with ThreadPoolExecutor(24) as threads:
        waiting = [threads.submit(from_url, number) for number in range(24)]
        try:
            eventually(lambda: server.info()["queue"]["requests"] == 24)
            for _ in range(8):
                assert server.transcribe(GOOD).json()["text"] == TEXT
            assert not any(each.done() for each in waiting)
        finally:
            release.touch()
        assert {each.result() for each in waiting} == {400}
