"""What stops a start in MODE=kafka: one line that names the setting."""

from __future__ import annotations

import asyncio
import gc
import struct
import uuid
from base64 import b64encode
from collections.abc import Mapping
from contextlib import aclosing
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from brokers import PASSWORD, S3_KEY, Kafka
from support import free_port
from whisperx_api_server.distributed.bucket import ObjectBucket, S3Settings, _check, open_bucket
from whisperx_api_server.distributed.connection import KafkaSettings
from whisperx_api_server.distributed.kafka import open_kafka
from whisperx_api_server.distributed.protocols import ClusterError, Message
from whisperx_api_server.distributed.s3_admin import BucketAdmin


def kafka_error(**settings: object) -> str:
    async def start() -> None:
        async with open_kafka(KafkaSettings.model_validate(settings)):
            pass

    with pytest.raises(ClusterError) as error:
        asyncio.run(start())
    return str(error.value)


def s3_error(**settings: object) -> str:
    with pytest.raises(ClusterError) as error:
        asyncio.run(open_bucket(S3Settings.model_validate(settings)))
    return str(error.value)


def test_no_broker_and_unknown_host() -> None:
    port = free_port()
    message = kafka_error(bootstrap_servers=f"127.0.0.1:{port},no-host.invalid:9092")
    assert message == (
        f"KAFKA__BOOTSTRAP_SERVERS: no broker answers: 127.0.0.1:{port} connection refused; "
        "no-host.invalid:9092 is not a known host"
    )


def test_security_without_what_it_needs(tmp_path: Path) -> None:
    assert kafka_error(security_protocol="SASL_SSL", sasl_username="app") == (
        "KAFKA__SASL_PASSWORD: SASL_SSL needs a user name and a password"
    )
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    assert kafka_error(security_protocol="SSL", ssl_ca_file=text) == (
        "KAFKA__SSL_CA_FILE: it is not a PEM file of the right kind"
    )
    assert kafka_error(security_protocol="SSL", ssl_ca_file=tmp_path / "none.pem") == (
        "KAFKA__SSL_CA_FILE: it cannot be read: No such file or directory"
    )


class OldBroker:
    """Answers ApiVersions and Metadata in version 0, as a broker with these requests does."""

    def __init__(self, requests: Mapping[int, tuple[int, int]]) -> None:
        self._requests = requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while size := await reader.read(4):
            key, _, number = struct.unpack(
                ">hhi", (await reader.readexactly(struct.unpack(">i", size)[0]))[:8]
            )
            answer = struct.pack(">ii", 0, 0)
            if key == 18:
                rows = [struct.pack(">hhh", key, *each) for key, each in self._requests.items()]
                answer = struct.pack(">hi", 0, len(rows)) + b"".join(rows)
            writer.write(struct.pack(">ii", 4 + len(answer), number) + answer)
        writer.close()


def test_broker_without_share_groups() -> None:
    broker = OldBroker({18: (0, 0), 3: (0, 0), 78: (1, 1)})  # as Apache Kafka 4.1

    async def start() -> str:
        async with await asyncio.start_server(broker.serve, "127.0.0.1") as server:
            port = server.sockets[0].getsockname()[1]
            settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")
            with pytest.raises(ClusterError) as error:
                async with open_kafka(settings):
                    pass
            return str(error.value).replace(str(port), "PORT")

    assert asyncio.run(start()) == (
        "KAFKA__BOOTSTRAP_SERVERS: the broker at 127.0.0.1:PORT has no share groups with "
        "renewable locks: MODE=kafka needs Apache Kafka 4.2 or newer"
    )


