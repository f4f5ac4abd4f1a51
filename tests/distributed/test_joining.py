"""Equal requests at two replicas share one run, which outlives any of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster import Cluster, Replica, WorkerProcess, play
from live import until
from whisperx_api_server.distributed import worker as workers
from whisperx_api_server.distributed.wire import CONTROL, Followed
from whisperx_api_server.pipeline.events import Event

Answer = asyncio.Task[tuple[list[Event], str]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is shared is deleted soon, and a replica counts as gone after moments."""
    monkeypatch.setattr("whisperx_api_server.distributed.kafka_runner.LOOK", 0.2)
    monkeypatch.setattr("whisperx_api_server.distributed.heartbeats.INTERVAL", 0.05)
    monkeypatch.setattr(workers, "PATIENCE", 0.3)


def followers(cluster: Cluster) -> list[str]:
    """The replicas that have begun or joined runs, in order."""
    said = [CONTROL.load(each.value) for each in cluster.log.of("control") if each.value]
    return [message.replica for message in said if isinstance(message, Followed)]


async def asked(cluster: Cluster, replica: Replica, name: str) -> Answer:
    """A request that a replica has begun or joined."""
    before = followers(cluster)
    answer = asyncio.create_task(replica.run("english"))
    await until(lambda: followers(cluster) == [*before, name])
    return answer


def owner(replica: Replica) -> str:
    """The replica that sees to the one run that this one follows."""
    (following,) = replica.notices._following.values()
    return following.owner


async def cancelled(answer: Answer) -> None:
    answer.cancel()
    await asyncio.wait([answer])


async def shared(cluster: Cluster) -> tuple[WorkerProcess, Replica, Answer, Answer]:
    """A run that a worker holds, asked for here and joined there.

    Returns the worker, the replica `here`, its answer, and that of the replica `there`.
    """
    worker = await cluster.worker()
    worker.world.hold.stage = "transcribe"
    here, there = await cluster.replica("here"), await cluster.replica("there")
    first = await asked(cluster, here, "here")
    await until(worker.world.hold.entered.is_set)
    return worker, here, first, await asked(cluster, there, "there")


def test_a_request_at_another_replica_joins_the_run(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker, _, first, second = await shared(cluster)
        worker.world.hold.go.set()
        assert await first == await second
        assert (await first)[1].startswith("red door.")
        assert worker.world.clips.opened == 1
        await until(lambda: cluster.objects() == [])

    play(tmp_path, scene)


def test_a_run_goes_on_when_the_first_of_two_replicas_leaves(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker, here, first, second = await shared(cluster)
        await until(lambda: owner(here) == "there")
        await cancelled(first)
        worker.world.hold.go.set()
        assert (await second)[1].startswith("red door.")
        assert worker.world.clips.opened == 1
        await until(lambda: cluster.objects() == [])

    play(tmp_path, scene)


def test_a_request_begins_anew_when_the_replica_that_joined_it_leaves(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker, here, first, second = await shared(cluster)
        await until(lambda: owner(here) == "there")
        await cancelled(second)
        worker.world.hold.go.set()
        assert (await first)[1].startswith("red door.")
        await until(lambda: cluster.objects() == [])

    play(tmp_path, scene)


def test_a_worker_goes_on_for_the_replica_that_joined_one_that_is_gone(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker, here, _, second = await shared(cluster)
        here.taking_part.cancel()
        (held,) = worker.worker._held.values()
        await until(lambda: held.stored is not None and held.stored.replica == "there")
        worker.world.hold.go.set()
        assert (await second)[1].startswith("red door.")
        assert worker.world.clips.opened == 1

    play(tmp_path, scene)
