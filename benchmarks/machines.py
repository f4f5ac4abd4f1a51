"""Replicas and workers of MODE=kafka as processes, on a real broker and a real S3."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .common import TESTS

sys.path.insert(0, str(TESTS))

from brokers import S3_KEY, kafka_server, s3_server
from server import Server
from support import eventually

WORKER = (
    *(sys.executable, "-m", "whisperx_api_server.cli", "worker"),
    *("--host", "127.0.0.1", "--port"),
)


class Machines:
    """Starts processes that share a broker and a bucket; all end with the context."""

    def __init__(self, directory: Path, settings: Mapping[str, str], stack: ExitStack) -> None:
        self._directory = directory
        self._settings = settings
        self._stack = stack
        self.servers: list[Server] = []

    @property
    def brokers(self) -> str:
        """The address of the broker."""
        return self._settings["KAFKA__BOOTSTRAP_SERVERS"]

    def replica(self) -> Server:
        return self._start(Server(self._new_directory(), self._settings))

    def worker(self, engine: Mapping[str, str]) -> Server:
        settings = {**self._settings, **engine}
        return self._start(Server(self._new_directory(), settings, command=WORKER))

    def _start(self, server: Server) -> Server:
        self._stack.callback(server.stop)
        self.servers.append(server)
        return server

    def _new_directory(self) -> Path:
        return self._directory / uuid.uuid4().hex


def wait_until_ready(*servers: Server) -> None:
    """Wait until each takes requests or runs."""
    for server in servers:
        server.wait_until_healthy()
    eventually(lambda: all(each.http.get("/ready").status_code == 200 for each in servers))


@contextmanager
def machines(directory: Path, settings: Mapping[str, str]) -> Iterator[Machines]:
    """A cluster without processes yet, on servers that `make servers` has installed."""
    (directory / "kafka").mkdir()
    (directory / "s3").mkdir()
    with (
        kafka_server(directory / "kafka") as kafka,
        s3_server(directory / "s3") as s3,
        ExitStack() as stack,
    ):
        cluster = {
            "MODE": "kafka",
            "KAFKA__BOOTSTRAP_SERVERS": kafka.server.address,
            "S3__ENDPOINT_URL": f"http://{s3.address}",
            "S3__ACCESS_KEY_ID": S3_KEY,
            "S3__SECRET_ACCESS_KEY": S3_KEY,
        }
        yield Machines(directory, {**cluster, **settings}, stack)
