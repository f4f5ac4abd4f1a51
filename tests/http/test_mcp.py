"""The MCP server, used by the SDK's own client over both transports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the mcp extra is not installed")

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from server import LOCKED_KEY, REPOSITORY, Server
from support import PATIENCE, eventually, free_port
from tones import sentences, text

COMMAND = ("-m", "whisperx_api_server.cli", "mcp", "--url")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(sentences(2))
    return path


def result(answer: Any) -> dict[str, Any]:
    assert not answer.is_error, answer.content
    content: dict[str, Any] = answer.structured_content
    return content


def test_an_assistant_transcribes_a_file_and_fetches_subtitles_over_stdio(
    fake_server: Server, recording: Path
) -> None:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[*COMMAND, fake_server.url],
        env={"PYTHONPATH": str(REPOSITORY / "src")},
    )
    seen: list[float] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async def scenario() -> None:
        async with Client(parameters) as client:
            tools = {tool.name for tool in (await client.list_tools()).tools}
            assert tools == {"transcribe", "follow", "fetch"}
            arguments = {"source": str(recording), "language": "en"}
            job = result(await client.call_tool("transcribe", arguments, progress_callback=report))
            assert (job["status"], job["text"].strip()) == ("completed", text(2))
            followed = result(await client.call_tool("follow", {"job": job["job"]}))
            assert followed == job
            srt = await client.call_tool("fetch", {"job": job["job"], "response_format": "srt"})
            assert "00:00:00,000 -->" in result(srt)["result"]

    asyncio.run(scenario())
    assert seen[-1] == 100.0


@pytest.fixture(scope="module")
def over_http(locked_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The URL of an MCP server over HTTP, and the directory whose files it reads."""
    port, directory = free_port(), tmp_path_factory.mktemp("recordings")
    command = [sys.executable, *COMMAND, locked_server.url]
    command += ["--http", "--port", str(port), "--files", str(directory)]
    process = subprocess.Popen(command, env=None)

    def answers() -> bool:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/mcp", trust_env=False)
        except httpx2.TransportError:
            return False
        return True

    eventually(answers)
    yield f"http://127.0.0.1:{port}/mcp", directory
    process.terminate()
    process.wait(PATIENCE)


def call_over_http(url: str, tool: str, arguments: dict[str, Any], key: str = LOCKED_KEY) -> Any:
    async def call() -> Any:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with (
            httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return await client.call_tool(tool, arguments)

    return asyncio.run(call())


def test_over_http_each_client_uses_its_own_key(over_http: Any) -> None:
    url, directory = over_http
    (directory / "talk.wav").write_bytes(sentences(2))
    source = {"source": "talk.wav"}

    job = result(call_over_http(url, "transcribe", source))
    refused = call_over_http(url, "transcribe", source, key="")

    assert job["text"].strip() == text(2)
    assert refused.is_error
    assert "no API key was sent" in refused.content[0].text


def test_over_http_only_files_of_the_directory_are_read(over_http: Any, recording: Path) -> None:
    url, _ = over_http
    for source in (str(recording), "../talk.wav"):
        answer = call_over_http(url, "transcribe", {"source": source})
        assert answer.is_error
        assert "only files below" in answer.content[0].text


def test_errors_are_one_line(over_http: Any) -> None:
    url, _ = over_http
    for tool, arguments, reason in (
        ("transcribe", {"source": "absent.wav"}, "absent.wav is not a file"),
        ("follow", {"job": "../../info"}, "not found"),
        ("fetch", {"job": "0" * 32}, "there is no such transcription"),
    ):
        answer = call_over_http(url, tool, arguments)
        assert answer.is_error, answer
        assert reason in answer.content[0].text


def test_a_job_that_fails_says_why(over_http: Any) -> None:
    url, _ = over_http
    source = {"source": "http://127.0.0.1:1/a.wav"}

    job = result(call_over_http(url, "transcribe", source))

    assert job["status"] == "failed"
    assert "not public" in job["error"]
