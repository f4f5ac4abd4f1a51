"""Live sessions over the running server, mostly on the fake backend: protocol, turns, bad input."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.realtime import ClientSecretCreateResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cli_support import run
from live import is_idle
from real_speech import OPENING
from realtime import MANUAL, PATH, SPEECH, Live, live, names, pcm, pcm_24k, spoken, transcription
from server import FAKE, REPOSITORY, Server, serving
from support import PATIENCE, eventually, wav, word_errors
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.domain import Samples

PAUSE = silence(1)


def test_groq_s_base_path_has_live_sessions_too(fake_server: Server) -> None:
    with live(fake_server, f"/openai{PATH}") as session:
        session.listen(**MANUAL)
        session.say(say("red house"))
        session.send("input_audio_buffer.commit")
        assert spoken(session.until(".completed")) == "red house."


def test_the_official_client_hears_a_recording(base_server: Server, opening: Samples) -> None:
    client = base_server.openai()
    content = pcm_24k(np.concatenate([opening, PAUSE]))

    with client.realtime.connect(extra_query={"intent": "transcription"}) as session:
        session.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"turn_detection": {"type": "server_vad"}}},
            }
        )
        for first in range(0, len(content), 4800):
            audio = base64.b64encode(content[first : first + 4800]).decode()
            session.input_audio_buffer.append(audio=audio)
        deltas = transcript = ""
        for event in session:
            assert event.type != "error", event
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas += event.delta or ""
            elif event.type == "conversation.item.input_audio_transcription.completed":
                transcript = event.transcript
                break
    client.close()

    assert deltas == transcript
    wrong, words = word_errors(OPENING, deltas)
    assert wrong <= 0.1 * words, deltas


def test_a_turn_has_its_events_in_order(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.listen(**SPEECH)
        session.say(np.concatenate([silence(0.5), say("red house"), PAUSE]))
        first = session.until(".completed")
        session.say(np.concatenate([say("blue door"), PAUSE]))
        second = session.until(".completed")

    assert [each for each in names(first) if each != "delta"] == [
        *("speech_started", "speech_stopped", "committed", "added", "completed")
    ]
    assert (spoken(first), spoken(second)) == ("red house.", "blue door.")
    started, stopped, committed = (
        next(each for each in first if each["type"].endswith(name))
        for name in (".speech_started", ".speech_stopped", ".committed")
    )
    assert started["audio_start_ms"] == pytest.approx(200, abs=40)  # 500 less the padding
    assert stopped["audio_end_ms"] == pytest.approx(1300, abs=40)
    assert first[-1]["usage"] == {"type": "duration", "seconds": pytest.approx(1.1, abs=0.1)}
    assert first[-1]["languages"] == [{"code": "en"}]
    assert first[-1]["logprobs"] is None
    assert committed["previous_item_id"] is None
    previous = next(each for each in second if each["type"].endswith(".committed"))
    assert previous["previous_item_id"] == started["item_id"] != previous["item_id"]


def test_words_come_while_the_turn_goes_on(fake_server: Server) -> None:
    words = [*("red", "house", "door", "blue", "tree", "water", "bread", "night")]

    with live(fake_server) as session:
        session.listen(**SPEECH)
        heard: list[dict[str, Any]] = []
        sent = []
        for word in words * 20:
            session.say(say(word))
            sent.append(word)
            try:
                heard.append(session.receive(timeout=0.05))
            except TimeoutError:
                continue
            if heard[-1]["type"].endswith(".delta"):
                break
        if not heard or not heard[-1]["type"].endswith(".delta"):
            heard += session.until(".delta")
        assert names(heard) == ["speech_started", "delta"]
        assert " ".join(sent).startswith(heard[-1]["delta"])
        session.say(PAUSE)
        rest = session.until(".completed")

    assert spoken([*heard, *rest]) == " ".join(sent) + "."


def test_a_client_that_commits_gets_one_item_for_each_commit(fake_server: Server) -> None:
    """Also where a pause divides what is said into windows."""
    with live(fake_server) as session:
        session.listen(**MANUAL)
        session.say(np.concatenate([say("red house"), silence(4), say("blue door"), silence(0.2)]))
        session.send("input_audio_buffer.commit")
        first = session.until(".completed")
        session.say(say("tree water"))
        session.send("input_audio_buffer.commit")
        second = session.until(".completed")

    assert spoken(first) == "red house. blue door."
    assert spoken(second) == "tree water."
    assert [each for each in names(first) if each != "delta"] == ["committed", "added", "completed"]
    assert len({event["item_id"] for event in first if "item_id" in event}) == 1


def test_cleared_audio_is_not_transcribed(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.listen(**MANUAL)
        session.say(say("red house"))
        session.send("input_audio_buffer.clear")
        session.until("input_audio_buffer.cleared")
        session.send("input_audio_buffer.commit", event_id="empty")
        error = session.error()
        session.say(say("blue door"))
        session.send("input_audio_buffer.commit")
        events = session.until(".completed")

    assert error["code"] == "input_audio_buffer_commit_empty"
    assert error["event_id"] == "empty"
    assert spoken(events) == "blue door."


def test_a_commit_of_silence_is_an_empty_transcript(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.listen(**MANUAL)
        session.say(silence(2))
        session.send("input_audio_buffer.commit")
        events = session.until(".completed")

    assert events[-1]["transcript"] == ""
    assert events[-1]["languages"] == []


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma", "audio/pcm"])
def test_telephone_audio_is_heard(fake_server: Server, kind: str) -> None:
    said = np.concatenate([say("red house"), PAUSE])
    narrow = said[::2]  # the tones are below 4 kHz
    content = pcm(narrow) if kind == "audio/pcm" else g711(narrow, kind)
    audio_format = {"type": kind} | ({"rate": 8000} if kind == "audio/pcm" else {})

    with live(fake_server) as session:
        session.configure(format=audio_format, **SPEECH)
        session.send("input_audio_buffer.append", audio=base64.b64encode(content).decode())
        assert spoken(session.until(".completed")) == "red house."


def g711(samples: Samples, kind: str) -> bytes:
    """Samples in G.711, by a search for the nearest of the 256 values."""
    from whisperx_api_server.live.audio import AudioReader
    from whisperx_api_server.live.messages import ALawFormat, MuLawFormat

    reader = AudioReader(
        MuLawFormat(type="audio/pcmu") if kind == "audio/pcmu" else ALawFormat(type="audio/pcma")
    )
    values = reader.values
    assert values is not None
    order = np.argsort(values, kind="stable")
    places = np.searchsorted(values[order], samples).clip(0, 255)
    codes: bytes = order[places].astype(np.uint8).tobytes()
    return codes


def test_the_fields_of_a_transcription_are_honoured(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.send(
            "session.update",
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 16_000},
                        "transcription": {"language": "fr-FR", "keywords": ["Rouge"]},
                        **SPEECH,
                    }
                },
                "include": ["item.input_audio_transcription.logprobs"],
            },
        )
        updated = session.next("session.updated")["session"]
        session.say(np.concatenate([say("red house"), PAUSE]))
        completed = session.until(".completed")[-1]

    assert updated["audio"]["input"]["transcription"]["language"] == "fr-FR"
    assert completed["transcript"] == "Rouge maison."
    assert [each["token"] for each in completed["logprobs"]] == [" Rouge", " maison."]
    assert completed["languages"] == [{"code": "fr"}]


def test_an_update_keeps_what_it_does_not_name(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.configure(transcription={"language": "de", "prompt": "Rot."}, **MANUAL)
        again = session.configure(transcription={"language": None})["audio"]["input"]

    assert again["transcription"]["prompt"] == "Rot."
    assert again["transcription"]["language"] is None
    assert again["turn_detection"] is None


def test_two_updates_within_a_turn_hold_from_the_next_turn_on(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.listen(transcription={"language": "en"}, **SPEECH)
        session.say(say("red house"))
        session.until(".speech_started")
        for language in ("fr", "de"):
            session.send(
                "session.update",
                session={
                    "type": "transcription",
                    "audio": {"input": {"transcription": {"language": language}}},
                },
            )
        session.say(PAUSE)
        first = session.until(".completed")
        session.say(np.concatenate([say("red house"), PAUSE]))
        second = session.until(".completed")

    assert first[-1]["transcript"] == "red house."
    assert second[-1]["transcript"] == "rot haus."


def test_the_names_of_the_beta_api_mean_the_same(fake_server: Server) -> None:
    with live(fake_server, headers={"OpenAI-Beta": "realtime=v1"}) as session:
        session.send(
            "transcription_session.update",
            session={
                "input_audio_format": "g711_ulaw",
                "input_audio_transcription": {"model": "whisper-1", "language": "fr"},
                "turn_detection": SPEECH["turn_detection"],
            },
        )
        session.next("transcription_session.updated")
        said = np.concatenate([say("red house"), PAUSE])[::2]
        audio = base64.b64encode(g711(said, "audio/pcmu")).decode()
        session.send("input_audio_buffer.append", audio=audio)
        events = session.until(".completed")

    assert spoken(events) == "rouge maison."
    assert "created" in names(events)


def test_models_without_turn_detection_wait_for_commits(fake_server: Server) -> None:
    with live(fake_server, f"{PATH}&model=gpt-realtime-whisper") as session:
        assert session.created["session"]["audio"]["input"]["turn_detection"] is None
        updated = session.configure(transcription={"model": "gpt-4o-transcribe"}, **SPEECH)
        assert updated["audio"]["input"]["turn_detection"]["threshold"] == 0.05
        updated = session.configure(transcription={"model": "gpt-live-transcribe"})
        assert updated["audio"]["input"]["turn_detection"] is None


def update(**audio: Any) -> dict[str, Any]:
    session = {"type": "transcription", "audio": {"input": audio}}
    return {"type": "session.update", "session": session}


def append(audio: str) -> dict[str, Any]:
    return {"type": "input_audio_buffer.append", "audio": audio}


BAD: dict[str, tuple[object, str]] = {
    "not JSON": ("{", "not valid JSON"),
    "not an object": ("[1]", "not a JSON object"),
    "nested": ("[" * 100_000, "not valid JSON"),
    "no type": ({}, "has no type"),
    "an unknown event": ({"type": "response.create"}, "no event 'response.create'"),
    "a type that is a number": ({"type": 7}, "no event '7'"),
    "no audio": ({"type": "input_audio_buffer.append"}, "audio: Field required"),
    "bad base64": (append("%%%"), "not valid base64"),
    "half a sample": (append(base64.b64encode(b"\0\0\0").decode()), "odd number of bytes (3)"),
    "a wrong rate": (update(format={"type": "audio/pcm", "rate": 44_100}), "8000"),
    "an unknown format": (update(format={"type": "audio/opus"}), "audio/pcm"),
    "a model that does not exist": (update(transcription={"model": "x/y"}), "no model 'x/y'"),
    "a language that does not exist": (
        update(transcription={"language": "klingon"}),
        "not a known language",
    ),
    "two kinds of language": (
        update(transcription={"language": "en", "languages": ["de"]}),
        "not both",
    ),
    "semantic turns": (update(turn_detection={"type": "semantic_vad"}), "server_vad"),
    "a threshold of 2": (update(turn_detection={"type": "server_vad", "threshold": 2}), "less"),
    "a conversation": (
        {"type": "session.update", "session": {"type": "realtime"}},
        "only transcription sessions",
    ),
    "audio that is a list": (
        {"type": "session.update", "session": {"audio": []}},
        "audio must be an object",
    ),
    "an unknown include": (
        {"type": "session.update", "session": {"include": ["x"]}},
        "logprobs",
    ),
    "a commit of nothing": ({"type": "input_audio_buffer.commit"}, "at least 100 ms"),
}


def test_bad_events_get_errors_and_the_session_goes_on(fake_server: Server) -> None:
    with live(fake_server) as session:
        session.listen(**SPEECH)
        for name, (event, message) in BAD.items():
            if isinstance(event, dict):
                session.socket.send(json.dumps({"event_id": name, **event}))
            else:
                session.socket.send(str(event))
            error = session.error()
            assert message in error["message"], (name, error)
            assert error["event_id"] == (name if isinstance(event, dict) else None)
            assert error["type"] == "invalid_request_error"
        session.socket.send(r'{"event_id": "\ud800", "type": "x"}')  # half of a pair
        assert session.error()["event_id"] == "?"
        session.say(np.concatenate([say("red house"), PAUSE]))
        assert spoken(session.until(".completed")) == "red house."


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/realtime?intent=conversation", 400, "invalid_value"),
        (f"{PATH}&model=no/such", 404, "model_not_found"),
    ],
)
def test_a_session_that_cannot_begin_is_refused_before_it_does(
    fake_server: Server, path: str, status: int, code: str
) -> None:
    answer = refused(fake_server, path)

    assert answer.status_code == status
    assert json.loads(answer.body)["error"]["code"] == code


def refused(server: Server, path: str = PATH, **options: Any) -> Any:
    """The answer to a session that is refused."""
    with pytest.raises(InvalidStatus) as error, live(server, path, **options):
        pass
    return error.value.response


def test_http_is_told_to_use_a_websocket(fake_server: Server) -> None:
    answer = fake_server.http.get("/v1/realtime")

    assert answer.status_code == 426
    assert answer.json()["error"]["code"] == "upgrade_required"


def test_a_socket_that_is_cut_within_a_word_leaves_nothing(fake_server: Server) -> None:
    for _ in range(5):
        with live(fake_server) as session:
            session.listen(**SPEECH)
            session.say(say("red house door blue")[:-4000])
            session.until(".speech_started")
            session.socket.socket.shutdown(socket.SHUT_RDWR)
    eventually(lambda: is_idle(fake_server))


def test_an_hour_of_silence_is_nothing(fake_server: Server) -> None:
    """As a telephone sends it, but as fast as the server takes it."""
    minute = base64.b64encode(bytes([0xFF]) * 60 * 8000).decode()
    said = g711(np.concatenate([say("red house"), PAUSE])[::2], "audio/pcmu")

    with live(fake_server) as session:
        session.configure(format={"type": "audio/pcmu"}, **SPEECH)
        for _ in range(60):
            session.send("input_audio_buffer.append", audio=minute)
            session.configure()  # answered once the minute was heard
        session.send("input_audio_buffer.append", audio=base64.b64encode(said).decode())
        assert spoken(session.until(".completed")) == "red house."


def test_ten_minutes_of_continuous_speech_are_cut_in_pauses(fake_server: Server) -> None:
    """No pause is as long as the silence that ends a turn, and no word is lost or said twice."""
    words = ["red", "blue", "green", "black", "white", "door", "house", "tree"]
    sentence = np.concatenate([say(" ".join(words)), silence(0.25)])
    count = round(600 * 16_000 / len(sentence))
    heard: list[str] = []
    longest = 0.0

    def hear(session: Live) -> None:
        event = session.receive()
        assert event["type"] != "error", event
        if event["type"].endswith(".completed"):
            nonlocal longest
            longest = max(longest, event["usage"]["seconds"])
            heard.extend(event["transcript"].replace(".", "").split())

    with live(fake_server) as session:
        session.listen(**SPEECH)
        for sent in range(count):
            session.say(sentence)
            while sent * len(words) - len(heard) > 200:  # what waits is bounded
                hear(session)
        session.say(PAUSE)
        while len(heard) < count * len(words):
            hear(session)

    assert heard == words * count
    assert 15 < longest <= 30


# -- limits -----------------------------------------------------------------------------------

KEYS = {"one": "client one", "two": "client two"}


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Behind keys, with small limits."""
    directory = tmp_path_factory.mktemp("strict")
    keys = directory / "keys.json"
    keys.write_text(json.dumps(KEYS))
    settings = FAKE | {
        "API_KEYS_FILE": str(keys),
        "REALTIME__MAX_SESSIONS": "3",
        "REALTIME__MAX_SESSIONS_PER_KEY": "2",
        "REALTIME__BACKLOG_SECONDS": "20",
        "REALTIME__MESSAGE_BYTES": "2000000",
        "REALTIME__IDLE_SECONDS": "5",
        "REALTIME__SEND_TIMEOUT": "0.5",
    }
    with serving(directory, settings) as server:
        server.http.headers["authorization"] = "Bearer one"
        yield server


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