# aiokafka does not wait until a refused TLS connection is closed: collect it in this test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_password_and_certificate(real_kafka: Kafka) -> None:
    secure = {
        "bootstrap_servers": real_kafka.secure_address,
        "security_protocol": "SASL_SSL",
        "sasl_username": "app",
        "sasl_password": PASSWORD,
        "ssl_ca_file": real_kafka.certificate,
        "prefix": f"t{uuid.uuid4().hex}",
        "queues": 1,
    }
    broker = f"the broker at {real_kafka.secure_address}"
    assert kafka_error(**{**secure, "sasl_password": "wrong"}) == (
        f"KAFKA__SASL_PASSWORD: {broker} refuses the user name or the password"
    )
    assert kafka_error(**{**secure, "sasl_mechanism": "SCRAM-SHA-256"}) == (
        f"KAFKA__SASL_MECHANISM: {broker} does not offer SCRAM-SHA-256"
    )
    assert kafka_error(**{**secure, "ssl_ca_file": None}).startswith(
        f"KAFKA__SSL_CA_FILE: the certificate of {broker} is not trusted: "
    )
    assert kafka_error(bootstrap_servers=real_kafka.secure_address) == (
        f"KAFKA__SECURITY_PROTOCOL: {broker} ended the connection; it may not speak PLAINTEXT"
    )

    plain = real_kafka.server.address
    assert kafka_error(**{**secure, "bootstrap_servers": plain}) == (
        f"KAFKA__SECURITY_PROTOCOL: the broker at {plain} ended the connection; it may not speak "
        "SASL_SSL"
    )

    async def scenario() -> None:
        async with open_kafka(KafkaSettings.model_validate(secure)) as kafka:
            queue = kafka.queue("queue.v1.0")
            await queue.send(b"0")
            (delivery,) = await queue.take(1, wait=30)
            assert await queue.renew([delivery]) == []
            assert await queue.accept(delivery)
            await queue.close()
            await kafka.log.append("members", "a", b"1")
            async with aclosing(kafka.log.read("members", since="earliest")) as messages:
                message = await anext(messages)
            assert isinstance(message, Message)
            assert message.value == b"1"

    asyncio.run(scenario())
    gc.collect()


def test_s3_refuses_what_is_wrong(s3_url: str) -> None:
    right = {"endpoint_url": s3_url, "access_key_id": S3_KEY, "secret_access_key": S3_KEY}
    assert s3_error(**{**right, "secret_access_key": "wrong"}) == (
        "S3__SECRET_ACCESS_KEY: it is not the secret of this access key"
    )
    assert s3_error(**{**right, "access_key_id": "unknown"}) == (
        "S3__ACCESS_KEY_ID: the store does not know this access key"
    )
    assert s3_error(**right, bucket="Not_a_bucket") == (
        "S3__BUCKET: the store does not make Not_a_bucket: InvalidBucketName"
    )
    absent = f"http://127.0.0.1:{free_port()}"
    assert s3_error(**{**right, "endpoint_url": absent}) == (
        f"S3__ENDPOINT_URL: no store answers at {absent}"
    )


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_without_conditional_writes_is_refused(header: str) -> None:
    obstore = pytest.importorskip("obstore.store")

    class Careless(ObjectBucket):
        async def create(self, key: str, data: bytes) -> bool:
            if header != "If-None-Match":
                return await super().create(key, data)
            await self.put(key, data)
            return True

        async def replace(self, key: str, data: bytes, etag: str) -> str | None:
            if header != "If-Match":
                return await super().replace(key, data, etag)
            await self.put(key, data)
            return etag

    with pytest.raises(ClusterError) as error:
        asyncio.run(_check(Careless(obstore.MemoryStore()), "audio"))
    assert str(error.value) == (
        f"S3__ENDPOINT_URL: this store has no conditional writes by {header}, which MODE=kafka "
        "needs: use another store"
    )


class Lifecycles(BaseHTTPRequestHandler):
    """A bucket with a lifecycle, which versitygw does not have; `rules` is its XML."""

    rules = ""

    def do_GET(self) -> None:
        self._answer(200 if self.rules else 404, self.rules)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        assert self.headers["content-md5"] == b64encode(md5(body.encode()).digest()).decode()
        type(self).rules = body
        self._answer(200, "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


def test_lifecycle_follows_the_age_of_jobs_and_leaves_the_rules_of_others() -> None:
    async def expire(port: int, days: int) -> None:
        async with BucketAdmin(
            endpoint=f"http://127.0.0.1:{port}",
            bucket="audio",
            region="us-east-1",
            access_key_id="key",
            secret="secret",
        ) as admin:
            await admin.expire("whisperx", days)

    with ThreadingHTTPServer(("127.0.0.1", 0), Lifecycles) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(expire(server.server_port, 2))
        assert "<Prefix>whisperx/</Prefix>" in Lifecycles.rules
        assert "<Days>2</Days>" in Lifecycles.rules
        asyncio.run(expire(server.server_port, 9))
        assert "<Days>9</Days>" in Lifecycles.rules
        Lifecycles.rules = foreign = "<Rule><ID>backup</ID></Rule>"
        asyncio.run(expire(server.server_port, 2))
        assert Lifecycles.rules == foreign
        server.shutdown()
