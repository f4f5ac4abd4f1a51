"""`transcribe --url`, whatever the server may answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli_support import Recorder
from whisperx_api_server.cli.form_fields import FormFields, TranscriptionFailure
from whisperx_api_server.cli.remote import RemoteServer

Handler = Callable[[httpx.Request], httpx.Response]


def job(status: str, **more: Any) -> dict[str, Any]:
    return {
        "request_id": "j1",
        "status": status,
        "percent": 0.0,
        "eta_seconds": None,
        "queue_position": 0,
        "stages": [],
        "error": None,
        **more,
    }


def events(*jobs: Mapping[str, Any]) -> httpx.Response:
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in jobs)
    return httpx.Response(200, text=lines, headers={"content-type": "text/event-stream"})


class ScriptedServer:
    """Answers each path with the next of its answers, the last one for ever."""

    def __init__(self, answers: Mapping[str, Sequence[httpx.Response | Exception]]) -> None:
        self._answers = {path: list(each) for path, each in answers.items()}
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = f"{request.method} {request.url.path.removeprefix('/v1/audio/transcriptions')}"
        self.asked.append(asked)
        answers = self._answers[asked]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(server: Handler, file: Path, **values: Any) -> tuple[str, Recorder]:
    watch = Recorder()
    fields = FormFields.of({"response_format": "srt", **values})

    async def transcribe() -> str:
        transport = httpx.MockTransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await RemoteServer(client, "http://server").transcribe(file, fields, watch)

    return asyncio.run(transcribe()), watch


ACCEPTED = httpx.Response(202, json=job("queued"))
DELETED = httpx.Response(200, json={})
RESULT = httpx.Response(200, text="the subtitles")
RUNNING = job("running", percent=40.0, eta_seconds=12.5, stages=[{"name": "transcribe"}])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Any file: no server of these tests listens to it."""
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF")
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between tries."""
    sleep = asyncio.sleep

    def hurried(_: float) -> Awaitable[None]:
        return sleep(0)

    monkeypatch.setattr(asyncio, "sleep", hurried)


def test_a_job_is_followed_and_deleted(recording: Path) -> None:
    server = ScriptedServer(
        {
            "POST ": [ACCEPTED],
            "GET /j1/events": [events(job("queued", queue_position=3), RUNNING, job("completed"))],
            "GET /j1/result": [RESULT],
            "DELETE /j1": [DELETED],
        }
    )
    text, watch = ask(server, recording)
    assert text == "the subtitles"
    assert watch.seen == [
        (0.0, "sending", 0),
        (0.0, "3 before it in the queue", None),
        (0.4, "transcribe", 12.5),
    ]
    assert server.asked[-1] == "DELETE /j1"


@pytest.mark.usefixtures("quick")
def test_broken_events_are_taken_up_again(recording: Path) -> None:
    server = ScriptedServer(
        {
            "POST ": [ACCEPTED],
            "GET /j1/events": [
                events(RUNNING),
                httpx.ReadError("reset"),
                events(RUNNING, job("completed")),
            ],
            "GET /j1/result": [RESULT],
            "DELETE /j1": [DELETED],
        }
    )
    assert ask(server, recording)[0] == "the subtitles"


@pytest.mark.usefixtures("quick")
def test_a_full_server_is_waited_for(recording: Path) -> None:
    full = {"message": "the server is full", "code": "overloaded"}
    server = ScriptedServer(
        {
            "POST ": [
                httpx.Response(429, json={"error": full}, headers={"retry-after": "7"}),
                ACCEPTED,
                ACCEPTED,
            ],
            "GET /j1/events": [events(job("failed", error=full)), events(job("completed"))],
            "GET /j1/result": [RESULT],
            "DELETE /j1": [DELETED],
        }
    )
    text, watch = ask(server, recording)
    assert text == "the subtitles"
    assert (0.0, "the server is full; waiting", 7.0) in watch.seen
    assert server.asked.count("POST ") == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"POST ": [httpx.Response(502)]}, "the server answered 502 Bad Gateway"),
        ({"POST ": [httpx.ReadError("reset")]}, "the connection to http://server broke"),
        (
            {"GET /j1/events": [events(job("failed", error={"message": "torn", "code": "x"}))]},
            "torn",
        ),
        ({"GET /j1/events": [events(job("cancelled"))]}, "the job was cancelled on the server"),
        ({"GET /j1/events": [httpx.ReadError("reset")]}, "the connection to http://server broke"),
        (
            {"GET /j1/events": [httpx.Response(404, json={"error": {"message": "no such job"}})]},
            "no such job",
        ),
    ],
)
def test_a_server_that_fails_is_one_line(
    recording: Path, answers: Mapping[str, Sequence[httpx.Response | Exception]], message: str
) -> None:
    server = ScriptedServer({"POST ": [ACCEPTED], "DELETE /j1": [DELETED], **answers})
    with pytest.raises(TranscriptionFailure, match=message):
        ask(server, recording)
    if "POST " not in answers:
        assert server.asked[-1] == "DELETE /j1"


def test_an_interrupt_cancels_the_job(recording: Path) -> None:
    asked: list[str] = []
    following = asyncio.Event()

    async def server(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "GET":
            following.set()
            await asyncio.Event().wait()
        return ACCEPTED if request.method == "POST" else DELETED

    async def interrupted() -> None:
        transport = httpx.MockTransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            engine = RemoteServer(client, "http://server")
            fields = FormFields.of({"response_format": "text"})
            task = asyncio.create_task(engine.transcribe(recording, fields, Recorder()))
            await following.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(interrupted())
    assert asked == ["POST", "GET", "DELETE"]
