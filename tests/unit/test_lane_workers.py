"""Several workers of a lane, such as one on each GPU, compute the batches of its one queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from typing import Any

import pytest

from lanes import DOUBLE_PREPARED, Engine, Lanes, submit
from live import until
from pipeline_world import Diarizer, World, play
from support import PATIENCE, eventually
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import ModelSpec, Stage
from whisperx_api_server.domain import AudioClip, Diarization, DiarizeOptions
from whisperx_api_server.errors import InsufficientMemory, InvalidAudio, Unavailable
from whisperx_api_server.scheduling.fair_semaphore import FairSemaphore
from whisperx_api_server.scheduling.lane import Lane
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    with closing(Lanes()) as made:
        yield made


def both_busy(lanes: Lanes, *, max_batch: int = 4) -> tuple[Lane[Engine], Engine, Engine]:
    """A lane whose workers each compute a batch of one, and their engines."""
    lane = lanes.lane(max_batch=max_batch, max_wait=0.0, workers=2)
    eventually(lambda: lane.workers == 2)
    for engine in lanes.engines:
        engine.go.clear()
    for number in range(2):
        submit(lane, f"blocker{number}", 0)
        eventually(lambda: lane.in_flight > number)  # noqa: B023
    one, other = lanes.engines
    return lane, one, other


def test_free_workers_divide_what_waits(lanes: Lanes) -> None:
    device = FairSemaphore(2)
    lane = lanes.lane(workers=2, device=device, max_wait=0.0)
    eventually(lambda: lane.workers == 2)
    for engine in lanes.engines:
        engine.go.clear()
    with device, device:
        futures = [submit(lane, "r", number) for number in range(4)]
    eventually(lambda: all(engine.busy.is_set() for engine in lanes.engines))
    for engine in lanes.engines:
        engine.go.set()
    assert [future.result(PATIENCE) for future in futures] == [0, 2, 4, 6]
    assert [[len(batch) for batch in engine.batches] for engine in lanes.engines] == [[2], [2]]
    assert lanes.engines[0].threads.isdisjoint(lanes.engines[1].threads)


def test_a_free_worker_takes_all_that_waits_beside_a_busy_one(lanes: Lanes) -> None:
    lane, one, other = both_busy(lanes)
    futures = [submit(lane, "r", number, work=DOUBLE_PREPARED) for number in range(1, 5)]
    other.go.set()
    assert [future.result(PATIENCE) for future in futures] == [2, 4, 6, 8]
    assert (one.batches, other.batches) == ([], [[0], [1, 2, 3, 4]])
    assert (lane.stats.batches, lane.stats.entries) == (3, 6)


def test_a_short_request_is_in_the_next_batch_of_any_worker(lanes: Lanes) -> None:
    lane, _, other = both_busy(lanes, max_batch=2)
    long = [submit(lane, "long", number) for number in range(1, 9)]
    short = submit(lane, "short", 9)
    other.go.set()
    assert short.result(PATIENCE) == 18
    assert 9 in other.batches[1]
    assert [future.result(PATIENCE) for future in long] == [2 * number for number in range(1, 9)]


def test_cancelled_entries_are_left_out_by_all_workers(lanes: Lanes) -> None:
    lane, one, other = both_busy(lanes)
    gone = [submit(lane, "gone", number) for number in range(1, 6)]
    kept = submit(lane, "kept", 9)
    assert lane.cancel("gone") == 5
    one.go.set()
    other.go.set()
    assert kept.result(PATIENCE) == 18
    eventually(lambda: not lane.in_flight)
    assert sorted([*one.batches, *other.batches]) == [[0], [0], [9]]
    for future in gone:
        with pytest.raises(CancelledError):
            future.result(0)


def test_a_memory_shortage_shrinks_one_workers_batches(lanes: Lanes) -> None:
    lane, one, _ = both_busy(lanes)
    one.memory = 2
    futures = [submit(lane, "r", number) for number in range(1, 5)]
    one.go.set()
    assert [future.result(PATIENCE) for future in futures] == [2, 4, 6, 8]
    assert lane.batch_limit == 2 + 4


def test_the_death_of_a_workers_thread_leaves_the_others_alone(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    lane, one, other = both_busy(lanes, max_batch=1)
    loaded = lane.loaded
    one.poison = {1: SystemExit("killed")}
    dying = submit(lane, "dying", 1)
    one.go.set()
    with pytest.raises(Unavailable, match="try again"):
        dying.result(PATIENCE)
    assert lane.loaded is loaded
    assert loaded.done()
    eventually(lambda: lane.workers == 2)  # only the model of the dead thread was loaded again
    assert len(lanes.engines) == 3
    assert (lane.stats.restarts, lane.in_flight) == (1, 1)
    assert submit(lane, "next", 2).result(PATIENCE) == 4
    other.go.set()
    assert "died" in caplog.text


def test_the_other_workers_do_the_work_of_one_that_cannot_load(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    may_load = threading.Semaphore(1)

    def load() -> Engine:
        if may_load.acquire(blocking=False):
            return lanes.load()
        raise InvalidAudio("there is no such device")

    lane = lanes.lane(load, workers=2)
    assert [submit(lane, "r", number).result(PATIENCE) for number in range(4)] == [0, 2, 4, 6]
    eventually(lambda: "continues without a worker: there is no such device" in caplog.text)
    assert (lane.workers, lane.batch_limit, lane.closed) == (1, 4, False)


def test_a_lane_fails_if_no_worker_can_load(lanes: Lanes) -> None:
    def load() -> Engine:
        raise InvalidAudio("there is no such device")

    lane = lanes.lane(load, workers=2)
    with pytest.raises(InvalidAudio, match="no such device"):
        lane.loaded.result(PATIENCE)
    assert lane.closed
    lane.close().result(PATIENCE)


def test_an_entry_for_a_worker_waits_for_it(lanes: Lanes) -> None:
    lane, one, other = both_busy(lanes)
    worker, engine = lane.next_worker()
    free = other if engine is one else one
    own = submit(lane, "own", 1, worker=worker)
    free.go.set()
    assert submit(lane, "any", 2).result(PATIENCE) == 4
    assert not own.done()
    engine.go.set()
    assert own.result(PATIENCE) == 2
    assert [1] in engine.batches


def test_entries_for_a_worker_that_is_gone_are_for_all(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    may_load = threading.Semaphore(2)

    def load() -> Engine:
        if may_load.acquire(blocking=False):
            return lanes.load()
        raise InvalidAudio("the device is lost")

    lane = lanes.lane(load, workers=2)
    eventually(lambda: lane.workers == 2)
    worker, engine = lane.next_worker()
    engine.poison = {1: SystemExit("killed")}
    engine.go.clear()
    dying = submit(lane, "dying", 1, worker=worker)
    assert engine.busy.wait(PATIENCE)
    waiting = submit(lane, "waiting", 2, worker=worker)
    engine.go.set()
    with pytest.raises(Unavailable):
        dying.result(PATIENCE)
    assert waiting.result(PATIENCE) == 4
    assert submit(lane, "later", 3, worker=worker).result(PATIENCE) == 6
    assert engine.batches == [[1]]


def test_a_closed_lane_ends_with_its_last_worker(lanes: Lanes) -> None:
    lane, one, other = both_busy(lanes)
    ended = lane.close()
    one.go.set()
    eventually(lambda: one.closed)
    assert not ended.done()
    other.go.set()
    ended.result(PATIENCE)
    assert other.closed


def key(stage: Stage, device: str = "cuda") -> ModelKey:
    return ModelKey(stage=stage, backend="test", spec=ModelSpec(name="model", device=device))


def with_pool(
    scene: Callable[[ModelPool], Coroutine[Any, Any, None]], load: Callable[[ModelKey], object]
) -> None:
    async def run() -> None:
        pool = ModelPool(
            PoolSettings(),
            SchedulerSettings(),
            gpus=(0, 2),
            load=load,
            import_vendors=lambda _: None,
        )
        async with asyncio.timeout(PATIENCE):
            await scene(pool)
        await pool.close()

    asyncio.run(run())


def test_each_gpu_gets_a_copy_of_a_model() -> None:
    loads: list[tuple[str, str]] = []

    def load(key: ModelKey) -> Engine:
        loads.append((key.stage, key.spec.torch_device))
        return Engine()

    async def scene(pool: ModelPool) -> None:
        for each, workers in (
            (key("alignment"), 2),
            (key("diarization"), 2),
            (key("vad"), 1),
            (key("alignment", "cpu"), 1),
        ):
            async with pool.lease(each) as lane:
                await until(lambda: lane.workers == workers)  # noqa: B023

    with_pool(scene, load)
    assert sorted(loads) == [
        ("alignment", "cpu"),
        ("alignment", "cuda:0"),
        ("alignment", "cuda:2"),
        ("diarization", "cuda:0"),
        ("diarization", "cuda:2"),
        ("vad", "cuda:0"),
    ]


def test_a_copy_that_does_not_fit_leaves_the_model_on_other_gpus(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither is that model unloaded for it, although it is idle."""
    idle = threading.Event()

    def load(key: ModelKey) -> Engine:
        if key.spec.device_index == 2:
            assert idle.wait(PATIENCE)
            raise InsufficientMemory("too large")
        return Engine()

    async def scene(pool: ModelPool) -> None:
        await pool.load(key("alignment"))
        idle.set()
        await until(lambda: "continues without a worker" in caplog.text)
        [status] = pool.statuses()
        assert (status.state, status.lane.workers) == ("ready", 1)

    with_pool(scene, load)


