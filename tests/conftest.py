"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

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


@cache
def group_of(file: Path) -> str:
    """The group of a file of tests: those of an expensive fixture, or its own."""
    text = file.read_text(encoding="utf-8")
    found = (group for name, group in EXPENSIVE.items() if re.search(rf"\b{name}\b", text))
    return next(found, str(file))


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Runs the tests of a group in one process."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.split("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    """Group by files: with pytest 9.2, xdist 3.8 takes no notice of its mark `xdist_group`."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the largest groups, so that no process waits for the other in the end."""
    items.sort(key=lambda item: group_of(item.path) == str(item.path))


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
