"""A live session with a running server, whose every event is checked against the SDK's types."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import soxr
from openai.types.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.sync.client import ClientConnection, connect

from server import Server
from support import PATIENCE
from whisperx_api_server.domain import Samples

PATH = "/v1/realtime?intent=transcription"

_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)

SPEECH = {"turn_detection": {"type": "server_vad", "threshold": 0.05}}
"""How turns are found in the tones of the fake backend, whose threshold is a loudness."""

MANUAL = {"turn_detection": None}


def pcm(samples: Samples) -> bytes:
    """16-bit PCM."""
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def pcm_24k(samples: Samples) -> bytes:
    """16 kHz samples as 16-bit PCM of 24 kHz, as OpenAI's clients send it."""
    return pcm(soxr.resample(samples, 16_000, 24_000))


def transcription(**audio: Any) -> dict[str, Any]:
    """A session with this `audio.input`."""
    return {"type": "transcription", "audio": {"input": audio}}


class Live:
    """One session, in which samples are sent at 16 kHz."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.created = self.next("session.created")

    def configure(self, **audio: Any) -> dict[str, Any]:
        """Change `audio.input`; the session as it is then."""
        self.send("session.update", session=transcription(**audio))
        session: dict[str, Any] = self.next("session.updated")["session"]
        return session

    def listen(self, **audio: Any) -> None:
        """Take samples at 16 kHz."""
        self.configure(format={"type": "audio/pcm", "rate": 16_000}, **audio)

    def send(self, name: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": name, **fields}))

    def say(self, samples: Samples) -> None:
        audio = base64.b64encode(pcm(samples)).decode()
        self.send("input_audio_buffer.append", audio=audio)

    def receive(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """The next event."""
        event: dict[str, Any] = json.loads(self.socket.recv(timeout))
        rate = event.get("session", {}).get("audio", {}).get("input", {}).get("format", {})
        if rate.get("rate", 24_000) != 24_000:  # which OpenAI does not have
            return event
        if event["type"] == "transcription_session.updated":
            return event
        _EVENT.validate_python(event)
        return event

    def until(self, name: str) -> list[dict[str, Any]]:
        """The events up to one of that type, whose name may be only the end of its type."""
        events = [self.receive()]
        while not events[-1]["type"].endswith(name):
            events.append(self.receive())
        return events

    def next(self, name: str) -> dict[str, Any]:
        """The next event, of which the type is known."""
        event = self.receive()
        assert event["type"].endswith(name), event
        return event

    def error(self) -> dict[str, Any]:
        """The next event's error."""
        error: dict[str, Any] = self.next("error")["error"]
        return error


def names(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, without the part that they share."""
    return [
        event["type"]
        .removeprefix("input_audio_buffer.")
        .removeprefix("conversation.item.")
        .removeprefix("input_audio_transcription.")
        for event in events
    ]


def spoken(events: list[dict[str, Any]]) -> str:
    """The text of the deltas, after a check that they are what `completed` says."""
    text = "".join(event.get("delta", "") for event in events)
    *_, completed = (event for event in events if event["type"].endswith(".completed"))
    item = completed["item_id"]
    assert completed["transcript"] == "".join(
        event["delta"]
        for event in events
        if event["type"].endswith(".delta") and event["item_id"] == item
    )
    return text


@contextmanager
def live(
    server: Server,
    path: str = PATH,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: list[str] | None = None,
) -> Iterator[Live]:
    """A session, closed at the end."""
    url = server.url.replace("http", "ws") + path
    with connect(
        url,
        additional_headers=headers,
        subprotocols=subprotocols,  # type: ignore[arg-type]
        proxy=None,
        max_size=None,
        max_queue=None,
    ) as socket:
        assert isinstance(socket, ClientConnection)
        yield Live(socket)