def test_a_session_needs_a_key(strict_server: Server) -> None:
    for options in ({}, bearer("wrong"), {"subprotocols": ["realtime"]}):
        answer = refused(strict_server, **options)
        assert answer.status_code == 401
        assert json.loads(answer.body)["error"]["code"] == "invalid_api_key"
    with live(strict_server, **bearer("one")):
        pass


def test_pages_of_other_sites_need_a_key_or_leave(
    fake_server: Server, strict_server: Server
) -> None:
    for origin in ("https://other.example", "null", fake_server.url + "0"):
        answer = refused(fake_server, headers={"Origin": origin})
        assert answer.status_code == 403
        assert "ALLOWED_ORIGINS" in json.loads(answer.body)["error"]["message"]
    with live(fake_server, headers={"Origin": fake_server.url}):
        pass
    with live(strict_server, headers={**bearer("one")["headers"], "Origin": "https://a.example"}):
        pass


def test_a_web_page_sends_its_key_as_a_subprotocol(strict_server: Server) -> None:
    session = transcription(transcription={"language": "fr"}, **SPEECH)
    answer = strict_server.http.post("/v1/realtime/client_secrets", json={"session": session})
    secret = answer.raise_for_status().json()["value"]
    ClientSecretCreateResponse.model_validate(answer.json())

    for key in ("two", secret):
        subprotocols = ["realtime", f"openai-insecure-api-key.{key}"]
        with live(strict_server, subprotocols=subprotocols) as opened:
            assert opened.socket.subprotocol == "realtime"
            given = opened.created["session"]["audio"]["input"]["transcription"]["language"]
            assert given == ("fr" if key == secret else None)
    upload = strict_server.http.get("/info", headers={"authorization": f"Bearer {secret}"})
    assert upload.status_code == 401


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"session": {"type": "realtime"}}, "session.type"),
        (
            {"session": {"include": ["item.input_audio_transcription.logprobs"] * 99}},
            "session.include",
        ),
        ({"expires_after": {"seconds": 9}}, "expires_after.seconds"),
        (
            {"session": {"audio": {"input": {"format": {"type": "x"}}}}},
            "session.audio.input.format",
        ),
    ],
)
def test_a_client_secret_needs_a_session_that_can_be_served(
    strict_server: Server, body: object, param: str
) -> None:
    answer = strict_server.http.post("/v1/realtime/client_secrets", json=body)

    assert answer.status_code == 400
    assert param.startswith(answer.json()["error"]["param"])


