"""Watching a server while it works."""

from __future__ import annotations

import asyncio
import http.client
import json
import uuid
from collections.abc import Callable
from typing import Any

from server import Server
from support import PATIENCE

PATH = "/v1/audio/transcriptions"


async def until(holds: Callable[[], bool]) -> None:
    """`eventually`, for what happens on the same event loop."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to set
            await asyncio.sleep(0.001)


def is_idle(server: Server) -> bool:
    """Whether nothing is under way, waits, or lies on disk."""
    info = server.info()
    queue = info["queue"]
    lanes = queue["lanes"]
    return (
        queue["requests"] == 0
        and queue["seconds"] == 0
        and all(member["runs"] == 0 for member in info["members"])
        and all(lane["requests"] == lane["waiting"] == lane["in_flight"] == 0 for lane in lanes)
        and server.temp_files() == []
    )


def is_computing(server: Server) -> bool:
    """Whether windows wait for the transcriber, or a worker of MODE=kafka says that it has runs."""
    info = server.info()
    return any(lane["waiting"] for lane in info["queue"]["lanes"]) or any(
        member["runs"] for member in info["members"]
    )


class Client:
    """Sends a request and can hang up."""

    def __init__(self, server: Server, audio: bytes, **fields: str) -> None:
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        head = (
            "".join(parts) + f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
            'filename="a.wav"\r\n\r\n'
        )
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self._connection.request(
            "POST",
            PATH,
            head.encode() + audio + f"\r\n--{boundary}--\r\n".encode(),
            {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Authorization": server.http.headers.get("authorization", ""),
            },
        )

    def hang_up(self) -> None:
        self._connection.close()


class Events:
    """The events of a streamed transcription, read one at a time."""

    def __init__(self, server: Server, audio: bytes, **fields: Any) -> None:
        request = server.http.build_request(
            "POST", PATH, files={"file": ("a.wav", audio)}, data={"stream": "true", **fields}
        )
        self.response = server.http.send(request, stream=True)
        self._lines = self.response.iter_lines()

    def next(self) -> Any:
        """The next event, whose name is its type; "[DONE]" as it is."""
        lines = (line for line in self._lines if line and not line.startswith(":"))
        line = next(lines)
        if line == "data: [DONE]":
            return "[DONE]"
        name = line.removeprefix("event: ")
        event = json.loads(next(lines).removeprefix("data: "))
        assert name == event.get("type", "error")
        return event

    def rest(self) -> list[Any]:
        """All that is left, which ends with [DONE] and nothing after it."""
        events = []
        while (event := self.next()) != "[DONE]":
            events.append(event)
        assert [line for line in self._lines if line] == []
        return events

    def leave(self) -> None:
        self.response.close()


def deltas(events: list[Any]) -> str:
    """The text that the deltas among the events make up."""
    return "".join(each["delta"] for each in events if each["type"] == "transcript.text.delta")
