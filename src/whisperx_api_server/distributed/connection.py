"""The connection to Apache Kafka: its settings, TLS and SASL, and the checks at start."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from ..setting_types import PositiveInt, Section, UserPath
from .protocols import ClusterError

_SHARE_FETCH, _RECORD_LIMIT_VERSION = 78, 2  # KIP-1206 and KIP-1222, Apache Kafka 4.2
_CHECK_MS = 10_000
_RETRY_MS = 300


class KafkaSettings(Section):
    """Apache Kafka 4.2 or newer (`MODE=kafka`)."""

    bootstrap_servers: str = Field(
        "localhost:9092", description="Brokers, `host:port`, separated by commas."
    )
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = Field(
        "whisperx", description="Prefix of the names of topics and share groups."
    )
    queues: PositiveInt = Field(
        8, description="Number of queues among which clients are spread; the same on all machines."
    )
    replication: PositiveInt = Field(
        1, description="Number of brokers that store each topic; applies when a topic is created."
    )
    lock_seconds: Annotated[float, Field(ge=1, le=60)] = Field(
        30.0, description="Seconds until the run of a worker that stopped answering is taken over."
    )
    max_attempts: Annotated[int, Field(ge=1, le=4)] = Field(
        3,
        description="Maximum number of attempts at a run whose worker crashes; after the last one "
        "the run fails.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."
    )
    sasl_username: str | None = Field(None, description="User name, for SASL.")
    sasl_password: SecretStr | None = Field(None, description="Password, for SASL.")
    ssl_ca_file: UserPath | None = Field(
        None,
        description="PEM file of the authority that signed the brokers' certificates; unset is the "
        "system's authorities.",
    )
    ssl_cert_file: UserPath | None = Field(
        None, description="PEM file of the client's certificate, if brokers ask for one."
    )
    ssl_key_file: UserPath | None = Field(
        None, description="PEM file of the key of that certificate, if it is another file."
    )


def client_options(settings: KafkaSettings) -> dict[str, object]:
    """Return the keyword arguments of aiokafka's clients: brokers and security.

    Raises:
        ClusterError: a user name or password is missing, or a certificate cannot be read.
    """
    options: dict[str, object] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol,
        "retry_backoff_ms": _RETRY_MS,
    }
    if settings.security_protocol.startswith("SASL"):
        if settings.sasl_username is None or settings.sasl_password is None:
            needed = f"{settings.security_protocol} needs a user name and a password"
            raise ClusterError(f"KAFKA__SASL_PASSWORD: {needed}")
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    if settings.security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    name = "KAFKA__SSL_CA_FILE"
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
        if settings.ssl_cert_file:
            name = "KAFKA__SSL_CERT_FILE"
            context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file)
    except ssl.SSLError as error:
        raise ClusterError(f"{name}: it is not a PEM file of the right kind") from error
    except OSError as error:
        raise ClusterError(f"{name}: it cannot be read: {error.strerror}") from error
    return context


async def check_brokers(options: Mapping[str, object]) -> None:
    """Check that a broker answers, accepts the client and has share groups.

    Raises:
        ClusterError: what is wrong with the first broker that answers, or with the last of all.
    """
    from aiokafka.conn import collect_hosts

    reasons = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            return await _check_broker(host, port, options)
        except (TimeoutError, ConnectionError, socket.gaierror) as error:
            reasons.append(f"{host}:{port} {_reason(error)}")
    raise ClusterError(f"KAFKA__BOOTSTRAP_SERVERS: no broker answers: {'; '.join(sorted(reasons))}")


async def _check_broker(host: str, port: int, options: Mapping[str, object]) -> None:
    from aiokafka import errors
    from aiokafka.conn import create_conn
    from aiokafka.protocol.admin import ApiVersionRequest
    from aiokafka.protocol.metadata import MetadataRequest

    others = ("bootstrap_servers", "retry_backoff_ms")
    security = {name: value for name, value in options.items() if name not in others}
    broker = f"the broker at {host}:{port}"
    try:
        connection = await create_conn(host, port, request_timeout_ms=_CHECK_MS, **security)
    except (errors.SaslAuthenticationFailed, errors.AuthenticationFailedError) as error:
        raise ClusterError(
            f"KAFKA__SASL_PASSWORD: {broker} refuses the user name or the password"
        ) from error
    except (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError) as error:
        raise ClusterError(
            f"KAFKA__SASL_MECHANISM: {broker} does not offer {options['sasl_mechanism']}"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise ClusterError(
            f"KAFKA__SSL_CA_FILE: the certificate of {broker} is not trusted: "
            f"{error.verify_message}"
        ) from error
    except (ssl.SSLError, ConnectionResetError, errors.KafkaError) as error:
        raise _other_protocol(broker, options) from error
    try:
        versions = await connection.send(ApiVersionRequest())
        await connection.send(MetadataRequest([]))
    except errors.KafkaError as error:
        raise _other_protocol(broker, options) from error
    finally:
        await connection.close()
    newest = {key: highest for key, _, highest in versions.api_versions}
    if newest.get(_SHARE_FETCH, -1) < _RECORD_LIMIT_VERSION:
        raise ClusterError(
            f"KAFKA__BOOTSTRAP_SERVERS: {broker} has no share groups with renewable locks: "
            "MODE=kafka needs Apache Kafka 4.2 or newer"
        )


def _other_protocol(broker: str, options: Mapping[str, object]) -> ClusterError:
    return ClusterError(
        f"KAFKA__SECURITY_PROTOCOL: {broker} ended the connection; it may not speak "
        f"{options['security_protocol']}"
    )


def _reason(error: OSError) -> str:
    """The reason without asyncio's prefix, in words."""
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, socket.gaierror):
        return "is not a known host"
    return os.strerror(error.errno).lower() if error.errno else "refuses the connection"
