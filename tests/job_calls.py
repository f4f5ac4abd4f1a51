"""Calls of the jobs API, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server import Server

SECRET = "whsec_c29tZXRoaW5nIHRoYXQgbm9ib2R5IGtub3dz"
"""Signs webhooks."""


def submit(server: Server, audio: bytes, **fields: Any) -> dict[str, Any]:
    answer = server.transcribe(audio, **{"async": "true"}, **fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def status(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(job["status_url"]).raise_for_status().json()
    return found


def result(server: Server, job: dict[str, Any], **params: str) -> httpx.Response:
    return server.http.get(job["result_url"], params=params)


def watch(server: Server, job: dict[str, Any], **params: str) -> Iterator[dict[str, Any]]:
    """The job's events to their end."""
    with server.http.stream("GET", job["events_url"], params=params) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in filter(None, response.iter_lines()):
            field, _, data = line.partition(": ")
            if field != "data":
                name = data
                continue
            if data == "[DONE]":
                return
            event = json.loads(data)
            assert event["type"] == name
            yield event
    pytest.fail("the events end without [DONE]")


def wait_for(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    """The job as it has ended."""
    return list(watch(server, job))[-1]
