"""Jobs of servers that restart, stand beside each other, or have no room for more."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import srt

from gated import Gate
from job_calls import SECRET, result, status, submit, wait_for
from live import PATH
from receiver import Receiver
from server import FAKE, Server
from support import PATIENCE, eventually
from tones import CHUNK, SPACING, sentences, text
from whisperx_api_server.domain import Job, Segment, Transcript
from whisperx_api_server.jobs.store import DiskJobStore


def test_jobs_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"key-of-ann": "ann", "key-of-bob": "bob"}))
    gate = Gate(tmp_path / "gate")
    settings = gate.settings() | {
        "JOBS__DIRECTORY": str(tmp_path / "jobs"),
        "API_KEYS_FILE": str(keys),
    }
    with Server(tmp_path / "first", settings) as server:
        server.http.headers["authorization"] = "Bearer key-of-ann"
        done, url, broken = (
            submit(server, sentences(1)),
            server.http.post(
                PATH,
                data={"async": "true", "audio_url": "http://localhost/talks/caf%C3%A9.mp3?k=v"},
            ).json(),
            submit(server, b"no audio"),
        )
        gate.allow()
        for job in (done, url, broken):
            wait_for(server, job)
        gate.allow(0)
        running = submit(server, sentences(2), **CHUNK)
        eventually(lambda: status(server, running)["status"] == "running")
        server.http.headers["authorization"] = "Bearer key-of-bob"
        bobs = submit(server, sentences(3), **CHUNK)
        assert ids(server) == [bobs["request_id"]]
        server.http.headers["authorization"] = "Bearer key-of-ann"
        newest_first = [job["request_id"] for job in (running, broken, url, done)]

        whole = server.http.get(PATH).json()
        assert [job["request_id"] for job in whole["data"]] == newest_first
        assert whole["data"][0] == status(server, running)
        assert (whole["has_more"], whole["last_id"]) == (False, done["request_id"])
        assert [job["filename"] for job in whole["data"][1:3]] == ["audio.wav", "café.mp3"]
        first = server.http.get(PATH, params={"limit": 3}).json()
        assert (first["has_more"], first["first_id"]) == (True, running["request_id"])
        second = ids(server, limit=3, after=first["last_id"])
        assert [job["request_id"] for job in first["data"]] + second == newest_first
        assert ids(server, status="failed") == newest_first[1:3]
        assert ids(server, status="failed", after=broken["request_id"]) == [url["request_id"]]
        assert ids(server, status="cancelled") == []
        for params, code in [({"after": bobs["request_id"]}, 404), ({"status": "lost"}, 400)]:
            assert server.http.get(PATH, params=params).status_code == code
        assert server.http.get(PATH, headers={"authorization": ""}).status_code == 401
        gate.allow()
        wait_for(server, running)

    with Server(tmp_path / "second", settings) as server:
        server.http.headers["authorization"] = "Bearer key-of-ann"
        assert ids(server) == newest_first


def ids(server: Server, **params: str | int) -> list[str]:
    listed = server.http.get(PATH, params=params).raise_for_status().json()
    return [job["request_id"] for job in listed["data"]]


def test_finished_jobs_outlive_a_crash_and_unfinished_ones_fail(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    settings = gate.settings() | {
        "JOBS__DIRECTORY": str(tmp_path / "jobs"),
        "WEBHOOK_SECRET": SECRET,
        "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
    }
    with Receiver() as receiver:
        first = Server(tmp_path / "first", settings).wait_until_healthy()
        gate.allow(2)
        finished = submit(first, sentences(2), **CHUNK)
        wait_for(first, finished)
        cut_off = submit(first, sentences(3), callback_url=receiver.url, **CHUNK)
        eventually(lambda: status(first, cut_off)["status"] == "running")
        first.process.kill()
        first.stop()

        with Server(tmp_path / "second", settings) as second:
            assert status(second, finished)["status"] == "completed"
            assert status(second, finished)["percent"] == 100
            assert result(second, finished).json()["text"] == text(2)
            cues = srt.parse(result(second, finished, response_format="srt").text)
            assert len(list(cues)) == 2
            failed = status(second, cut_off)
            assert (failed["status"], failed["error"]["code"]) == ("failed", "interrupted")
            assert "restarted" in failed["error"]["message"]
            assert result(second, cut_off).status_code == 409
            eventually(lambda: len(receiver.deliveries) == 1)
            event = json.loads(receiver.deliveries[0].body)
            assert event["type"] == "transcription.failed"
            second.http.delete(finished["status_url"].removesuffix("/status"))
            gate.allow()

        with Server(tmp_path / "third", settings) as third:
            assert third.http.get(finished["status_url"]).status_code == 404
            assert status(third, cut_off)["status"] == "failed"
        assert len(receiver.deliveries) == 1


def test_only_so_many_jobs_are_kept(tmp_path: Path) -> None:
    settings = FAKE | {"JOBS__DIRECTORY": str(tmp_path / "jobs"), "JOBS__MAX_COUNT": "2"}
    with Server(tmp_path, settings) as server:
        jobs = []
        for count in (1, 2, 3):
            jobs.append(submit(server, sentences(count)))
            wait_for(server, jobs[-1])

        eventually(lambda: server.http.get(jobs[0]["status_url"]).status_code == 404)
        assert status(server, jobs[1])["status"] == status(server, jobs[2])["status"] == "completed"
        eventually(lambda: len(list((tmp_path / "jobs").iterdir())) == 4)


def test_a_result_without_speakers_is_given_where_they_were_asked_for(tmp_path: Path) -> None:
    store = DiskJobStore(tmp_path / "jobs")
    said = Segment(start=0.0, end=1.0, text="red.", words=None)
    transcript = Transcript(
        task="transcribe", language="en", languages=("en",), duration=1.0, segments=(said,)
    )
    for number, diarize in enumerate([True, False]):
        job = Job(
            id=f"{number:032x}",
            client="anonymous",
            state="completed",
            submitted_at=time.time(),
            diarize=diarize,
            words=not diarize,
        )
        asyncio.run(store.save(job))
        asyncio.run(store.save_transcript(job.id, transcript))
    params = (
        {"response_format": "diarized_json"},
        {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
    )

    with Server(tmp_path, FAKE | {"JOBS__DIRECTORY": str(tmp_path / "jobs")}) as server:
        answers = [
            [server.http.get(f"{PATH}/{n:032x}/result", params=each).status_code for each in params]
            for n in range(2)
        ]

    # A transcript without turns, or whose words could not be timed, is not the client's fault.
    assert answers == [[200, 422], [422, 200]]


def test_servers_on_two_ports_keep_their_jobs_apart(tmp_path: Path) -> None:
    """The second one does not fail the first one's running job, nor tell of it."""
    gate = Gate(tmp_path / "gate")
    gate.allow(0)
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with Server(tmp_path, gate.settings() | state) as first:
        job = submit(first, sentences(2), **CHUNK)
        eventually(lambda: status(first, job)["status"] == "running")
        with Server(tmp_path, gate.settings() | state) as second:
            assert second.http.get(job["status_url"]).status_code == 404
        assert status(first, job)["status"] == "running"
        gate.allow()
        assert wait_for(first, job)["status"] == "completed"
    kept = [path.parent.name for path in (tmp_path / "state").rglob("*.job.json")]
    assert kept == [f"jobs-{first.port}"]


