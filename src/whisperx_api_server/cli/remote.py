"""HTTP client of the command line: uploads recordings as jobs and follows their events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from .console import Report
from .form_fields import FormFields, Transcribe, TranscriptionFailure, Value
from .server_url import LOOPBACK, invalid_url, server_root, unreachable

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"

CONNECT_TIMEOUT = 10.0  # s; an answer may take as long as the recording needs
RETRY_AFTER = 5.0  # s, where a busy server names no time
RECONNECTS = 5
"""Maximum number of consecutive reconnects to a job's events."""


class ServerError(Exception):
    """The server cannot be reached, or answered with an error; the message is one line.

    `retry_after` is in seconds where another try may succeed.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RemoteServer:
    """Calls the API, and transcribes recordings as jobs; raises `ServerError`."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url

    async def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request and return its answer.

        Raises:
            ServerError: the server is unreachable, or answers with an error.
        """
        try:
            response = await self._client.request(method, path, **content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        _check(response)
        return response

    async def events(self, path: str) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the JSON objects of server-sent events until the stream ends.

        Raises:
            ServerError: as for `send`.
        """
        try:
            async with self._client.stream("GET", path) as response:
                if response.is_error:
                    await response.aread()
                    _check(response)
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield json.loads(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def transcribe(self, file: Path, fields: FormFields, report: Report) -> str:
        """Transcribe a file and return the rendered transcript; waits while the queue is full.

        Raises:
            TranscriptionFailure: one line that says why not.
        """
        while True:
            try:
                return await self._transcribe(file, fields, report)
            except ServerError as error:
                if error.retry_after is None:
                    raise TranscriptionFailure(str(error)) from error
                report(0.0, "the server is full; waiting", error.retry_after)
                await asyncio.sleep(error.retry_after)

    async def _transcribe(self, file: Path, fields: FormFields, report: Report) -> str:
        report(0.0, "sending", 0)
        path = TRANSCRIPTIONS if fields.task == "transcribe" else TRANSLATIONS
        with file.open("rb") as content:
            response = await self.send(
                "POST", path, files={"file": (file.name, content)}, data=_form(fields)
            )
        if response.status_code != httpx.codes.ACCEPTED:
            return response.text
        job = f"{TRANSCRIPTIONS}/{response.json()['request_id']}"
        try:
            await self._follow(job, report)
            return (await self.send("GET", f"{job}/result")).text
        finally:
            # Cancels an unfinished job and deletes a finished one.
            await asyncio.shield(self._forget(job))

    async def _follow(self, job: str, report: Report) -> None:
        """Follow a job until it ends, reconnecting if the connection breaks."""
        broken = 0
        while True:
            try:
                async with aclosing(self.events(f"{job}/events")) as events:
                    async for event in events:
                        broken = 0
                        if _ended(event):
                            return
                        report(event["percent"] / 100, _detail(event), event["eta_seconds"])
            except ServerError as error:
                if broken >= RECONNECTS or error.__cause__ is None:
                    raise
            broken += 1
            await asyncio.sleep(broken)

    async def _forget(self, job: str) -> None:
        try:
            await self.send("DELETE", job)
        except ServerError:
            return  # the server deletes old jobs; the transcript has been fetched

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
            return ServerError(invalid_url(self._url))
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return ServerError(unreachable(self._url))
        return ServerError(
            f"the connection to {self._url} broke ({type(error).__name__}): try again"
        )


@asynccontextmanager
async def connect(url: str, api_key: str | None) -> AsyncIterator[RemoteServer]:
    """Connect to a server by its URL, with or without the `/v1` of OpenAI's clients."""
    url = server_root(url)
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),
        mounts=dict.fromkeys(
            f"all://[{host}]" if ":" in host else f"all://{host}" for host in LOOPBACK
        ),
    ) as client:
        yield RemoteServer(client, url)


@asynccontextmanager
async def remote_engine(url: str, api_key: str | None) -> AsyncIterator[Transcribe]:
    """Upload recordings to a server and follow them as jobs."""
    async with connect(url, api_key) as server:
        yield server.transcribe


def _form(fields: FormFields) -> dict[str, list[str]]:
    """The fields as httpx needs them; a job is not aligned if its format needs no word times."""
    sent = {name: _sent(value) for name, value in fields.values.items()}
    if fields.task == "transcribe":
        sent["async"] = ["true"]
        if sent["response_format"][0] in ("json", "text") and "diarize" not in sent:
            sent.setdefault("align", ["false"])  # a job would be ready for other formats too
    return sent


def _sent(value: Value) -> list[str]:
    """Format a value for a form."""
    if isinstance(value, bool):
        return [str(value).lower()]
    return value if isinstance(value, list) else [str(value)]


def _detail(event: Mapping[str, Any]) -> str:
    if event["queue_position"]:
        return f"{event['queue_position']} before it in the queue"
    stages = event["stages"]
    return str(stages[-1]["name"]) if stages else "queued"


def _ended(event: Mapping[str, Any]) -> bool:
    """Whether the job has completed.

    Raises:
        ServerError: it failed, or was cancelled.
    """
    if event["status"] == "failed":
        error = event["error"]
        full = error["code"] == "overloaded"
        raise ServerError(error["message"], retry_after=RETRY_AFTER if full else None)
    if event["status"] == "cancelled":
        raise ServerError("the job was cancelled on the server")
    return bool(event["status"] == "completed")


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status_code} {response.reason_phrase}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message = f"{message}: give the server's key with --api-key or API_KEY"
    wait = response.headers.get("retry-after", "")
    full = response.status_code == httpx.codes.TOO_MANY_REQUESTS
    raise ServerError(
        message, retry_after=(float(wait) if wait.isdecimal() else RETRY_AFTER) if full else None
    )
