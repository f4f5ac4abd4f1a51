"""A retry does not double the work: it joins the run that is alive, or resumes the one that was."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import OpenAI

from gated import Gate
from live import PATH, Events, deltas, is_idle
from server import Mode, Server, command_of
from support import eventually
from tones import CHUNK, reference, sentences, text

RETRY = {"x-stainless-retry-count": "1"}
"""What OpenAI's SDK sends with each try after the first."""


pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("retries")
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"key-of-ann": "ann", "key-of-bob": "bob"}))
    settings = gate.settings() | {"API_KEYS_FILE": str(keys)}
    with Server(directory, settings, command=command_of(mode)) as server:
        server.http.headers["authorization"] = "Bearer key-of-ann"
        yield server
        gate.allow()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def ask(
    server: Server, audio: bytes, headers: Mapping[str, str] | None = None, **fields: Any
) -> httpx.Response:
    return server.http.post(
        PATH, files={"file": ("a.wav", audio)}, data=CHUNK | fields, headers=headers
    )


def under_way(server: Server, count: int) -> None:
    eventually(lambda: server.info()["queue"]["requests"] == count)


def test_the_same_request_joins_the_one_that_is_alive(
    server: Server, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    gate.allow(1)
    before = len(gate.passed)
    audio = sentences(5)
    answers = [pool.submit(ask, server, audio)]
    under_way(server, 1)
    eventually(lambda: len(gate.passed) == before + 1)
    answers += [
        pool.submit(ask, server, audio, RETRY),
        # another format of the same
        pool.submit(ask, server, audio, response_format="text"),
    ]
    under_way(server, 3)
    gate.allow()

    assert [answer.result().status_code for answer in answers] == [200] * 3
    assert answers[0].result().json() == answers[1].result().json()
    assert answers[2].result().text.strip() == text(5)
    assert len(gate.passed) - before == 5


def test_a_stream_that_joins_hears_everything(
    server: Server, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    gate.allow(2)
    before = len(gate.passed)
    audio = sentences(4, language="fr")
    first = pool.submit(ask, server, audio)
    eventually(lambda: len(gate.passed) == before + 2)
    events = Events(server, audio, **CHUNK)
    early = [events.next(), events.next()]
    assert deltas(early) == text(2, language="fr")
    gate.allow()

    assert deltas(early + events.rest()) == text(4, language="fr") == first.result().json()["text"]
    assert len(gate.passed) - before == 4


def test_a_disconnect_keeps_a_shared_run(
    server: Server, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    gate.allow(1)
    before = len(gate.passed)
    audio = sentences(6)
    events = Events(server, audio, **CHUNK)
    events.next()
    other = pool.submit(ask, server, audio)
    under_way(server, 2)

    events.leave()

    under_way(server, 1)
    gate.allow()
    assert other.result().json()["text"] == text(6)
    assert len(gate.passed) - before == 6
    eventually(lambda: is_idle(server))


OTHERS: dict[str, dict[str, Any]] = {
    "another client": {"headers": {"authorization": "Bearer key-of-bob"}},
    "another recording": {"audio": sentences(2, language="de")},
    "another language": {"language": "fr"},
    "another temperature": {"temperature": "0.5"},
    "another prompt": {"prompt": "Red"},
    "other windows": {"chunk_size": "4"},
    "word times": {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
}


@pytest.mark.parametrize("difference", OTHERS)
def test_different_requests_do_not_share_a_run(
    server: Server, gate: Gate, pool: ThreadPoolExecutor, difference: str
) -> None:
    gate.allow(0)
    before = len(gate.passed)
    audio = sentences(2)
    first = pool.submit(ask, server, audio)
    under_way(server, 1)
    second = pool.submit(ask, server, **{"audio": audio} | OTHERS[difference])
    under_way(server, 2)
    gate.allow()

    assert first.result().json()["text"] == text(2)
    assert second.result().status_code == 200
    assert len(gate.passed) - before == 4


def test_known_speakers_with_other_voices_share_nothing(
    server: Server, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    gate.allow()
    audio = sentences(2, speakers=2)
    answers = []
    for voice in (0, 1):
        answer = ask(
            server,
            audio,
            RETRY,
            response_format="diarized_json",
            **{
                "known_speaker_names[]": "Ann",
                "known_speaker_references[]": reference(voice),
            },
        )
        answers.append([segment["speaker"] for segment in answer.json()["segments"]])

    assert answers == [["Ann", "A"], ["A", "Ann"]]


def test_a_retry_goes_on_where_the_first_was_left(server: Server, gate: Gate) -> None:
    gate.allow(3)
    before = len(gate.passed)
    audio = sentences(8)
    events = Events(server, audio, **CHUNK)
    assert deltas([events.next() for _ in range(3)]) == text(3)
    events.leave()
    under_way(server, 0)
    gate.allow()
    eventually(lambda: is_idle(server))

    again = Events(server, audio, **CHUNK).rest()

    assert deltas(again) == again[-1]["text"] == text(8)
    # Three before, five after; the one that was being computed at the time may count twice.
    assert len(gate.passed) - before <= 9
    assert gate.passed[before:].count("0.0") == 1


def test_a_retry_after_the_end_gets_the_answer_again(server: Server, gate: Gate) -> None:
    gate.allow()
    audio = sentences(3)
    first = ask(server, audio)
    before = len(gate.passed)

    again = ask(server, audio, RETRY)
    assert again.json() == first.json()
    assert len(gate.passed) == before

    anew = ask(server, audio)  # nobody says that this is a retry
    assert anew.json() == first.json()
    assert len(gate.passed) == before + 3


def test_a_failure_is_tried_again_but_not_what_was_done_before_it(
    server: Server, gate: Gate
) -> None:
    gate.allow(2)
    audio = sentences(5, language="de")
    before = len(gate.passed)
    events = Events(server, audio, **CHUNK)
    events.next(), events.next()
    gate.break_down()
    gate.allow()
    assert events.rest()[-1]["error"]["code"] == "transcription_failed"
    gate.mend()

    again = ask(server, audio, RETRY)

    assert again.json()["text"] == text(5, language="de")
    assert len(gate.passed) - before == 5


def test_the_sdk_s_retry_after_a_timeout_finishes_the_work(server: Server, gate: Gate) -> None:
    gate.allow(2)
    before = len(gate.passed)
    client = OpenAI(
        base_url=f"{server.url}/v1",
        api_key="key-of-ann",
        max_retries=5,
        timeout=2,
        _strict_response_validation=True,
    )

    def let_go_once_it_was_given_up() -> None:
        under_way(server, 1)
        under_way(server, 0)
        gate.allow()

    helper = threading.Thread(target=let_go_once_it_was_given_up)
    helper.start()
    with client:
        heard = client.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", sentences(7)),
            extra_body=CHUNK,
        )
    helper.join()

    assert heard.text == text(7)
    assert gate.passed[before:].count("0.0") == gate.passed[before:].count("5.0") == 1
    assert len(gate.passed) - before <= 8


def test_jobs_share_with_requests(server: Server, gate: Gate, pool: ThreadPoolExecutor) -> None:
    gate.allow(0)
    before = len(gate.passed)
    audio = sentences(3)
    fields: dict[str, Any] = {"response_format": "verbose_json"}
    job = ask(server, audio, **fields | {"async": "true"}).json()
    under_way(server, 1)
    at_once = pool.submit(ask, server, audio, **fields)
    under_way(server, 2)
    gate.allow()

    assert at_once.result().json()["text"] == text(3)
    assert len(gate.passed) - before == 3
    eventually(lambda: server.http.get(job["status_url"]).json()["status"] == "completed")
    assert server.http.get(job["result_url"]).json() == at_once.result().json()
    assert server.http.delete(job["status_url"].removesuffix("/status")).json()["deleted"]
