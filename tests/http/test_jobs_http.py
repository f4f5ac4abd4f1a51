"""Jobs: submitted, watched, fetched, cancelled and told of, in both modes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
import srt
import webvtt
from openai import OpenAI

from gated import Gate
from job_calls import SECRET, result, status, submit, wait_for, watch
from live import is_computing, is_idle
from receiver import Receiver
from server import FAKE, LOOP_GUARD, Mode, Server, command_of
from support import eventually
from tones import CHUNK, SPACING, sentences, text

GRANULARITIES = "timestamp_granularities[]"


pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="module")
def server(mode: Mode, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("jobs")
    keys = directory / "keys.json"
    keys.write_text(json.dumps({"key-of-ann": "ann", "key-of-bob": "bob"}))
    settings = gate.settings()
    settings |= {
        "PYTHONPATH": os.pathsep.join((settings["PYTHONPATH"], str(LOOP_GUARD))),
        "JOBS__DIRECTORY": str(directory / "jobs"),
        "API_KEYS_FILE": str(keys),
        "WEBHOOK_SECRET": SECRET,
        "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
    }
    with Server(directory, settings, command=command_of(mode)) as server:
        server.http.headers["authorization"] = "Bearer key-of-ann"
        yield server
        gate.allow()


def test_a_job_is_watched_to_its_end_and_read_in_any_format(server: Server, gate: Gate) -> None:
    gate.allow(0)
    job = submit(server, sentences(4), response_format="srt", **CHUNK)
    assert job["status"] == "queued"
    assert job["percent"] == 0
    assert (job["error"], job["finished_at"], job["eta_seconds"]) == (None, None, None)

    seen = []
    for event in watch(server, job):
        seen.append(event)
        if len(seen) == 1 or event["percent"] > seen[-2]["percent"]:
            gate.allow(1)

    parts = [event["percent"] for event in seen]
    assert all(before <= after for before, after in pairwise(parts))
    assert {25 * n for n in range(1, 4)} <= {round(25 * (part // 25)) for part in parts}
    assert (parts[-1], seen[-1]["status"], seen[-1]["type"]) == (100, "completed", "job.completed")
    assert all(event["percent"] < 100 for event in seen[:-1])
    assert all(event["type"] == f"job.{event['status']}" for event in seen)
    halfway = next(event for event in seen if 25 < event["percent"] < 100)
    assert halfway["eta_seconds"] > 0
    assert seen[-1]["eta_seconds"] is None
    assert seen[-1]["duration"] == 4 * SPACING

    stages = seen[-1]["stages"]
    assert [stage["name"] for stage in stages] == ["open", "transcribe", "finish"]
    assert all(before["finished_at"] <= after["started_at"] for before, after in pairwise(stages))
    assert all(stage["started_at"] <= stage["finished_at"] for stage in stages)
    assert job["submitted_at"] <= stages[0]["started_at"]
    assert stages[-1]["finished_at"] <= seen[-1]["finished_at"]

    before = len(gate.passed)
    cues = list(srt.parse(result(server, job).text))
    assert " ".join(cue.content for cue in cues) == text(4)
    assert [round(cue.start.total_seconds()) for cue in cues] == [0, 5, 10, 15]
    verbose = result(
        server, job, response_format="verbose_json", **{"timestamp_granularities[]": "word"}
    ).json()
    assert verbose["text"] == " ".join(word["word"] for word in verbose["words"]) == text(4)
    assert "segments" not in verbose
    captions = webvtt.from_string(result(server, job, response_format="vtt").text)
    assert " ".join(caption.text for caption in captions) == text(4)
    assert result(server, job, response_format="text").text.strip() == text(4)
    assert result(server, job, response_format="json").json()["text"] == text(4)
    assert result(server, job, response_format="aud").text.count("\n") == 4
    assert len(gate.passed) == before


def test_the_events_of_a_job_have_its_text_if_asked(server: Server, gate: Gate) -> None:
    gate.allow(1)
    job = submit(server, sentences(3), **CHUNK)
    eventually(lambda: status(server, job)["percent"] > 0)

    deltas = []
    for event in watch(server, job, text="true"):
        if event["type"] == "transcript.text.delta":
            deltas.append(event["delta"])
            gate.allow(1)

    assert len(deltas) == 3
    assert "".join(deltas) == text(3)
    assert [event["type"] for event in watch(server, job)] == ["job.completed"]


def test_a_diarized_job_has_speakers_in_every_format(server: Server, gate: Gate) -> None:
    gate.allow()
    job = submit(server, sentences(2, speakers=2), response_format="diarized_json", **CHUNK)
    done = wait_for(server, job)

    assert {stage["name"] for stage in done["stages"]} >= {"transcribe", "diarize"}
    speakers = [segment["speaker"] for segment in result(server, job).json()["segments"]]
    assert speakers == ["A", "B"]
    assert "[SPEAKER_00]: " in result(server, job, response_format="srt").text


def test_a_result_cannot_have_more_than_its_job_computed(server: Server, gate: Gate) -> None:
    gate.allow()
    job = submit(server, sentences(1), align="false")
    wait_for(server, job)

    for params, param in [
        ({"response_format": "diarized_json"}, "response_format"),
        (
            {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
            "timestamp_granularities[]",
        ),
        ({"response_format": "srt", "highlight_words": "true"}, "highlight_words"),
    ]:
        refused = result(server, job, **params)
        assert refused.status_code == 422
        assert refused.json()["error"]["param"] == param
    assert result(server, job, response_format="nonsense").status_code == 400


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"response_format": "json", "highlight_words": "true"}, 422, "highlight_words"),
        ({"response_format": "json", GRANULARITIES: "word"}, 422, GRANULARITIES),
        ({"response_format": "srt", "timestamp_granularities[0]": "word"}, 422, GRANULARITIES),
        ({GRANULARITIES: "letter"}, 400, GRANULARITIES),
        ({"highlight_words": "perhaps"}, 400, "highlight_words"),
        ({"response_format": "nonsense"}, 400, "response_format"),
        ({"response_format": "json", GRANULARITIES: "segment"}, 200, None),
        ({"response_format": " srt ", "highlight_words": "false"}, 200, None),
        ({"response_format": "", "highlight_words": ""}, 200, None),
    ],
)
def test_a_result_is_under_the_rules_of_a_submission(
    server: Server, gate: Gate, query: dict[str, str], status: int, param: str | None
) -> None:
    gate.allow()
    words = {"response_format": "verbose_json", GRANULARITIES: "word"}
    job = submit(server, sentences(1), **words)
    wait_for(server, job)

    answer = result(server, job, **query)

    assert answer.status_code == status, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param
    asked = result(server, job, response_format="vtt_json").json()
    assert asked["words"]  # what the query leaves out is as submitted


def test_a_running_job_has_no_result(server: Server, gate: Gate) -> None:
    gate.allow(0)
    job = submit(server, sentences(1))

    early = result(server, job)

    assert early.status_code == 409
    assert early.json()["error"]["code"] == "conflict"
    gate.allow()
    wait_for(server, job)
    assert result(server, job).status_code == 200


def test_a_cancelled_job_leaves_nothing_behind(server: Server, gate: Gate) -> None:
    gate.allow(1)
    before = len(gate.passed)
    job = submit(server, sentences(40), **CHUNK)
    eventually(lambda: status(server, job)["percent"] > 0)
    eventually(lambda: is_computing(server))

    cancelled = server.http.delete(job["status_url"].removesuffix("/status"))

    assert cancelled.status_code == 200
    assert (cancelled.json()["status"], cancelled.json()["deleted"]) == ("cancelled", False)
    eventually(lambda: not is_computing(server))
    gate.allow()  # the window that is being computed
    eventually(lambda: is_idle(server))
    assert len(gate.passed) - before <= 2
    assert status(server, job)["status"] == "cancelled"
    assert [event["status"] for event in watch(server, job)] == ["cancelled"]
    assert result(server, job).status_code == 409


def test_an_ended_job_is_deleted(server: Server, gate: Gate) -> None:
    gate.allow()
    job = submit(server, sentences(1))
    wait_for(server, job)
    url = job["status_url"].removesuffix("/status")

    deleted = server.http.delete(url)

    assert (deleted.json()["status"], deleted.json()["deleted"]) == ("completed", True)
    for method, path in [("GET", job["status_url"]), ("GET", job["events_url"]), ("DELETE", url)]:
        assert server.http.request(method, path).status_code == 404
    assert result(server, job).status_code == 404


def test_a_failed_job_says_why(server: Server, gate: Gate) -> None:
    silent = wait_for(server, submit(server, b"no audio"))
    assert silent["status"] == "failed"
    assert silent["error"]["code"] == "invalid_audio"

    gate.break_down()
    gate.allow()
    job = submit(server, sentences(2), **CHUNK)
    failed = wait_for(server, job)
    gate.mend()

    assert (failed["status"], failed["error"]["code"]) == ("failed", "transcription_failed")
    refused = result(server, job)
    assert refused.status_code == 409
    assert failed["error"]["message"] in refused.json()["error"]["message"]
    eventually(lambda: is_idle(server))


def test_a_job_is_its_client_s_alone(server: Server, gate: Gate) -> None:
    gate.allow(0)
    job = submit(server, sentences(1))
    bob = {"authorization": "Bearer key-of-bob"}

    for path in (job["status_url"], job["events_url"], job["result_url"]):
        assert server.http.get(path, headers=bob).status_code == 404
    url = job["status_url"].removesuffix("/status")
    assert server.http.delete(url, headers=bob).status_code == 404
    assert server.http.get(job["status_url"], headers={"authorization": ""}).status_code == 401

    gate.allow()
    assert wait_for(server, job)["status"] == "completed"


def test_the_queue_position_falls_as_others_end(server: Server, gate: Gate) -> None:
    gate.allow(0)
    eventually(lambda: is_idle(server))
    jobs = [submit(server, sentences(1 + place), **CHUNK) for place in range(3)]
    eventually(lambda: [status(server, job)["queue_position"] for job in jobs] == [0, 1, 2])

    server.http.delete(jobs[0]["status_url"].removesuffix("/status"))

    assert [status(server, job)["queue_position"] for job in jobs] == [0, 0, 1]
    gate.allow()
    for job in jobs[1:]:
        assert wait_for(server, job)["status"] == "completed"


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("completes", "transcription.completed"),
        ("fails", "transcription.failed"),
        ("is cancelled", "transcription.cancelled"),
    ],
)
def test_the_webhook_tells_of_every_end(server: Server, gate: Gate, ending: str, kind: str) -> None:
    with Receiver() as receiver:
        gate.allow(0)
        if ending == "fails":
            gate.break_down()
        job = submit(server, sentences(2), callback_url=receiver.url, **CHUNK)
        if ending == "is cancelled":
            server.http.delete(job["status_url"].removesuffix("/status"))
        gate.allow()
        eventually(lambda: len(receiver.deliveries) == 1)
        if ending == "fails":
            gate.mend()

        (delivery,) = receiver.deliveries
        sdk = OpenAI(api_key="none", webhook_secret=SECRET).webhooks
        sdk.verify_signature(delivery.body, delivery.headers)
        event = json.loads(delivery.body)
        assert event["type"] == sdk.unwrap(delivery.body, delivery.headers).type == kind
        assert event["id"] == delivery.headers["webhook-id"]
        assert event["data"] == status(server, job)
        assert delivery.headers["content-type"] == "application/json"


def test_a_webhook_that_is_not_accepted_is_sent_again(server: Server, gate: Gate) -> None:
    gate.allow()
    with Receiver([500]) as receiver:
        job = submit(server, sentences(1), callback_url=receiver.url)
        eventually(lambda: len(receiver.deliveries) == 2)

        first, second = receiver.deliveries
        assert first.body == second.body
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        sdk = OpenAI(api_key="none", webhook_secret=SECRET).webhooks
        sdk.verify_signature(second.body, second.headers)
        assert job["request_id"] in second.headers["webhook-id"]


def test_a_webhook_needs_a_secret(either_server: Server) -> None:
    refused = either_server.transcribe(
        sentences(1), **{"async": "true", "callback_url": "http://93.184.215.14/done"}
    )

    assert refused.status_code == 501
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("not_configured", "callback_url")
    assert "WEBHOOK_SECRET" in error["message"]
    assert either_server.temp_files() == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/done", "http://localhost/x", "http://169.254.169.254/", "ftp://a.b/c"],
)
def test_a_webhook_never_goes_to_a_private_host(guarded: Server, url: str) -> None:
    refused = guarded.transcribe(sentences(1), **{"async": "true", "callback_url": url})

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "callback_url"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a secret, and with the URL policy as it is by default."""
    directory = tmp_path_factory.mktemp("guarded")
    settings = FAKE | {"WEBHOOK_SECRET": SECRET, "PYTHONPATH": str(LOOP_GUARD)}
    with Server(directory, settings) as server:
        yield server
    assert server.temp_files() == []
