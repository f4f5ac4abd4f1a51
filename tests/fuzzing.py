"""Sends made requests to a running server, and judges what comes back and what stays behind."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fuzz_cases import LIMIT, TEXTS, Request, make_corpus, make_request
from server import FAKE, Server
from support import PATIENCE, eventually, wav
from whisperx_api_server.backends.fake import say

AT_A_TIME = 6
"""Seconds within which every connection must end."""

STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")
SPARE_FILES = 12
"""Open files that the server may have more at the end: those of loaded models."""


@dataclass(kw_only=True)
class Findings:
    """What was sent and answered, and each breach of the contract."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, seed: str, request: Request, problem: str) -> None:
        """Note a breach; the seed makes the request again."""
        self.failures.append(f"{seed} ({request.kind}): {problem}")


@contextmanager
def fuzzed_server(directory: Path) -> Iterator[Server]:
    """A server on the fake backend, with limits that small files reach."""
    settings = {
        "LIMITS__UPLOAD_BYTES": str(LIMIT),
        "LIMITS__AUDIO_SECONDS": "60",
        "LIMITS__DECODE_TIMEOUT": "20",
        "JOBS__DIRECTORY": str(directory / "jobs"),
        "JOBS__MAX_COUNT": "50",
        "POOL__TTL": "5",
        "WEBHOOK_SECRET": "secret",
        "LOG_LEVEL": "error",
    }
    with Server(directory, FAKE | settings) as server:
        yield server


def fuzz(server: Server, directory: Path, *, seed: int, count: int) -> Findings:
    """Send `count` requests, several at a time; then look at what the server kept."""
    findings = Findings()
    corpus = make_corpus(directory)
    check_healthy(server)
    opened = open_files(server)
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        seeds = (f"{seed}:{number}" for number in range(count))
        while batch := list(islice(seeds, 500)):
            list(threads.map(lambda each: _send(server, corpus, each, findings), batch))
    check_clean(server, opened)
    return findings


def check_clean(server: Server, opened: int) -> None:
    """That nothing of the requests is left, and that the server works."""
    eventually(lambda: server.info()["queue"]["requests"] == 0)
    lanes = server.info()["queue"]["lanes"]
    assert [lane for lane in lanes if lane["waiting"] or lane["in_flight"]] == []
    eventually(lambda: kept(server) == [])
    eventually(lambda: children(server) == [])
    eventually(lambda: open_files(server) <= opened + SPARE_FILES)
    for sign in ("unexpected failure", "Traceback"):
        before, found, after = server.log.partition(sign)
        assert not found, before[-200:] + found + after[:5000]
    check_healthy(server)


def check_healthy(server: Server) -> None:
    """That a sound request is answered right."""
    answer = server.transcribe(wav(say("red door house")))
    assert answer.json().get("text") == "red door house.", answer.text


def kept(server: Server) -> list[Path]:
    """Uploads and decoded audio that lie on disk."""
    return list(server.temp.glob("whisperx-api-server-*/*"))


def children(server: Server) -> list[str]:
    """Processes that the server has started and that are still there; none where /proc is not."""
    found: list[str] = []
    for listed in Path(f"/proc/{server.process.pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            found += listed.read_text().split()
    return found


def open_files(server: Server) -> int:
    """How many files and sockets the server holds; 0 where /proc is not."""
    listed = Path(f"/proc/{server.process.pid}/fd")
    return len(list(listed.iterdir())) if listed.is_dir() else 0


def _send(server: Server, corpus: Sequence[bytes], seed: str, findings: Findings) -> None:
    request = make_request(corpus, seed)
    try:
        answer = _exchange(server.port, request)
    except TimeoutError:
        findings.add(seed, request, f"not over within {PATIENCE:g} s")
        return
    status = STATUS_LINE.match(answer)
    shown = status[1].decode() if status else "none"
    findings.answers[f"{request.kind} {shown}"] += 1
    if status is None:
        if request.must_answer and not request.hang_up:
            findings.add(seed, request, f"no answer: {answer[:80]!r}")
    elif problem := _judge(request, int(shown), answer, secret=str(server.temp)):
        findings.add(seed, request, problem)


def _exchange(port: int, request: Request) -> bytes:
    """What is answered until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        received = bytearray()
        with suppress(ConnectionError):  # it may answer, and close, before it was sent everything
            connection.sendall(request.payload)
            if request.hang_up:
                return b""
            if not request.must_answer:  # the server may wait for more, in vain
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
        return bytes(received)


def _judge(request: Request, status: int, answer: bytes, *, secret: str) -> str | None:
    """What is wrong with an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    shown = body[:300].decode(errors="replace")
    if secret.encode() in answer or b"Traceback" in answer:
        return f"tells of this machine: {shown}"
    if status < 400:
        return None
    error = _error(body)
    if error is None:
        # what is no HTTP never reaches the application, and HEAD has no body
        readable = request.must_answer and not request.payload.startswith(b"HEAD")
        return f"{status} without an error object: {shown}" if readable or status >= 500 else None
    if status >= 500:
        unset = status == 501 and error["code"] == "not_configured"
        if not (unset and f" {TEXTS[-1]} ".encode() in request.payload[:200]):
            return f"{status}: {shown}"
    return None if b"x-request-id: " in head else "no x-request-id"


def _error(body: bytes) -> Mapping[str, Any] | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return None
    fields = {"message", "type", "param", "code"}
    return error if isinstance(error, dict) and set(error) == fields else None
