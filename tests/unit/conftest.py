"""Fixtures for the unit tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def without_collector() -> Iterator[None]:
    """Pauses of the collector depend on what else the test process holds."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path
