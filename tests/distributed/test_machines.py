"""Replicas and workers as processes, on a real broker and a real S3: what a crash may not do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from openai import RateLimitError

from brokers import Kafka, cluster_settings
from brokers import Server as Process
from gated import Gate
from job_calls import watch
from live import PATH, Events, deltas
from machines import ANN, Machines, is_ready, submit
from receiver import Receiver
from server import WORKER, Server
from support import PATIENCE, eventually
from tones import CHUNK, sentences, text
from whisperx_api_server.distributed.connection import KafkaSettings
from whisperx_api_server.distributed.kafka import open_kafka
from whisperx_api_server.distributed.protocols import CaughtUp
from whisperx_api_server.distributed.topics import topics

ON_A_SMALL_DISK = (
    *("unshare", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=64k tmpfs "$TMPDIR" && exec "$@"',
    "sh",
)
"""Runs the command that follows it with temporary files on a disk of 64 KB."""

KEYS = {"key-of-ann": "ann", "key-of-bob": "bob"}
BOB = {"authorization": "Bearer key-of-bob"}
QUEUES = 2
QUEUE_SECONDS = 60
PROMPT = "a-prompt-that-is-nobody-elses"


@pytest.fixture(scope="module")
def machines(
    kafka_servers: str, s3_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    directory = tmp_path_factory.mktemp("machines")
    keys = directory / "keys.json"
    keys.write_text(json.dumps(KEYS))
    settings = cluster_settings(kafka_servers, s3_url) | {
        "KAFKA__QUEUES": str(QUEUES),
        "KAFKA__MAX_ATTEMPTS": "2",
        "LIMITS__QUEUE_SECONDS": str(QUEUE_SECONDS),
        "API_KEYS_FILE": str(keys),
        "WEBHOOK_SECRET": "secret-of-webhooks",
        "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
    }
    with ExitStack() as stack:
        yield Machines(directory, settings, stack)


def status(replica: Server, job: str) -> dict[str, Any]:
    answer = replica.http.get(f"{PATH}/{job}/status")
    return cast("dict[str, Any]", answer.raise_for_status().json())


def has_completed(replica: Server, job: str) -> bool:
    return bool(status(replica, job)["status"] == "completed")


def test_a_stream_comes_window_by_window_from_a_worker(machines: Machines) -> None:
    for gate in machines.gates:
        gate.allow(1)
    events = Events(machines.replicas[0], sentences(4), **CHUNK)
    first = events.next()
    assert first["type"] == "transcript.text.delta"
    machines.allow()
    assert deltas([first, *events.rest()]).strip() == text(4)


def test_any_replica_answers_for_a_job(machines: Machines) -> None:
    here, there = machines.replicas
    machines.gates[0].allow(0)
    machines.gates[1].allow(0)
    job = submit(here, sentences(3))
    assert status(there, job)["status"] in ("queued", "running")
    assert there.http.get(f"{PATH}/{job}/status", headers=BOB).status_code == 404
    assert job in [each["request_id"] for each in there.http.get(PATH).json()["data"]]
    assert there.http.get(PATH, headers=BOB).json()["data"] == []
    events = watch(there, {"events_url": f"{PATH}/{job}/events"}, text="true")
    first = next(events)
    machines.allow()
    received = [first, *events]
    assert received[-1]["type"] == "job.completed"
    assert deltas(received) == text(3)
    for replica in machines.replicas:
        assert replica.http.get(f"{PATH}/{job}/result").json()["text"] == text(3)
    assert there.http.delete(f"{PATH}/{job}").json()["deleted"] is True
    eventually(lambda: here.http.get(f"{PATH}/{job}/status").status_code == 404)


def test_any_replica_cancels_a_job(machines: Machines) -> None:
    here, there = machines.replicas
    job, _ = machines.begin(here, sentences(5), 1)
    assert there.http.delete(f"{PATH}/{job}").json()["status"] == "cancelled"
    assert status(here, job)["status"] == "cancelled"
    machines.allow()


def test_a_worker_that_is_killed_costs_no_answer(machines: Machines) -> None:
    replica = machines.replicas[0]
    machines.settle()
    kept = machines.kept_windows()
    job, holder = machines.begin(replica, sentences(6), 3)
    eventually(lambda: machines.kept_windows() == kept + 3)
    survivor = machines.gates[1 - holder]
    before = len(survivor.passed)
    machines.kill(holder)
    machines.allow()
    eventually(lambda: status(replica, job)["status"] == "completed")
    assert replica.http.get(f"{PATH}/{job}/result").json()["text"] == text(6)
    assert len(survivor.passed) - before == 3  # the others were in the checkpoint
    machines.revive(holder)


def test_a_stream_whose_worker_is_killed_has_the_whole_text(machines: Machines) -> None:
    machines.settle()
    before = [len(gate.passed) for gate in machines.gates]
    for gate in machines.gates:
        gate.allow(1)
    events = Events(machines.replicas[1], sentences(5, language="fr"), **CHUNK)
    first = events.next()
    passed = [len(gate.passed) for gate in machines.gates]
    holder = 0 if passed[0] > before[0] else 1
    machines.kill(holder)
    machines.allow()
    received = [first, *events.rest()]
    assert deltas(received).strip() == received[-1]["text"] == text(5, language="fr")
    machines.revive(holder)


def test_a_recording_that_kills_its_workers_fails_and_what_is_beside_it_completes(
    machines: Machines,
) -> None:
    replica = machines.replicas[0]
    poison, first = machines.begin(replica, sentences(3), 1)
    machines.kill(first)
    eventually(lambda: len(machines.objects(f"runs/{poison}/attempts")) == 1)
    innocents = [submit(replica, sentences(2 + each), language="en") for each in range(2)]
    eventually(lambda: prefetch_seconds(replica) >= 3)
    machines.kill(1 - first)
    machines.allow()
    machines.revive(first)
    eventually(lambda: status(replica, poison)["status"] == "failed")
    assert status(replica, poison)["error"]["code"] == "worker_lost"
    for place, job in enumerate(innocents):
        eventually(partial(has_completed, replica, job))
        answer = replica.http.get(f"{PATH}/{job}/result")
        assert answer.json()["text"] == text(2 + place)
    machines.revive(1 - first)


def test_a_flood_is_refused_by_every_replica(machines: Machines) -> None:
    here, there = machines.replicas
    for gate in machines.gates:
        gate.allow(0)
    windows = QUEUE_SECONDS // 10  # each of 5 s: two recordings fill the queue
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(here.transcribe, sentences(windows), **CHUNK, **language)
            for language in ({}, {"language": "en"})  # requests that share no run
        ]

        def admitted() -> float:
            replicas = [each for each in there.info()["members"] if each["role"] == "replica"]
            return float(sum(each["seconds"] for each in replicas))

        eventually(lambda: admitted() >= QUEUE_SECONDS)
        for client in (ANN, BOB):
            with (
                there.openai(api_key=client["authorization"].split()[1]) as openai,
                pytest.raises(RateLimitError) as refused,
            ):
                openai.audio.transcriptions.create(
                    model="whisper-1", file=("audio.wav", sentences(1))
                )
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 3600
        machines.allow()
        assert {answer.result().json()["text"] for answer in waiting} == {text(windows)}
    eventually(lambda: admitted() == 0)
    assert there.transcribe(sentences(1)).json()["text"] == text(1)


def test_runs_that_have_ended_leave_nothing_in_the_bucket(machines: Machines) -> None:
    eventually(lambda: machines.objects("runs") == machines.objects("open") == [])


def test_a_worker_that_hangs_loses_its_run_to_another(machines: Machines) -> None:
    replica = machines.replicas[0]
    job, holder = machines.begin(replica, sentences(5), 1)
    process = machines.workers[holder].process
    process.send_signal(signal.SIGSTOP)
    try:
        machines.gates[1 - holder].allow()
        eventually(lambda: status(replica, job)["status"] == "completed")
        assert replica.http.get(f"{PATH}/{job}/result").json()["text"] == text(5)
    finally:
        process.send_signal(signal.SIGCONT)
    machines.allow()
    eventually(lambda: prefetch_seconds(replica) == 0)
    assert replica.transcribe(sentences(1)).json()["text"] == text(1)


def prefetch_seconds(replica: Server) -> int:
    """How many runs the workers have."""
    return sum(member["runs"] for member in replica.info()["members"])


def answers(replica: Server) -> bool:
    """Whether it takes requests again, after a server that it needs was away."""
    answer = replica.transcribe(sentences(1))
    return answer.status_code == 200 and answer.json()["text"] == text(1)


def test_a_broker_that_is_killed_delays_events_and_new_jobs_only(
    machines: Machines, request: pytest.FixtureRequest
) -> None:
    if "WHISPERX_TEST_KAFKA" in os.environ:
        pytest.skip("the broker is not the tests' own")
    broker: Kafka = request.getfixturevalue("real_kafka")
    replica = machines.replicas[0]
    job, _ = machines.begin(replica, sentences(4), 1)
    broker.server.stop()
    waiting = submit(replica, sentences(2))
    machines.allow()
    broker.server.start()
    eventually(partial(has_completed, replica, job))
    assert replica.http.get(f"{PATH}/{job}/result").json()["text"] == text(4)
    eventually(partial(has_completed, replica, waiting))
    assert replica.http.get(f"{PATH}/{waiting}/result").json()["text"] == text(2)
    eventually(partial(answers, replica))


def test_a_store_that_is_away_refuses_new_requests_and_delays_runs(
    machines: Machines, request: pytest.FixtureRequest
) -> None:
    if "WHISPERX_TEST_S3" in os.environ:
        pytest.skip("the S3 server is not the tests' own")
    store: Process = request.getfixturevalue("real_s3")
    replica = machines.replicas[0]
    job, worker = machines.begin(replica, sentences(4), 1)
    holder = machines.gates[worker]
    before = len(holder.passed)
    early = submit(replica, sentences(2))  # the store goes away at any of its first steps
    store.stop()
    try:
        refused = replica.transcribe(sentences(1))
        assert refused.status_code == 503
        assert "object store" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        machines.allow()
        eventually(lambda: len(holder.passed) >= before + 3)  # the worker goes on
        eventually(lambda: not is_ready(replica))
        assert status(replica, job)["status"] != "completed"
    finally:
        store.start()
    for each, spoken in ((job, text(4)), (early, text(2))):
        eventually(partial(has_completed, replica, each))
        assert replica.http.get(f"{PATH}/{each}/result").json()["text"] == spoken
    eventually(partial(answers, replica))
    eventually(partial(is_ready, replica))


def test_a_replica_that_is_killed_costs_no_job_and_its_stream_is_replayed_at_another(
    machines: Machines,
) -> None:
    doomed, other = machines.replicas
    machines.settle()
    before = machines.passed
    for gate in machines.gates:
        gate.allow(1)
    spoken = sentences(3, language="fr")
    stream = Events(doomed, spoken, **CHUNK)
    first = stream.next()
    with Receiver() as receiver:
        job = submit(doomed, sentences(2), callback_url=receiver.url)
        eventually(lambda: prefetch_seconds(other) == 2)
        doomed.process.send_signal(signal.SIGKILL)
        doomed.process.wait()
        stream.leave()
        again = Events(other, spoken, **CHUNK)
        assert again.next() == first
        machines.allow()
        received = [first, *again.rest()]
        assert deltas(received).strip() == received[-1]["text"] == text(3, language="fr")
        eventually(lambda: status(other, job)["status"] == "completed")
        assert other.http.get(f"{PATH}/{job}/result").json()["text"] == text(2)
        assert machines.passed - before == 3 + 2  # each window once
        eventually(lambda: bool(receiver.deliveries))
        assert {each.headers["webhook-id"] for each in receiver.deliveries} == {f"evt_{job}"}
    machines.replicas[0] = machines.replica().wait_until_healthy()


def test_a_worker_with_a_full_disk_leaves_its_recordings_to_the_others(
    machines: Machines, tmp_path: Path
) -> None:
    try:
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        subprocess.run([*ON_A_SMALL_DISK, "true"], env=environment, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    machines.settle()
    replica, gate = machines.replicas[0], Gate(tmp_path / "gate")
    gate.allow()
    full = machines.worker(gate, command=(*ON_A_SMALL_DISK, *WORKER)).wait_until_healthy()
    eventually(partial(is_ready, full))
    jobs: list[str] = []

    def has_overflowed() -> bool:
        jobs.append(submit(replica, sentences(3), prompt=f"recording {len(jobs)}"))
        eventually(lambda: status(replica, jobs[-1])["status"] in ("completed", "failed"))
        return "the disk is full" in full.log

    eventually(has_overflowed)
    for job in jobs:
        assert replica.http.get(f"{PATH}/{job}/result").json()["text"] == text(3)
    assert "disk is full" in full.http.get("/ready").json()["error"]["message"]
    assert full.log.count("the disk is full") == 1
    assert gate.passed == []
    full.stop()


def test_keys_prompts_urls_and_texts_are_in_no_topic(machines: Machines) -> None:
    machines.allow()
    replica = machines.replicas[0]
    answer = replica.transcribe(sentences(1), prompt=PROMPT)
    assert answer.status_code == 200
    with Receiver() as receiver:
        job = submit(replica, sentences(2), prompt=PROMPT, callback_url=receiver.url)
        eventually(lambda: status(replica, job)["status"] == "completed")
        sent = asyncio.run(all_messages(machines))
        assert job.encode() in sent
        spoken, _ = text(2).split(".", 1)
        for secret in (PROMPT, receiver.url, *KEYS, "secret-of-webhooks", spoken):
            assert secret.encode() not in sent


def test_a_worker_that_is_stopped_hands_on_the_runs_that_it_cannot_finish(
    machines: Machines,
) -> None:
    replica = machines.replicas[0]
    held, holder = machines.begin(replica, sentences(4), 1)
    before = machines.passed
    jobs = [held, *(submit(replica, sentences(2 + each), language="en") for each in range(2))]
    eventually(lambda: prefetch_seconds(replica) == len(jobs))
    stopped = machines.workers[holder]
    stopped.process.send_signal(signal.SIGTERM)
    machines.gates[1 - holder].allow()
    for job in jobs:
        eventually(partial(has_completed, replica, job))
    assert replica.http.get(f"{PATH}/{held}/result").json()["text"] == text(4)
    assert machines.passed - before == 3 + 2 + 3  # the first one was in the checkpoint
    machines.allow()
    assert stopped.process.wait(PATIENCE) == 0


async def all_messages(machines: Machines) -> bytes:
    """What all topics hold."""
    settings = KafkaSettings(
        bootstrap_servers=machines.settings["KAFKA__BOOTSTRAP_SERVERS"],
        prefix=machines.settings["KAFKA__PREFIX"],
        queues=QUEUES,
    )
    found = b""
    async with open_kafka(settings) as kafka:
        for topic in topics(QUEUES):
            async with aclosing(kafka.log.read(topic.name, since="earliest")) as messages:
                async for each in messages:
                    if isinstance(each, CaughtUp):
                        break
                    found += each.key.encode() + (each.value or b"")
    return found
