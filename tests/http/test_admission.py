"""A full queue is said before the upload is read, and by every route that takes audio, in both
modes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from gated import Gate
from live import PATH, Events
from server import Mode, Server, serving
from support import PATIENCE, eventually
from tones import CHUNK, sentences

MEGABYTE = 1024**2
RUNNING = sentences(4)
RETRY = {"x-stainless-retry-count": "1"}


@pytest.fixture(scope="module")
def full(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue is full."""
    gate = Gate(tmp_path_factory.mktemp("gate"))
    settings = gate.settings() | {"LIMITS__QUEUE_SECONDS": "5"}
    with serving(tmp_path_factory.mktemp("full"), settings, mode=mode) as server:
        gate.allow(1)
        running = Events(server, RUNNING, **CHUNK)
        assert running.next()["type"] == "transcript.text.delta"
        eventually(lambda: server.info()["queue"]["seconds"] > 5)
        yield server
        running.leave()
        gate.allow()


def begin_upload(connection: socket.socket, path: str, *, length: int) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n"
        "content-type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    )
    connection.sendall(head.encode())
    connection.sendall(bytes(MEGABYTE))


def test_an_upload_to_a_full_queue_is_refused_while_it_is_sent(full: Server) -> None:
    paths = full.http.get("/openapi.json").json()["paths"]
    taking_files = [
        path
        for path, operations in paths.items()
        if "multipart/form-data" in str(operations.get("post", {}).get("requestBody"))
        and not path.endswith(("/load", "/unload"))
    ]
    assert {PATH, "/v1/audio/translations", "/transcribe", "/diarize", "/asr"} < set(taking_files)
    for path in taking_files:
        with socket.create_connection(("127.0.0.1", full.port), timeout=PATIENCE) as connection:
            begin_upload(connection, path, length=100 * MEGABYTE)

            answer = connection.recv(65536).decode()

        assert answer.startswith("HTTP/1.1 429 "), path
        assert "\r\nretry-after: " in answer.lower()


def test_a_job_and_a_url_are_refused_as_well(full: Server) -> None:
    job = full.transcribe(sentences(1), **{"async": "true"})
    url = full.http.post(
        "/v1/audio/transcriptions-from-url", json={"audio_file_url": "http://a.example/a.wav"}
    )

    assert [job.status_code, url.status_code] == [429, 429]
    assert job.json()["error"]["message"] == "the queue is full; try again later"


def test_a_client_that_sends_all_before_it_reads_sees_the_refusal(full: Server) -> None:
    with httpx.Client(base_url=full.url, trust_env=False) as client:
        for _ in range(2):  # the second on the same connection
            answer = client.post(PATH, files={"file": ("a.wav", bytes(20 * MEGABYTE))})
            assert answer.status_code == 429
            assert answer.headers["retry-after"]


def test_a_retry_joins_its_run_although_the_queue_is_full(full: Server) -> None:
    fields = {"stream": "true", **CHUNK}
    with full.http.stream(
        "POST", PATH, files={"file": ("a.wav", RUNNING)}, data=fields, headers=RETRY
    ) as joined:
        assert joined.status_code == 200
    others = [
        full.http.post(PATH, files={"file": ("a.wav", sentences(1))}, data=each, headers=RETRY)
        for each in ({}, {"async": "true"})
    ]
    assert [answer.status_code for answer in others] == [429, 429]
