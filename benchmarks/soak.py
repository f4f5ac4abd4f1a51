"""`make soak`: ten minutes of mixed load, live too, with bad input and random hang-ups.

The server is a process of its own on the fixture models; everything stays on the loopback. No
request may be lost or answered wrongly, and in the end memory, temporary files and the queue must
be back where they began. `SOAK_SECONDS` (600) and `SOAK_SEED` (0) set length and dice.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .common import RATE, TESTS

sys.path.insert(0, str(TESTS))

from fixtures.speech.speech import Speech
from live import PATH
from realtime import MANUAL, pcm, transcription
from realtime import PATH as LIVE_PATH
from server import Server, real_settings
from support import ALIGNER, FIXTURES, WHISPER, eventually

CLIENTS = 8
WARM_UP = 0.2
"""The part of the time after which memory is looked at first: allocators have grown by then."""

GROWTH = 64e6
"""Bytes that the server may have grown by since: allocators keep some of what was freed."""

WORDS = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}

Recording = tuple[str, bytes]
"""File name and content."""


class Wrong(Exception):
    """An answer that is not the right one."""


@dataclass
class Tally:
    """What became of the requests, by kind."""

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    complaints: list[str] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(outcome["lost"] for outcome in self.outcomes.values())


def recordings() -> list[Recording]:
    """Short and long, in several formats and two languages."""
    speech = Speech(FIXTURES / "speech")
    speakers = list(speech.index)
    formats = ["WAV", "FLAC", "OGG", "MP3"]
    made = []
    for number, seconds in enumerate([1, 2, 4, 6, 8, 12, 30]):
        audio = speech.random(speakers[number % len(speakers)], seconds, seed=number).audio
        kind = formats[number % len(formats)]
        file = io.BytesIO()
        soundfile.write(file, np.clip(audio, -1, 1), RATE, format=kind)
        made.append((f"{seconds}.{kind.lower()}", file.getvalue()))
    return made


class Soak:
    """Clients that send whatever the dice say, and check each answer."""

    def __init__(self, http: httpx.AsyncClient, files: list[Recording], seed: int) -> None:
        self.tally = Tally()
        self._http = http
        self._files = files
        self._dice = random.Random(seed)
        self._texts: dict[str, str] = {}
        self._kinds: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (8, self.plain),
            (4, self.stream),
            (2, self.job),
            (3, self.hang_up),
            (2, self.leave_stream),
            (1, self.withdraw_job),
            (2, self.bad_input),
            (3, self.live),
        ]

    async def learn(self) -> None:
        """What each recording's transcript is when nobody else is there."""
        for name, content in self._files:
            answer = await self._post(name, content, **WORDS)
            self._texts[name] = answer.raise_for_status().json()["text"]

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(self._client(until) for _ in range(CLIENTS)))

    async def _client(self, until: float) -> None:
        weights = [weight for weight, _ in self._kinds]
        while time.monotonic() < until:
            [(_, act)] = self._dice.choices(self._kinds, weights)
            name = getattr(act, "__name__", "")
            begun = time.monotonic()
            try:
                outcome = await act()
            except (Wrong, httpx.HTTPError, WebSocketException, OSError) as error:
                outcome = "lost"
                self.tally.complaints.append(f"{name}: {error!r:.300}")
            self.tally.outcomes[name][outcome] += 1
            self.tally.seconds[name].append(time.monotonic() - begun)

    # -- what a client does -------------------------------------------------------------------

    async def plain(self) -> str:
        """One request in some format."""
        name, content = self._recording()
        kind = self._dice.choice(["json", "verbose_json", "text", "srt", "vtt"])
        fields = WORDS if kind == "verbose_json" else {"response_format": kind}
        answer = await self._post(name, content, **fields)
        self._expect(answer, 200)
        if kind == "text":
            self._same(name, answer.text)
        elif kind in ("json", "verbose_json"):
            self._same(name, answer.json()["text"])
        elif "-->" not in answer.text and self._texts[name].strip():
            raise Wrong(f"{name}: no cue in {answer.text!r}")
        return "right"

    async def stream(self) -> str:
        """A stream, read to its end."""
        name, content = self._recording()
        async with self._streaming(name, content) as answer:
            self._expect(answer, 200)
            lines = [line async for line in answer.aiter_lines() if line]
        if lines[-1] != "data: [DONE]":
            raise Wrong(f"{name}: the stream ends with {lines[-1]!r}")
        done = json.loads(lines[-2].removeprefix("data: "))
        self._same(name, done["text"])
        return "right"

    async def job(self) -> str:
        """A job, watched to its end, fetched and deleted."""
        name, content = self._recording()
        address = await self._submit(name, content)
        async with self._http.stream("GET", f"{address}/events") as events:
            async for _ in events.aiter_lines():
                pass  # they end with the job
        status = await self._http.get(f"{address}/status")
        if status.json()["status"] != "completed":
            raise Wrong(f"{name}: {status.text}")
        result = await self._http.get(f"{address}/result")
        self._expect(result, 200)
        self._same(name, result.json()["text"])
        self._expect(await self._http.delete(address), 200)
        return "right"

    async def hang_up(self) -> str:
        """A request whose client leaves at any moment, perhaps while it uploads."""
        sending = asyncio.create_task(self._post(*self._recording()))
        done, _ = await asyncio.wait([sending], timeout=self._dice.uniform(0, 1.5))
        if done:
            self._expect(sending.result(), 200)
            return "right"
        sending.cancel()
        await asyncio.wait([sending])
        return "left"

    async def leave_stream(self) -> str:
        """A stream that nobody reads to its end."""
        async with self._streaming(*self._recording()) as answer:
            self._expect(answer, 200)
            async for _ in answer.aiter_lines():
                return "left"
        raise Wrong("a stream without a line")

    async def withdraw_job(self) -> str:
        """A job that is withdrawn at any moment."""
        address = await self._submit(*self._recording())
        await asyncio.sleep(self._dice.uniform(0, 1))
        while (answer := await self._http.delete(address)).status_code == 200:
            pass  # the first withdraws it, the next deletes its record
        self._expect(answer, 404)
        return "left"

    async def bad_input(self) -> str:
        """What is refused: no audio, half a file, impossible fields."""
        name, content = self._recording()
        noise = self._dice.randbytes(5000)
        wrong: list[tuple[bytes, dict[str, str]]] = [
            (noise, {}),
            (b"", {}),
            (content[:20], {}),
            (content, {"temperature": "hot"}),
            (content, {"language": "klingon"}),
            (content, {"response_format": "pdf"}),
            (content, {"model": "../../etc/passwd"}),
        ]
        content, fields = self._dice.choice(wrong)
        answer = await self._post(name, content, **fields)
        if not 400 <= answer.status_code < 500 or "message" not in answer.json()["error"]:
            raise Wrong(f"{fields} {answer.status_code}: {answer.text}")
        return "refused"

    async def live(self) -> str:
        """A live session, answered or cut at any moment; its deltas joined are its transcript."""
        _, content = self._recording()
        seconds = self._dice.choice([None, self._dice.uniform(0, 1.5)])
        samples, _ = soundfile.read(io.BytesIO(content), dtype="float32")
        url = f"{self._http.base_url}".replace("http", "ws", 1).rstrip("/") + LIVE_PATH
        async with connect(url, proxy=None) as socket:
            try:
                async with asyncio.timeout(seconds):
                    await self._speak(socket, pcm(samples))
            except TimeoutError:
                if seconds is None:
                    raise
                socket.transport.abort()
                return "left"
        return "right"

    # -- how ----------------------------------------------------------------------------------

    def _recording(self) -> Recording:
        name, content = self._dice.choice(self._files)
        if name.endswith("wav"):
            # Bytes behind the audio: the same sound, but no other request's upload.
            content += self._dice.randbytes(16)
        return name, content

    async def _speak(self, socket: ClientConnection, content: bytes) -> None:
        """Say all of it, faster than time, and wait for the transcript."""

        async def send(kind: str, **fields: Any) -> None:
            await socket.send(json.dumps({"type": kind, **fields}))

        audio_format = {"type": "audio/pcm", "rate": RATE}
        await send("session.update", session=transcription(format=audio_format, **MANUAL))
        for first in range(0, len(content), RATE // 5):  # 0.1 s of 16-bit samples
            audio = base64.b64encode(content[first : first + RATE // 5]).decode()
            await send("input_audio_buffer.append", audio=audio)
        await send("input_audio_buffer.commit")
        heard = ""
        async for message in socket:
            event = json.loads(message)
            heard += event.get("delta", "")
            if event["type"].endswith(".completed"):
                if heard != event["transcript"]:
                    raise Wrong(f"{heard!r} was sent, the transcript is {event['transcript']!r}")
                return
            if event["type"] == "error" or event["type"].endswith(".failed"):
                raise Wrong(str(event["error"]))
        raise Wrong("the server ended a live session")

    async def _post(self, name: str, content: bytes, **fields: str) -> httpx.Response:
        return await self._http.post(PATH, files={"file": (name, content)}, data=fields)

    def _streaming(self, name: str, content: bytes) -> Any:
        return self._http.stream(
            "POST", PATH, files={"file": (name, content)}, data={"stream": "true"}
        )

    async def _submit(self, name: str, content: bytes) -> str:
        answer = await self._post(name, content, **{"async": "true"})
        self._expect(answer, 202)
        return f"{PATH}/{answer.json()['request_id']}"

    def _expect(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code != status:
            text = answer.text if answer.is_closed else ""
            raise Wrong(f"{answer.status_code} instead of {status}: {text}")

    def _same(self, name: str, text: str) -> None:
        if text.strip() != self._texts[name].strip():
            raise Wrong(f"{name}: {text!r} instead of {self._texts[name]!r}")


def settle(server: Server, known: list[Path], tally: Tally) -> None:
    """Wait until nothing is under way, waits or lies on disk; what then still is has been lost."""

    def left() -> list[object]:
        queue = server.info()["queue"]
        busy = [
            lane
            for lane in queue["lanes"]
            if lane["requests"] or lane["waiting"] or lane["in_flight"]
        ]
        files = [path for path in server.temp_files() if path not in known]
        return [*busy, *files, *([queue] if queue["requests"] or queue["seconds"] else [])]

    try:
        eventually(lambda: not left(), seconds=60)
    except AssertionError:
        tally.complaints.insert(0, f"still there: {left()}")
        tally.outcomes["idle"]["lost"] += 1
        tally.seconds["idle"].append(60)


def memory(server: Server) -> int:
    """The server's own memory in bytes, files that it maps aside."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


async def load(server: Server, seconds: float, seed: int) -> tuple[Tally, int]:
    """The tally, and the memory when the first part of the time was over and all was idle."""
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(
        base_url=server.url, timeout=120, limits=limits, trust_env=False
    ) as http:
        soak = Soak(http, recordings(), seed)
        await soak.learn()
        known = server.temp_files()  # the vendors' own
        await soak.run(WARM_UP * seconds)
        await asyncio.to_thread(settle, server, known, soak.tally)
        warm = memory(server)
        await soak.run((1 - WARM_UP) * seconds)
        await asyncio.to_thread(settle, server, known, soak.tally)
    return soak.tally, warm


def report(tally: Tally, warm: int, end: int) -> None:
    columns = "{:14} {:>6} {:>6} {:>6} {:>8} {:>6} {:>8} {:>8}"
    print(columns.format("", "sent", "right", "left", "refused", "lost", "p50 s", "p95 s"))
    for name, outcome in sorted(tally.outcomes.items()):
        p50, p95 = np.percentile(tally.seconds[name], [50, 95])
        counts = [outcome[kind] for kind in ("right", "left", "refused", "lost")]
        print(columns.format(name, outcome.total(), *counts, f"{p50:.2f}", f"{p95:.2f}"))
    print(f"memory: {warm / 1e6:.0f} MB when warm, {end / 1e6:.0f} MB at the end")
    for complaint in tally.complaints[:20]:
        print(complaint)


def main() -> int:
    seconds = float(os.environ.get("SOAK_SECONDS", "600"))
    settings = real_settings(WHISPER, ALIGNER)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        with Server(Path(directory), settings) as server:
            tally, warm = asyncio.run(load(server, seconds, int(os.environ.get("SOAK_SEED", "0"))))
            end = memory(server)
        report(tally, warm, end)
        failures = [
            f"{tally.lost} request(s) lost" if tally.lost else "",
            f"memory grew by {(end - warm) / 1e6:.0f} MB" if end - warm > GROWTH else "",
            "the server met what it did not expect" if "unexpected failure" in server.log else "",
            "Python complained" if "never retrieved" in server.log else "",
            f"files are left: {server.temp_files()}" if server.temp_files() else "",
        ]
    failures = [failure for failure in failures if failure]
    print("\n".join(failures) if failures else "nothing was lost, nothing is left")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
