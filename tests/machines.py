"""Replicas and workers as processes, on a real broker and a real S3."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from brokers import S3_KEY
from gated import Gate
from server import WORKER, Server
from support import eventually
from tones import CHUNK
from whisperx_api_server.distributed.bucket import S3Settings, open_bucket
from whisperx_api_server.distributed.stored import load_checkpoint

ANN = {"authorization": "Bearer key-of-ann"}
"""The client of all requests, unless they say otherwise."""


def submit(replica: Server, audio: bytes, **fields: Any) -> str:
    answer = replica.transcribe(audio, **{"async": "true"}, **CHUNK, **fields)
    assert answer.status_code == 202, answer.text
    return cast("str", answer.json()["request_id"])


def is_ready(server: Server) -> bool:
    return server.http.get("/ready").status_code == 200


def is_busy(worker: Server) -> bool:
    metrics = worker.http.get("/metrics").raise_for_status().text
    counts = re.findall(
        r"^whisperx_(?:requests_active|lane_running_entries)\S* (\S+)$", metrics, re.MULTILINE
    )
    return any(map(float, counts))


def ended(server: Server) -> None:
    """End a server; unless it was killed, it leaves no file."""
    status = server.stop()
    assert status in (0, -signal.SIGKILL), server.log
    assert status or server.temp_files() == []


@dataclass
class Machines:
    """What runs; processes that are killed are started again by `worker` and `replica`."""

    directory: Path
    settings: dict[str, str]
    stack: ExitStack

    def __post_init__(self) -> None:
        self.gates = [Gate(self.directory / f"gate-{each}") for each in range(2)]
        self.replicas = [self.replica() for _ in range(2)]
        self.workers = [self.worker(gate) for gate in self.gates]
        for server in (*self.replicas, *self.workers):
            server.wait_until_healthy()
        eventually(lambda: all(map(is_ready, (*self.replicas, *self.workers))))

    def replica(self) -> Server:
        server = self._start(Server(self._new_directory(), self.settings))
        server.http.headers.update(ANN)
        return server

    def worker(self, gate: Gate, *, command: Sequence[str] = WORKER) -> Server:
        settings = self.settings | gate.settings()
        return self._start(Server(self._new_directory(), settings, command=command))

    def _start(self, server: Server) -> Server:
        self.stack.callback(ended, server)
        return server

    def _new_directory(self) -> Path:
        return self.directory / uuid.uuid4().hex

    def allow(self) -> None:
        for gate in self.gates:
            gate.allow()

    def objects(self, prefix: str) -> list[bytes]:
        """What the bucket has below a prefix."""

        async def contents() -> list[bytes]:
            bucket = await open_bucket(
                S3Settings(
                    endpoint_url=self.settings["S3__ENDPOINT_URL"],
                    bucket=self.settings["S3__BUCKET"],
                    access_key_id=S3_KEY,
                    secret_access_key=SecretStr(S3_KEY),
                )
            )
            found = [await bucket.get(key) for key in await bucket.list(prefix)]
            return [each.data for each in found if each is not None]

        return asyncio.run(contents())

    @property
    def passed(self) -> int:
        """How many windows the workers have transcribed."""
        return sum(len(gate.passed) for gate in self.gates)

    def kept_windows(self) -> int:
        """How many windows the checkpoints in the bucket have."""
        return sum(len(load_checkpoint([part]).windows) for part in self.objects("memory"))

    def kill(self, place: int) -> None:
        """End a worker as a crash does."""
        self.workers[place].process.send_signal(signal.SIGKILL)
        self.workers[place].process.wait()

    def revive(self, place: int) -> None:
        """Start a worker in place of one that was killed."""
        self.workers[place] = self.worker(self.gates[place]).wait_until_healthy()

    def settle(self) -> None:
        """Wait until no worker has a run, nor a window of one that is over."""
        self.allow()
        eventually(lambda: not any(map(is_busy, self.workers)))

    def begin(self, replica: Server, audio: bytes, windows: int, **fields: Any) -> tuple[str, int]:
        """A job that waits for its gate after that many windows, and which worker has it."""
        self.settle()
        for gate in self.gates:
            gate.allow(0)
        job = submit(replica, audio, **fields)
        before = [len(gate.passed) for gate in self.gates]
        for gate in self.gates:
            gate.allow(windows)

        def passed() -> list[int]:
            return [len(gate.passed) - old for gate, old in zip(self.gates, before, strict=True)]

        eventually(lambda: max(passed()) == windows)
        return job, passed().index(windows)
