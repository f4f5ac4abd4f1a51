"""Client of live sessions: sends audio as fast as it is spoken, and shows what is certain."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from ..audio.decode import AudioDecoder
from ..domain import SAMPLE_RATE
from ..errors import ServiceError
from .server_url import LOOPBACK, invalid_url, server_root, unreachable

PIECE = 0.1
"""Seconds of audio in a message."""

LONGEST = 24 * 3600.0
"""Maximum length of a recording in seconds."""


class LiveError(Exception):
    """The session cannot begin or go on; the message is one line."""


async def play(
    file: Path | None,
    *,
    url: str,
    api_key: str | None,
    rate: int,
    transcription: Mapping[str, object],
    show: Callable[[str], None],
    warn: Callable[[str], None],
) -> bool:
    """Play a file, or raw PCM from standard input; whether every turn got its transcript.

    Raises:
        LiveError: the file does not exist, the server cannot be reached, or it ended the session.
    """
    if file is not None and not await asyncio.to_thread(file.is_file):
        raise LiveError(f"{file}: the file does not exist")
    async with _audio(file, rate) as (pieces, sent_rate), _connected(url, api_key) as socket:
        session = {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": sent_rate},
                    "transcription": dict(transcription),
                }
            },
        }
        await _send(socket, "session.update", session=session)
        turns = _Turns(show, warn)
        speaking = asyncio.create_task(_speak(socket, pieces, sent_rate))
        try:
            async for message in socket:
                turns.take(json.loads(message))
                if turns.ended:
                    break
            else:
                raise LiveError("the server ended the session: try again")
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd is not None else ""
            raise LiveError(f"the server ended the session: {reason or 'try again'}") from error
        finally:
            speaking.cancel()
    return turns.complete


class _Turns:
    """The turns of a session, shown one a line."""

    def __init__(self, show: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.complete = True
        self._show = show
        self._warn = warn
        self._open = 0
        self._updates = 0

    @property
    def ended(self) -> bool:
        """Whether the last commit was processed, and all items are answered."""
        return self._updates == 2 and not self._open

    def take(self, event: Mapping[str, Any]) -> None:
        """Show an event.

        Raises:
            LiveError: the server refused the session or its audio.
        """
        kind = event["type"].rpartition(".")[2]
        if kind == "updated":
            self._updates += 1
        elif kind == "committed":
            self._open += 1
        elif kind == "delta":
            self._show(event["delta"])
        elif kind == "completed":
            self._open -= 1
            self._show("\n" if event["transcript"] else "")
        elif kind == "failed":
            self._open -= 1
            self.complete = False
            self._warn(event["error"]["message"])
        elif kind == "error" and event["error"]["event_id"] != _LAST:
            raise LiveError(event["error"]["message"])


_LAST = "last"
"""The id of the commit after all audio, which gets an error if there is nothing to commit."""


async def _speak(socket: ClientConnection, pieces: AsyncIterator[bytes], rate: int) -> None:
    """Send the audio, never ahead of the clock, and commit what is left at its end.

    Events are answered in order: the update after the commit tells when it was processed.
    """
    begun, sent = time.monotonic(), 0
    async for piece in pieces:
        sent += len(piece) // 2
        await asyncio.sleep(begun + sent / rate - time.monotonic())
        audio = base64.b64encode(piece).decode()
        await _send(socket, "input_audio_buffer.append", audio=audio)
    await _send(socket, "input_audio_buffer.commit", event_id=_LAST)
    await _send(socket, "session.update", session={})


async def _send(socket: ClientConnection, name: str, **fields: object) -> None:
    await socket.send(json.dumps({"type": name, **fields}))


@asynccontextmanager
async def _audio(file: Path | None, rate: int) -> AsyncIterator[tuple[AsyncIterator[bytes], int]]:
    """Pieces of 16-bit PCM, and their sample rate."""
    if file is None:
        yield _standard_input(round(PIECE * rate) * 2), rate
        return
    with tempfile.TemporaryDirectory(prefix="whisperx-api-server-") as directory:
        decoder = AudioDecoder(max_seconds=LONGEST, timeout=LONGEST, workdir=Path(directory))
        try:
            async with decoder.open(file) as clip:
                yield _pieces(clip.samples), SAMPLE_RATE
        except ServiceError as error:
            raise LiveError(f"{file}: {error.message}") from error


async def _pieces(samples: np.ndarray[Any, np.dtype[np.float32]]) -> AsyncIterator[bytes]:
    size = round(PIECE * SAMPLE_RATE)
    for first in range(0, len(samples), size):
        yield (samples[first : first + size] * 32767).astype("<i2").tobytes()


async def _standard_input(size: int) -> AsyncIterator[bytes]:
    """Standard input in pieces of whole samples."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        while piece := await asyncio.to_thread(sys.stdin.buffer.read, size):
            yield piece[: len(piece) // 2 * 2]
        return
    # A thread that waits for a silent pipe would keep the command from ending.
    pipe = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(pipe)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin.buffer)
    while not pipe.at_eof():
        try:
            yield await pipe.readexactly(size)
        except asyncio.IncompleteReadError as last:
            yield last.partial[: len(last.partial) // 2 * 2]


@asynccontextmanager
async def _connected(url: str, api_key: str | None) -> AsyncIterator[ClientConnection]:
    address = server_root(url)
    proxy: Literal[True] | None = None if urlsplit(address).hostname in LOOPBACK else True
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        socket = await connect(
            f"{address.replace('http', 'ws', 1)}/v1/realtime?intent=transcription",
            additional_headers=headers,
            proxy=proxy,
        )
    except InvalidStatus as error:
        raise LiveError(_refusal(error)) from error
    except InvalidURI as error:
        raise LiveError(invalid_url(url)) from error
    except (OSError, InvalidHandshake, TimeoutError) as error:
        raise LiveError(unreachable(url)) from error
    async with socket:
        yield socket


def _refusal(error: InvalidStatus) -> str:
    """What the server said instead of beginning a session."""
    try:
        return str(json.loads(error.response.body or b"")["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.response.status_code}: it has no live transcription"