def test_recordings_are_transcribed_on_all_gpus_at_once() -> None:
    async def scene(world: World) -> None:
        alone = [await world.text(name) for name in ("english", "french")]
        world.hold.stage = "transcribe"
        before = world.hold.calls.count("transcribe")
        both = asyncio.gather(
            *(world.text(name, diarize=DiarizeOptions()) for name in ("english", "french"))
        )
        await until(lambda: world.hold.calls.count("transcribe") == before + 2)
        world.hold.go.set()
        assert await both == alone
        stages = {stage for stage, device in world.loads if device == "cuda:1"}
        assert stages == {"alignment", "diarization", "transcription"}
        world.assert_nothing_left()

    play(scene, gpus=(0, 1))


def test_the_steps_of_a_diarization_stay_on_one_worker() -> None:
    threads: dict[object, set[int]] = {}

    class Observed(Diarizer):
        def diarize(
            self, clip: AudioClip, options: DiarizeOptions
        ) -> Generator[float, None, Diarization]:
            steps = super().diarize(clip, options)
            while True:
                threads.setdefault(self, set()).add(threading.get_ident())
                try:
                    part = next(steps)
                except StopIteration as end:
                    result: Diarization = end.value
                    return result
                yield part

    async def scene(world: World) -> None:
        world.engines["diarization"] = Observed
        await world.pool.load(world.catalog.diarizer())
        await until(lambda: [each.lane.workers for each in world.pool.statuses()] == [2])
        names = ["english", "french"]
        await asyncio.gather(*(world.text(name, diarize=DiarizeOptions()) for name in names))
        assert [len(each) for each in threads.values()] == [1, 1]
        assert len(set.union(*threads.values())) == 2

    play(scene, gpus=(0, 1))