def test_a_second_server_with_the_same_directory_does_not_start(tmp_path: Path) -> None:
    settings = FAKE | {"JOBS__DIRECTORY": str(tmp_path / "jobs")}
    with Server(tmp_path / "first", settings):
        second = Server(tmp_path / "second", settings)
        assert second.process.wait(PATIENCE) != 0
        second.http.close()

    (line,) = second.log.strip().splitlines()
    assert "JOBS__DIRECTORY: another server uses" in line


def test_jobs_wait_for_room_in_the_order_of_submission(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    settings = gate.settings() | {
        "JOBS__DIRECTORY": str(tmp_path / "jobs"),
        "LIMITS__QUEUE_SECONDS": "20",
    }
    with Server(tmp_path, settings) as server:
        gate.allow(0)
        first = submit(server, sentences(3), **CHUNK)
        eventually(lambda: server.info()["queue"]["seconds"] == 3 * SPACING)
        waiting = [submit(server, sentences(2), **CHUNK)]
        eventually(lambda: is_waiting(server, waiting[0]))
        waiting.append(submit(server, sentences(1), **CHUNK))  # it would fit
        eventually(lambda: is_waiting(server, waiting[1]))
        waiting.append(submit(server, sentences(4), **CHUNK))
        eventually(lambda: is_waiting(server, waiting[2]))
        assert [status(server, job)["status"] for job in (first, *waiting)] == [
            *("running", "queued", "queued", "queued")
        ]
        refused = server.transcribe(sentences(1), **CHUNK, **{"async": "true"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "too many jobs wait" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1

        gate.allow()

        ended = [wait_for(server, job) for job in (first, *waiting)]
        assert [job["status"] for job in ended] == ["completed"] * 4
        turns = [wait_stage(job)["finished_at"] for job in ended[1:]]
        assert turns == sorted(turns)


def wait_stage(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(stage for stage in job["stages"] if stage["name"] == "wait")
    return found


def is_waiting(server: Server, job: dict[str, Any]) -> bool:
    return any(stage["name"] == "wait" for stage in status(server, job)["stages"])
