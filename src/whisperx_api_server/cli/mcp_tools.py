"""The tools of the MCP server (extra `mcp`): each is a few requests to the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from .. import __version__
from ..domain import JobState
from ..output_formats import OutputFormat
from .remote import TRANSCRIPTIONS, RemoteServer, ServerError, connect

INSTRUCTIONS = (
    "Transcribes recordings. Call `transcribe` with a file or a URL. A long recording is not done "
    "within `wait_seconds`: then call `follow` with its job until it is completed. `fetch` gives "
    "the transcript in another format, such as srt, or diarized_json with speakers."
)

Wait = Annotated[
    float, Field(ge=0, le=600, description="Maximum seconds to wait for the end of the job.")
]
JobId = Annotated[str, Field(description="The job, as `transcribe` returned it.")]


class JobView(BaseModel):
    """A job. `text` is the transcript of a completed one, `error` says why it failed."""

    job: str
    status: JobState
    percent: float
    eta_seconds: float | None = None
    queue_position: int = 0
    text: str | None = None
    error: str | None = None


class Tools:
    """The tools, for a server at `url`; files are read below `files` only, None for none."""

    def __init__(self, url: str, *, api_key: str | None, files: Path | None) -> None:
        self._url = url
        self._api_key = api_key
        self._files = None if files is None else files.resolve()

    async def transcribe(
        self,
        source: Annotated[str, Field(description="Path of a recording, or its http(s) URL.")],
        ctx: Context[Any, Any],
        language: Annotated[
            str | None, Field(description="Language, such as en; without it, it is detected.")
        ] = None,
        diarize: Annotated[bool, Field(description="Whether to tell speakers apart.")] = False,
        prompt: Annotated[
            str | None, Field(description="Names and terms that occur, for their spelling.")
        ] = None,
        model: Annotated[str | None, Field(description="Model, if not the default.")] = None,
        wait_seconds: Wait = 45.0,
    ) -> JobView:
        """Transcribe a recording: a file, or a URL that the server fetches."""
        fields = {"language": language, "prompt": prompt, "model": model}
        form = {name: value for name, value in fields.items() if value is not None}
        form |= {"async": "true", "diarize": str(diarize).lower()}
        async with self._connected(ctx) as server:
            if source.startswith(("http://", "https://")):
                form["audio_url"] = source
                answer = await server.send("POST", TRANSCRIPTIONS, data=form)
            else:
                with self._path(source).open("rb") as content:
                    files = {"file": (Path(source).name, content)}
                    answer = await server.send("POST", TRANSCRIPTIONS, data=form, files=files)
            return await _follow(server, str(answer.json()["request_id"]), wait_seconds, ctx)

    async def follow(
        self, job: JobId, ctx: Context[Any, Any], wait_seconds: Wait = 45.0
    ) -> JobView:
        """Wait until a job has ended, or for `wait_seconds`; return its status."""
        async with self._connected(ctx) as server:
            return await _follow(server, job, wait_seconds, ctx)

    async def fetch(
        self, job: JobId, ctx: Context[Any, Any], response_format: OutputFormat = "text"
    ) -> str:
        """Return the transcript of a completed job in a format."""
        async with self._connected(ctx) as server:
            params = {"response_format": response_format}
            return (await server.send("GET", f"{_path(job)}/result", params=params)).text

    @asynccontextmanager
    async def _connected(self, ctx: Context[Any, Any]) -> AsyncIterator[RemoteServer]:
        """Connect with the key of the MCP client, which sends one over HTTP only."""
        sent = (ctx.headers or {}).get("authorization", "")
        key = sent.partition(" ")[2] or self._api_key
        try:
            async with connect(self._url, key) as server:
                yield server
        except ServerError as error:
            raise ToolError(str(error)) from error

    def _path(self, source: str) -> Path:
        """The file of a path.

        Raises:
            ToolError: it may not be read, or is not a file.
        """
        if self._files is None:
            raise ToolError("files are not read here: give the recording's http(s) URL as source")
        path = (self._files / Path(source).expanduser()).resolve()
        if not path.is_relative_to(self._files):
            raise ToolError(f"only files below {self._files} are read: give one of them, or a URL")
        if not path.is_file():
            raise ToolError(f"{source} is not a file: give the path of a recording, or a URL")
        return path


async def _follow(
    server: RemoteServer, job: str, seconds: float, ctx: Context[Any, Any]
) -> JobView:
    """Wait for the end of a job and report its progress meanwhile."""
    try:
        async with (
            asyncio.timeout(seconds),
            aclosing(server.events(f"{_path(job)}/events")) as events,
        ):
            async for event in events:
                await ctx.report_progress(event["percent"], 100.0, event["status"])
    except TimeoutError:
        pass
    status = (await server.send("GET", f"{_path(job)}/status")).json()
    view = JobView(
        job=job,
        status=status["status"],
        percent=status["percent"],
        eta_seconds=status["eta_seconds"],
        queue_position=status["queue_position"],
        error=status["error"] and status["error"]["message"],
    )
    if view.status == "completed":
        params = {"response_format": "text"}
        view.text = (await server.send("GET", f"{_path(job)}/result", params=params)).text
    return view


def _path(job: str) -> str:
    return f"{TRANSCRIPTIONS}/{quote(job, safe='')}"


def build_server(url: str, *, api_key: str | None, files: Path | None) -> MCPServer[Any]:
    """Build the MCP server for an API server at `url`."""
    server: MCPServer[Any] = MCPServer(
        "whisperx-api-server", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    tools = Tools(url, api_key=api_key, files=files)
    for tool in (tools.transcribe, tools.follow, tools.fetch):
        server.add_tool(tool)
    return server
