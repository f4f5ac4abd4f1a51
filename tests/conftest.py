"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterator
from itertools import chain

import pytest
from hypothesis import settings

from brokers import Kafka, Server, kafka_server, s3_server
from fixtures.speech.speech import Speech
from support import FIXTURES

settings.register_profile("untimed", deadline=None)  # a busy machine fails no example
settings.load_profile("untimed")

EXPENSIVE = {
    "parakeet_server": "parakeet",
    "base_server": "base",
    "real_server": "real",
    "s3_url": "kafka",
    "kafka_servers": "kafka",
    "real_kafka": "kafka",
    "real_s3": "kafka",
}
"""Fixtures that take seconds to start, and the groups of their tests."""

ABSENT_PACKAGE = re.compile("could not import|extra is not installed")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Undo what commands set up: loggers remember the root's level until `setLevel` is called."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Ground-truth speech: `speech.random("en-adam", 6, seed=1)` has audio, text and words."""
    return Speech(FIXTURES / "speech")


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A real Kafka broker."""
    with kafka_server(tmp_path_factory.mktemp("kafka")) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def kafka_servers(request: pytest.FixtureRequest) -> str:
    """The address of a real broker; `WHISPERX_TEST_KAFKA` names one that runs already."""
    if running := os.environ.get("WHISPERX_TEST_KAFKA"):
        return running
    kafka: Kafka = request.getfixturevalue("real_kafka")
    return kafka.server.address


@pytest.fixture(scope="session")
def real_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_url(request: pytest.FixtureRequest) -> str:
    """The URL of a real S3 server; `WHISPERX_TEST_S3` names one that runs already."""
    if running := os.environ.get("WHISPERX_TEST_S3"):
        return running
    server: Server = request.getfixturevalue("real_s3")
    return f"http://{server.address}"


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests of one expensive fixture, and otherwise those of one file, in one process.

    Those of expensive fixtures run first, so that no process waits for the other in the end.
    """
    groups: dict[str, list[pytest.Item]] = {group: [] for group in EXPENSIVE.values()}
    for item in items:
        assert isinstance(item, pytest.Function)
        names = [name for name in EXPENSIVE if name in item.fixturenames]
        group = EXPENSIVE[names[0]] if names else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
        groups.setdefault(group, []).append(item)
    items[:] = chain.from_iterable(groups.values())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped for want of a package where `CI` is true: `make install` brings all."""
    report = yield
    skipped = report.skipped and ABSENT_PACKAGE.search(str(call.excinfo))
    if skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report
