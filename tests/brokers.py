"""Real servers for the tests: Apache Kafka and an S3 server, on free ports of the loopback."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import free_port

CACHE = Path("~/.cache/whisperx-tests").expanduser()
JARS = CACHE / "kafka-4.4.0"
VERSITYGW = CACHE / "versitygw-1.8.0" / "versitygw"
S3_KEY = "minioadmin"
START_TIMEOUT = 90

PASSWORD = "secret-of-the-tests"

BROKER = """
process.roles=broker,controller
node.id=1
log.dirs={directory}/log
listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\\
  org.apache.kafka.common.security.plain.PlainLoginModule required user_app="{password}";
ssl.keystore.type=PKCS12
ssl.keystore.location={directory}/broker.p12
ssl.keystore.password={password}
ssl.key.password={password}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.share.min.record.lock.duration.ms=1000
auto.create.topics.enable=false
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


def absent(reason: str) -> None:
    """Skip the test; fail it where `.ci/run` found all that the servers need."""
    if os.environ.get("REQUIRE_BROKER") == "1":
        pytest.fail(f"REQUIRE_BROKER=1, but {reason}")
    pytest.skip(reason)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cluster_settings(kafka_servers: str, s3_url: str) -> dict[str, str]:
    """Settings of the processes of a new cluster, with topics and a bucket of its own."""
    return {
        "MODE": "kafka",
        "KAFKA__BOOTSTRAP_SERVERS": kafka_servers,
        "KAFKA__PREFIX": f"t{uuid.uuid4().hex}",
        "KAFKA__LOCK_SECONDS": "3",
        "S3__ENDPOINT_URL": s3_url,
        "S3__BUCKET": f"t{uuid.uuid4().hex}",
        "S3__ACCESS_KEY_ID": S3_KEY,
        "S3__SECRET_ACCESS_KEY": S3_KEY,
        "SHUTDOWN_GRACE": "5",
    }


class Server:
    """A process that listens on ports; it can be stopped and started again."""

    def __init__(
        self, command: list[str], *, ports: Sequence[int], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.address = f"127.0.0.1:{ports[0]}"
        self._command = command
        self._ports = ports
        self._log = log
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not all(map(_listens, self._ports)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self._command[0]} did not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True, kw_only=True)
class Kafka:
    """A broker: a listener without security, and one with TLS and a password."""

    server: Server
    secure_address: str
    certificate: Path


@contextmanager
def kafka_server(directory: Path) -> Iterator[Kafka]:
    """A broker with an empty log, of the jars from Maven."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        absent("no java and mvn: the real broker is not tried")
    if not JARS.is_dir():
        absent("make test did not download Kafka's jars: the real broker is not tried")
    port, secure, controller = free_port(), free_port(), free_port()
    config = directory / "server.properties"
    config.write_text(
        BROKER.format(
            directory=directory, port=port, secure=secure, controller=controller, password=PASSWORD
        )
    )
    _make_certificate(directory)
    java = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]
    # Its first letter is "A": the tool takes an id that begins with "-" for an option.
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    _run(*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", config, "--standalone")
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    server = Server(
        [java[0], "-Xmx512m", "-Xms128m", quiet, *java[1:], "kafka.Kafka", str(config)],
        ports=[port, secure],
        log=directory / "broker.out",
        environment={},
    )
    server.start()
    try:
        yield Kafka(
            server=server,
            secure_address=f"127.0.0.1:{secure}",
            certificate=directory / "broker.pem",
        )
    finally:
        server.stop()


def _make_certificate(directory: Path) -> None:
    """A key in `broker.p12` and its certificate, which signs itself, in `broker.pem`."""
    store = ["-alias", "broker", "-keystore", f"{directory}/broker.p12", "-storepass", PASSWORD]
    name = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1", "-keyalg", "EC"]
    _run("keytool", "-genkeypair", *store, *name, "-storetype", "PKCS12", "-validity", "2")
    _run("keytool", "-exportcert", "-rfc", *store, "-file", directory / "broker.pem")


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def s3_server(directory: Path) -> Iterator[Server]:
    """An S3 server on an empty directory."""
    if shutil.which("go") is None:
        absent("no go: the real S3 is not tried")
    if not VERSITYGW.is_file():
        absent("make test did not build the S3 server: the real S3 is not tried")
    port = free_port()
    objects = directory / "objects"
    objects.mkdir()
    server = Server(
        [str(VERSITYGW), "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(objects)],
        ports=[port],
        log=directory / "s3.out",
        environment={"ROOT_ACCESS_KEY": S3_KEY, "ROOT_SECRET_KEY": S3_KEY},
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