def test_a_client_secret_keeps_no_large_session(strict_server: Server) -> None:
    session = transcription(transcription={"keywords": ["x" * 9000] * 2})
    answer = strict_server.http.post("/v1/realtime/client_secrets", json={"session": session})

    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "session"


def test_sessions_are_limited_for_each_key_and_in_all(strict_server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(live(strict_server, **bearer("one")))
        own = refused(strict_server, **bearer("one"))
        stack.enter_context(live(strict_server, **bearer("two")))
        all_together = refused(strict_server, **bearer("two"))

    for answer in (own, all_together):
        assert answer.status_code == 429
        assert json.loads(answer.body)["error"]["type"] == "rate_limit_error"
        assert int(answer.headers["retry-after"]) > 0
    eventually(lambda: strict_server.info()["queue"]["requests"] == 0)
    with live(strict_server, **bearer("one")):
        pass


def test_a_thousand_sessions_at_once_are_refused_and_leave_nothing(strict_server: Server) -> None:
    url = strict_server.url.replace("http", "ws") + PATH
    headers = bearer("one")["headers"]

    async def attempt(turn: asyncio.Semaphore) -> int:
        async with turn:
            try:
                async with connect(url, additional_headers=headers, proxy=None) as opened:
                    await opened.recv()
            except InvalidStatus as error:
                return error.response.status_code
            return 101

    async def attempts() -> list[int]:
        turn = asyncio.Semaphore(50)
        return list(await asyncio.gather(*(attempt(turn) for _ in range(1000))))

    statuses = Counter(asyncio.run(attempts()))

    assert set(statuses) <= {101, 429}
    assert statuses[101] >= 2
    eventually(lambda: strict_server.info()["queue"]["requests"] == 0)


def test_audio_without_a_transcript_is_bounded(strict_server: Server) -> None:
    """One message holds more than may wait; the next is refused until it is answered."""
    with live(strict_server, **bearer("one")) as session:
        session.listen(**SPEECH)
        sentence = np.concatenate([say("red house door"), silence(1.0)])
        much = np.concatenate([sentence] * 16)
        for _ in range(5):
            session.say(much)
        events = [session.receive()]
        while not any(event["type"] == "error" for event in events):
            events.append(session.receive())

    assert events[-1]["error"]["code"] == "overloaded"
    assert "20 s" in events[-1]["error"]["message"]


def test_a_message_that_is_too_large_is_refused_and_the_session_goes_on(
    strict_server: Server,
) -> None:
    with live(strict_server, **bearer("one")) as session:
        session.send("input_audio_buffer.append", audio="A" * 10_000_000)
        assert session.error()["code"] == "file_too_large"
        session.configure(**SPEECH)


def test_an_idle_session_is_closed(strict_server: Server) -> None:
    with live(strict_server, **bearer("one")) as session, pytest.raises(ConnectionClosed) as ended:
        session.receive()

    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001


def test_stalled_reader_is_dropped(strict_server: Server) -> None:
    """It sends and sends what is answered with errors, and reads none of them."""
    with socket.create_connection(("127.0.0.1", strict_server.port)) as raw:
        upgrade = (
            f"GET {PATH} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Authorization: Bearer one\r\n\r\n"
        )
        raw.sendall(upgrade.encode())
        frame = bytes([0x81, 0x80 | 126, 4, 0, 0, 0, 0, 0]) + b"[]".ljust(1024)  # masked with 0
        raw.settimeout(PATIENCE)

        def flood() -> None:
            while True:
                raw.sendall(frame * 100)

        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            flood()
    eventually(lambda: strict_server.info()["queue"]["requests"] == 0)


def test_open_turns_are_answered_before_the_server_ends(tmp_path: Path) -> None:
    with Server(tmp_path, FAKE) as server, live(server) as session:
        session.listen(**SPEECH)
        session.say(say("red house door"))
        session.until(".speech_started")
        server.process.send_signal(signal.SIGTERM)
        events = session.until(".completed")
        with pytest.raises(ConnectionClosed) as ended:
            session.receive()

    assert spoken(events) == "red house door."
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1012


# -- the command line -------------------------------------------------------------------------


def test_listen_prints_a_recording_as_it_is_spoken(
    base_server: Server, tmp_path: Path, opening: Samples
) -> None:
    recording = tmp_path / "recording.wav"
    recording.write_bytes(wav(opening))

    status, output, errors = run("listen", str(recording), "--url", base_server.url, "-l", "en")

    assert (status, errors) == (0, "")
    wrong, words = word_errors(OPENING, output)
    assert wrong <= 0.1 * words, output
    assert output.endswith("\n")


LISTEN = (sys.executable, "-m", "whisperx_api_server.cli", "listen", "-")


@pytest.mark.parametrize(("source", "rate"), [("pipe", 16_000), ("file", 8_000)])
def test_listen_plays_raw_audio_from_standard_input(
    fake_server: Server, tmp_path: Path, source: str, rate: int
) -> None:
    """Half a sample at its end is dropped."""
    spoken_loud = 10 * np.concatenate([say("red house"), silence(0.6), say("blue door")])
    recording = tmp_path / "raw.pcm"
    recording.write_bytes(pcm(spoken_loud[:: 16_000 // rate]) + b"\1")
    command = [*LISTEN, "--rate", str(rate), "--url", fake_server.url]

    if source == "pipe":
        content = recording.read_bytes()
        ended = subprocess.run(command, input=content, capture_output=True, check=False)
    else:
        with recording.open("rb") as file:
            ended = subprocess.run(command, stdin=file, capture_output=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == b"red house.\nblue door.\n"


def test_listen_ends_with_an_error_while_its_pipe_is_silent(fake_server: Server) -> None:
    command = [*LISTEN, "--model", "no/such", "--url", fake_server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as listening:
        try:
            assert listening.wait(PATIENCE) == 1
        finally:
            listening.kill()
        assert listening.stderr is not None
        assert b"no model 'no/such'" in listening.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.wav"], "no.wav: the file does not exist"),
        (["live.py"], "live.py: "),
        (["sample.flac", "--url", "http://127.0.0.1:9"], "no server answers"),
        (["sample.flac", "--api-key", "wrong"], "the API key is not valid"),
        (["sample.flac", "--model", "no/such"], "no model 'no/such'"),
    ],
)
def test_listen_says_in_one_line_why_it_cannot(
    strict_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "examples" / "sample.flac", tmp_path)
    Path("live.py").write_text("not audio")
    options = {"--url": strict_server.url, "--api-key": "one"}
    given = [
        part for name, value in options.items() if name not in arguments for part in (name, value)
    ]

    status, output, errors = run("listen", *arguments, *given)

    assert (status, output) == (1, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
