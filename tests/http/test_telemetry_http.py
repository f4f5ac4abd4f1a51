"""What operators see of a running server: /metrics and the access log."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus

from live import PATH, is_idle
from realtime import SPEECH, live
from server import LOCKED_KEY, Server
from support import eventually
from tones import CHUNK, sentences
from whisperx_api_server.backends.fake import say, silence

KEY = {"authorization": f"Bearer {LOCKED_KEY}"}


def read(server: Server, **headers: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each metric by its name and labels."""
    text = server.http.get("/metrics", headers=headers).raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(server: Server, name: str, **labels: str) -> float:
    """The sum of a metric over the labels that are not given."""
    return sum(
        value
        for (each, found), value in read(server).items()
        if each == f"whisperx_{name}" and labels.items() <= found
    )


def access_lines(server: Server, request_id: str) -> list[dict[str, Any]]:
    """The access log's JSON lines of a request."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["request_id"] == request_id and "route" in line]


@pytest.fixture(autouse=True)
def _settled(fake_server: Server) -> None:
    """What earlier tests sent is not counted."""
    eventually(lambda: is_idle(fake_server))


def test_a_request_moves_the_metrics_of_all_that_it_uses(fake_server: Server) -> None:
    moved: Mapping[str, Mapping[str, str]] = {
        "http_requests_total": {"route": PATH, "method": "POST", "status": "200"},
        "http_request_duration_seconds_count": {"route": PATH},
        "runs_total": {"kind": "transcription", "result": "completed"},
        "run_duration_seconds_count": {"kind": "transcription"},
        "run_real_time_factor_ratio_count": {"kind": "transcription"},
        "audio_accepted_seconds_total": {},
        "audio_transcribed_seconds_total": {},
        "lane_wait_seconds_count": {"stage": "transcription"},
        "batch_entries_sum": {"stage": "transcription"},
        "batch_duration_seconds_count": {"stage": "vad"},
        "event_loop_lag_seconds_count": {},
    }
    before = {name: total(fake_server, name, **labels) for name, labels in moved.items()}

    audio = sentences(3)
    assert fake_server.transcribe(audio, **CHUNK, prompt="metrics").status_code == 200

    for name, labels in moved.items():
        eventually(lambda n=name, f=labels: total(fake_server, n, **f) > before[n])  # type: ignore[misc]
    accepted = "audio_accepted_seconds_total"
    assert total(fake_server, accepted) == pytest.approx(before[accepted] + 15.0)
    assert total(fake_server, "models_loaded", stage="transcription") >= 1
    assert total(fake_server, "model_load_duration_seconds_count") >= 1


def test_a_job_is_counted_by_its_state(fake_server: Server) -> None:
    before = total(fake_server, "jobs", state="completed")

    job = fake_server.transcribe(sentences(1), **{"async": "true"}).json()

    eventually(lambda: total(fake_server, "jobs", state="completed") == before + 1)
    fake_server.http.delete(job["status_url"].removesuffix("/status"))
    assert total(fake_server, "jobs", state="completed") == before


def test_a_live_session_is_counted_with_its_delay_and_audio(fake_server: Server) -> None:
    audio = ("audio_accepted_seconds_total", "audio_transcribed_seconds_total")
    before = total(fake_server, "live_delay_seconds_count")
    seconds = [total(fake_server, name) for name in audio]

    with live(fake_server) as session:
        assert total(fake_server, "live_sessions") >= 1
        session.listen(**SPEECH)
        session.say(np.concatenate([say("red house"), silence(1)]))
        heard = session.until(".completed")[-1]["usage"]["seconds"]
        eventually(lambda: total(fake_server, "live_delay_seconds_count") == before + 1)
        eventually(
            lambda: (
                [total(fake_server, name) for name in audio]
                == pytest.approx([before + heard for before in seconds])
            )
        )


def test_a_live_session_has_one_line_in_the_access_log(locked_server: Server) -> None:
    with live(locked_server, headers=KEY) as session:
        session.listen(**SPEECH)
        seconds = 0.0
        for _ in range(2):
            session.say(np.concatenate([say("red house"), silence(1)]))
            seconds += session.until(".completed")[-1]["usage"]["seconds"]

    eventually(lambda: access_lines(locked_server, session.created["session"]["id"]) != [])
    [line] = access_lines(locked_server, session.created["session"]["id"])
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/realtime", 101)
    assert line["client"] == "default"
    assert line["audio_seconds"] == pytest.approx(seconds)


def test_a_live_session_that_is_refused_is_counted(fake_server: Server) -> None:
    refusals = {"method": "GET", "route": "/v1/realtime", "status": "404"}
    before = total(fake_server, "http_requests_total", **refusals)

    with pytest.raises(InvalidStatus), live(fake_server, "/v1/realtime?model=no/such"):
        pass

    eventually(lambda: total(fake_server, "http_requests_total", **refusals) == before + 1)


def test_no_text_of_a_client_becomes_a_label(fake_server: Server) -> None:
    fake_server.http.request("BREW", "/coffee-of-ann")
    fake_server.transcribe(sentences(1), model="model-of-ann", prompt="prompt-of-ann")

    assert "of-ann" not in fake_server.http.get("/metrics").text


def test_the_metrics_need_the_key_of_the_server(locked_server: Server) -> None:
    assert locked_server.http.get("/metrics").status_code == 401
    assert locked_server.http.get("/metrics", headers=KEY).status_code == 200


def test_promtool_accepts_the_metrics(fake_server: Server) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    text = fake_server.http.get("/metrics").text

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_request_has_one_line_in_the_access_log(locked_server: Server) -> None:
    headers = KEY | {"x-request-id": "request-of-the-log"}
    answer = locked_server.http.post(
        PATH, headers=headers, files={"file": ("a.wav", sentences(2))}, data=CHUNK
    )
    assert answer.status_code == 200

    eventually(lambda: bool(access_lines(locked_server, "request-of-the-log")))
    (line,) = access_lines(locked_server, "request-of-the-log")
    assert line["method"] == "POST"
    assert line["route"] == PATH
    assert line["status"] == 200
    assert line["client"] == "default"
    assert line["audio_seconds"] == 10.0
    assert line["seconds"] > 0


def test_a_streamed_request_has_its_audio_in_the_access_log(locked_server: Server) -> None:
    headers = KEY | {"x-request-id": "streamed"}
    form = {"stream": "true", **CHUNK}
    locked_server.http.post(
        PATH, headers=headers, files={"file": ("a.wav", sentences(2))}, data=form
    ).raise_for_status()

    eventually(lambda: bool(access_lines(locked_server, "streamed")))
    (line,) = access_lines(locked_server, "streamed")
    assert line["audio_seconds"] == 10.0


def test_a_refused_request_has_a_line_without_client(locked_server: Server) -> None:
    locked_server.http.get("/v1/models", headers={"x-request-id": "no-key"})

    eventually(lambda: bool(access_lines(locked_server, "no-key")))
    (line,) = access_lines(locked_server, "no-key")
    assert (line["status"], line["client"], line["route"]) == (401, None, "/v1/models")


def test_the_lines_of_a_jobs_run_have_its_id(locked_server: Server) -> None:
    job = locked_server.http.post(
        PATH, headers=KEY, files={"file": ("a.wav", sentences(1))}, data={"async": "true"}
    ).json()

    def lines() -> list[str]:
        return [
            line["message"]
            for line in map(json.loads, locked_server.log.splitlines())
            if line["request_id"] == job["request_id"]
        ]

    eventually(lambda: any("completed" in message for message in lines()))


def test_probes_have_no_line_in_the_access_log(fake_server: Server) -> None:
    fake_server.http.get("/metrics").raise_for_status()
    fake_server.http.get("/v1/models", headers={"x-request-id": "after-the-probe"})

    eventually(lambda: "after-the-probe" in fake_server.log)
    assert "route=/metrics" not in fake_server.log
