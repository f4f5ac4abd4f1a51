"""The application as it is put together, without a server around it."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.testclient import TestClient

from server import FAKE
from whisperx_api_server.config import Settings
from whisperx_api_server.main import create_app


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FastAPI:
    monkeypatch.chdir(tmp_path)
    return create_app(Settings())


def callables(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from callables(each)


def test_no_request_takes_a_thread_for_what_does_not_block(app: FastAPI) -> None:
    """FastAPI runs plain functions, routes and dependencies alike, on a thread per request."""
    plain = [
        call
        for route in app.routes
        if isinstance(route, APIRoute)
        for call in callables(route.dependant)
        if not inspect.iscoroutinefunction(call) and not isinstance(call, SecurityBase)
    ]

    assert plain == []


@pytest.mark.parametrize(("metrics", "status"), [("key", 401), ("open", 200)])
def test_metrics_are_open_if_the_setting_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metrics: str, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"METRICS": metrics, "API_KEY": "secret", "JOBS__DIRECTORY": str(tmp_path / "jobs")}
    for name, value in (FAKE | given).items():
        monkeypatch.setenv(name, value)
    with TestClient(create_app(Settings())) as client:
        assert client.get("/metrics").status_code == status
        assert client.get("/v1/models").status_code == 401


def test_an_application_leaves_its_hosts_log_handlers_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    create_app(Settings())

    assert (root.handlers, root.level) == before


def test_local_transcription_does_not_import_http_packages() -> None:
    script = """
import sys
import whisperx_api_server.cli.local
import whisperx_api_server.wiring
print({"fastapi", "starlette", "uvicorn"} & {name.partition(".")[0] for name in sys.modules})
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "set()\n"
