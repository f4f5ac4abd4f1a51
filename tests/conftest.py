"""Fixtures for all tests."""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest
from hypothesis import settings

from fixtures.speech.speech import Speech
from support import FIXTURES

settings.register_profile("untimed", deadline=None)  # a busy machine fails no example
settings.load_profile("untimed")

ABSENT_PACKAGE = re.compile("could not import|extra is not installed")


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Ground-truth speech: `speech.random("en-adam", 6, seed=1)` has audio, text and words."""
    return Speech(FIXTURES / "speech")


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
