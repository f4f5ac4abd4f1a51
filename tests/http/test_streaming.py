"""Server-sent events: what arrives, when, and what happens when nobody reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import pytest

from gated import Gate
from live import Client, Events, deltas, is_computing, is_idle
from server import Mode, Server, command_of
from support import eventually, wav
from tones import CHUNK, sentences, text
from whisperx_api_server.backends.fake import silence

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("gated")
    with Server(directory, gate.settings(), command=command_of(mode)) as server:
        yield server
        gate.allow()


def test_deltas_make_up_the_text(either_server: Server) -> None:
    audio = sentences(7)
    events = Events(either_server, audio, **CHUNK).rest()

    assert [each["type"] for each in events] == [
        *["transcript.text.delta"] * 7,
        "transcript.text.done",
    ]
    assert deltas(events) == events[-1]["text"] == text(7)
    assert either_server.transcribe(audio, **CHUNK).json()["text"] == text(7)
    assert events[-1]["languages"] == [{"code": "en"}]


@pytest.mark.parametrize("format", ["json", "text", "diarized_json"])
def test_it_is_an_event_stream(either_server: Server, format: str) -> None:
    events = Events(either_server, sentences(1), response_format=format)

    assert events.response.status_code == 200
    assert events.response.headers["content-type"].startswith("text/event-stream")
    assert events.response.headers["cache-control"] == "no-cache"
    assert "content-length" not in events.response.headers
    assert events.rest()[-1]["text"] == text(1)


def test_the_first_delta_comes_while_windows_wait(server: Server, gate: Gate) -> None:
    gate.allow(1)
    before = len(gate.passed)
    events = Events(server, sentences(6), **CHUNK)

    assert events.next()["delta"] == text(1)

    assert len(gate.passed) - before == 1
    gate.allow(2)
    assert deltas([events.next(), events.next()]) == text(3).removeprefix(text(1))
    assert len(gate.passed) - before == 3
    gate.allow()
    assert events.rest()[-1]["text"] == text(6)


def test_logprobs_come_with_each_delta(either_server: Server) -> None:
    events = Events(either_server, sentences(3), **CHUNK, **{"include[]": "logprobs"}).rest()

    done = events[-1]
    assert [each["token"] for each in done["logprobs"]] == [f" {word}" for word in text(3).split()]
    assert done["logprobs"] == [each for event in events[:-1] for each in event["logprobs"]]
    assert all(bytes(each["bytes"]).decode() == each["token"] for each in done["logprobs"])


def test_without_logprobs_there_are_none(fake_server: Server) -> None:
    events = Events(fake_server, sentences(1)).rest()

    assert not any("logprobs" in each for each in events)


def test_diarized_segments_are_those_of_the_whole_answer(either_server: Server) -> None:
    audio = sentences(6, speakers=3)
    events = Events(either_server, audio, response_format="diarized_json", **CHUNK).rest()
    whole = either_server.transcribe(audio, response_format="diarized_json", **CHUNK).json()

    segments = [each for each in events if each["type"] == "transcript.text.segment"]
    assert segments == whole["segments"]
    assert [each["speaker"] for each in segments] == ["A", "B", "C", "A", "B", "C"]
    assert deltas(events) == events[-1]["text"] == whole["text"] == text(6)
    assert events[-1]["type"] == "transcript.text.done"
    assert all(first["end"] <= second["start"] for first, second in pairwise(segments))


def test_diarized_segments_come_as_they_are_final(server: Server, gate: Gate) -> None:
    gate.allow(2)
    before = len(gate.passed)
    events = Events(server, sentences(4, speakers=2), response_format="diarized_json", **CHUNK)

    early = [events.next() for _ in range(4)]

    assert [each["speaker"] for each in early if "speaker" in each] == ["A", "B"]
    assert len(gate.passed) - before == 2
    gate.allow()
    later = events.rest()
    assert [each["speaker"] for each in later if "speaker" in each] == ["A", "B"]


def test_silence_is_an_empty_text(either_server: Server) -> None:
    events = Events(either_server, wav(silence(3))).rest()

    assert [(each["type"], each["text"]) for each in events] == [("transcript.text.done", "")]


def test_a_failure_before_the_first_event_has_its_status(server: Server, gate: Gate) -> None:
    broken = Events(server, b"no audio at all")
    assert broken.response.status_code == 400
    assert json.loads(broken.response.read())["error"]["code"] == "invalid_audio"

    gate.break_down()
    gate.allow()
    failed = Events(server, sentences(2), **CHUNK)
    gate.mend()
    assert failed.response.status_code == 500
    assert json.loads(failed.response.read())["error"]["code"] == "transcription_failed"
    eventually(lambda: is_idle(server))


def test_a_failure_in_the_middle_is_an_event(server: Server, gate: Gate) -> None:
    gate.allow(1)
    events = Events(server, sentences(4), **CHUNK)
    assert events.next()["delta"] == text(1)

    gate.break_down()
    gate.allow()
    (failure,) = events.rest()
    gate.mend()

    assert failure == {
        "error": {
            "message": failure["error"]["message"],
            "type": "server_error",
            "param": None,
            "code": "transcription_failed",
        }
    }
    assert "the test broke it" not in failure["error"]["message"]
    eventually(lambda: is_idle(server))


def test_a_disconnect_withdraws_the_request(server: Server, gate: Gate) -> None:
    gate.allow(1)
    before = len(gate.passed)
    events = Events(server, sentences(30), **CHUNK)
    events.next()
    assert server.info()["queue"]["requests"] == 1
    eventually(lambda: is_computing(server))

    events.leave()

    eventually(lambda: server.info()["queue"]["requests"] == 0)
    eventually(lambda: not is_computing(server))
    gate.allow()  # the window that is being computed
    eventually(lambda: is_idle(server))
    assert len(gate.passed) - before <= 2


def test_a_disconnect_before_the_first_event_withdraws_the_request(
    server: Server, gate: Gate
) -> None:
    gate.allow(0)
    before = len(gate.passed)
    client = Client(server, sentences(8), stream="true", **CHUNK)
    eventually(lambda: is_computing(server))
    client.hang_up()

    eventually(lambda: server.info()["queue"]["requests"] == 0)
    eventually(lambda: not is_computing(server))
    gate.allow()
    eventually(lambda: is_idle(server))
    assert len(gate.passed) - before <= 1


def test_an_unstreamed_request_is_withdrawn_likewise(server: Server, gate: Gate) -> None:
    gate.allow(0)
    before = len(gate.passed)
    client = Client(server, sentences(9), **CHUNK)
    eventually(lambda: is_computing(server))
    client.hang_up()

    eventually(lambda: server.info()["queue"]["requests"] == 0)
    eventually(lambda: not is_computing(server))
    gate.allow()
    eventually(lambda: is_idle(server))
    assert len(gate.passed) - before <= 1
