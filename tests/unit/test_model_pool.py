"""Models load once, stay while they are used, and go when they should."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest

from live import until
from support import PATIENCE
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import Capabilities, ModelSpec
from whisperx_api_server.errors import (
    Conflict,
    InsufficientMemory,
    ModelUnavailable,
    NotConfigured,
    Unavailable,
)
from whisperx_api_server.scheduling import loading
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings
from whisperx_api_server.scheduling.work import Entry, Work


class Model:
    """Doubles numbers; a negative one kills the thread."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.may_close = threading.Event()
        self.may_close.set()
        self.may_end = threading.Event()
        self.may_end.set()

    def run(self, numbers: Sequence[int]) -> list[int]:
        assert self.may_end.wait(PATIENCE)
        if min(numbers) < 0:
            raise SystemExit("killed")
        return [2 * number for number in numbers]

    def close(self) -> None:
        self.may_close.wait(PATIENCE)
        self.closed.set()


DOUBLE: Work[Model, int, int] = Work(run=lambda model, numbers, _: model.run(numbers))


class World:
    """A pool whose loads and clock the test holds."""

    def __init__(self, close_timeout: float = 30.0, **settings: Any) -> None:
        self.now = 1000.0
        self.loads: list[str] = []
        self.models: dict[str, Model] = {}
        self.failures: list[Exception] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.make: Callable[[], Model] = Model
        self.imports: list[str] = []
        self.may_import = threading.Event()
        self.may_import.set()
        self.pool = ModelPool(
            PoolSettings(**settings),
            SchedulerSettings(),
            close_timeout=close_timeout,
            load=self.load,
            import_vendors=self.import_vendors,
            clock=lambda: self.now,
        )

    def import_vendors(self, key: ModelKey) -> None:
        self.imports.append(key.spec.name)
        assert self.may_import.wait(PATIENCE)

    def load(self, key: ModelKey) -> object:
        self.loads.append(key.spec.name)
        assert self.may_load.wait(PATIENCE)
        if self.failures:
            raise self.failures.pop(0)
        model = self.models[key.spec.name] = self.make()
        return model

    async def begin_load(self, name: str) -> None:
        """Begin a load, whose requester leaves."""
        self.may_load.clear()
        load = asyncio.create_task(self.pool.load(key(name)))
        await until(lambda: bool(self.loads))
        load.cancel()
        await asyncio.wait([load])

    def loaded(self) -> list[str]:
        return [status.key.spec.name for status in self.pool.statuses()]


def key(name: str) -> ModelKey:
    return ModelKey(stage="diarization", backend="test", spec=ModelSpec(name=name))


def play(scene: Callable[[World], Coroutine[Any, Any, None]], **settings: Any) -> World:
    """Run a scene; at the end the pool must close, which frees every model."""

    async def run() -> World:
        world = World(**settings)
        try:
            async with asyncio.timeout(PATIENCE):
                await scene(world)
        finally:
            await world.pool.close()
        return world

    world = asyncio.run(run())
    assert all(model.closed.is_set() for model in world.models.values())
    assert world.pool.statuses() == []
    deadline = time.monotonic() + PATIENCE
    while any("test" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
    return world


async def doubled(world: World, name: str, number: int = 2) -> int:
    async with world.pool.lease(key(name)) as lane:
        work = lane.submit(Entry(work=DOUBLE, payload=number, client="c", request_id="r"))
        return await asyncio.wrap_future(work)


def test_vendors_are_imported_by_one_thread_at_a_time() -> None:
    """They import one another, which fails at random from two threads at once."""

    async def scene(world: World) -> None:
        world.may_import.clear()
        loads = [asyncio.create_task(world.pool.load(key(name))) for name in "ab"]
        await until(lambda: bool(world.imports))
        await asyncio.sleep(0.05)
        assert len(world.imports) == 1
        assert world.loads == []
        world.may_import.set()
        await asyncio.gather(*loads)

    assert sorted(play(scene).imports) == ["a", "b"]


def test_first_models_of_two_backends_load_side_by_side() -> None:
    """A model on disk must not wait for another's download."""

    async def scene(world: World) -> None:
        other = ModelKey(stage="alignment", backend="other", spec=ModelSpec(name="b"))
        world.may_load.clear()
        both = asyncio.gather(world.pool.load(key("a")), world.pool.load(other))
        await until(lambda: sorted(world.loads) == ["a", "b"])
        assert [status.state for status in world.pool.statuses()] == ["loading", "loading"]
        world.may_load.set()
        await both
        assert [status.state for status in world.pool.statuses()] == ["ready", "ready"]

    play(scene)


def test_a_first_model_that_fails_lets_the_next_one_load() -> None:
    async def scene(world: World) -> None:
        world.failures.append(OSError("/srv/models/a is broken"))
        with pytest.raises(ModelUnavailable) as failed:
            await world.pool.load(key("a"))
        assert "/srv" not in failed.value.message
        await world.pool.load(key("b"))

    play(scene)


def test_concurrent_first_requests_load_once() -> None:
    async def scene(world: World) -> None:
        answers = await asyncio.gather(*(doubled(world, "a", n) for n in range(10)))
        assert answers == [2 * n for n in range(10)]

    assert play(scene).loads == ["a"]


def test_a_model_in_use_is_not_unloaded() -> None:
    async def scene(world: World) -> None:
        async with world.pool.lease(key("a")):
            with pytest.raises(Conflict, match="in use by 1"):
                await world.pool.unload(key("a"))
        assert await world.pool.unload(key("a"))
        assert world.models["a"].closed.is_set()
        assert not await world.pool.unload(key("a"))
        assert await doubled(world, "a") == 4

    assert play(scene).loads == ["a", "a"]


def test_a_model_that_is_loading_for_somebody_is_not_unloaded() -> None:
    async def scene(world: World) -> None:
        world.may_load.clear()
        load = asyncio.create_task(world.pool.load(key("a")))
        await until(lambda: bool(world.loads))
        with pytest.raises(Conflict):
            await world.pool.unload(key("a"))
        world.may_load.set()
        await load

    play(scene)


def test_a_model_that_loads_with_nobody_waiting_is_not_unloaded() -> None:
    """A download cannot be interrupted: the answer comes at once."""

    async def scene(world: World) -> None:
        await world.begin_load("a")
        with pytest.raises(Conflict, match="still loading"):
            await world.pool.unload(key("a"))
        world.may_load.set()
        await until(lambda: world.pool.statuses()[0].state == "ready")
        assert await world.pool.unload(key("a"))

    play(scene)


def test_a_model_is_not_loaded_beside_itself_while_it_closes() -> None:
    async def scene(world: World) -> None:
        await world.pool.load(key("a"))
        world.models["a"].may_close.clear()
        leaving = world.models["a"]
        unload = asyncio.create_task(world.pool.unload(key("a")))
        await until(lambda: not world.loaded())
        again = asyncio.create_task(doubled(world, "a"))
        await asyncio.sleep(0)
        assert world.loaded() == []
        leaving.may_close.set()
        assert await again == 4
        assert await unload
        assert leaving.closed.is_set()
        assert world.loads == ["a", "a"]

    play(scene)


async def stuck(world: World, name: str) -> Model:
    """A model inside a batch whose client has gone."""
    await world.pool.load(key(name))
    model = world.models[name]
    model.may_end.clear()
    request = asyncio.create_task(doubled(world, name))
    await until(lambda: any(status.lane.in_flight for status in world.pool.statuses()))
    request.cancel()
    await asyncio.wait([request])
    return model


def test_a_model_that_never_returns_holds_up_no_other() -> None:
    async def scene(world: World) -> None:
        model = await stuck(world, "a")
        await world.pool.load(key("b"))
        world.now += 301
        world.pool.sweep()
        await until(world.models["b"].closed.is_set)
        assert world.loaded() == []
        with pytest.raises(ModelUnavailable, match="last batch is still running") as refused:
            await doubled(world, "a")
        assert refused.value.retry_after
        assert await doubled(world, "b") == 4
        assert world.loads == ["a", "b", "b"]
        model.may_end.set()
        await until(model.closed.is_set)
        assert await doubled(world, "a") == 4

    play(scene, ttl=300, close_timeout=0.5)


def test_unloading_a_model_that_never_returns_is_answered() -> None:
    async def scene(world: World) -> None:
        model = await stuck(world, "a")
        with pytest.raises(Conflict, match="last batch is still running"):
            await world.pool.unload(key("a"))
        model.may_end.set()
        await until(model.closed.is_set)

    play(scene, close_timeout=0.5)


def test_models_that_never_return_take_no_thread_of_the_default_executor() -> None:
    """Uploads are written by those: a thread held for each would stop them."""

    async def scene(world: World) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        model = await stuck(world, "a")
        world.now += 301
        world.pool.sweep()
        assert world.loaded() == []
        assert await asyncio.to_thread(lambda: "written") == "written"
        model.may_end.set()

    play(scene, ttl=300)


def test_the_pool_closes_without_the_model_that_never_returns() -> None:
    async def scene(world: World) -> None:
        model = await stuck(world, "a")
        await world.pool.close(grace=0.05)
        assert world.loaded() == []
        assert not model.closed.is_set()
        model.may_end.set()

    play(scene)


def test_a_model_that_does_not_fit_is_loaded_once_idle_ones_are_gone() -> None:
    async def scene(world: World) -> None:
        await world.pool.load(key("idle"))
        other_device = replace(key("other"), spec=ModelSpec(name="other", device="cuda"))
        await world.pool.load(other_device)
        async with world.pool.lease(key("used")):
            world.failures = [RuntimeError("CUDA failed with error out of memory")]
            assert await doubled(world, "new") == 4
            assert world.models["idle"].closed.is_set()
            assert world.loaded() == ["other", "used", "new"]

    assert play(scene).loads == ["idle", "other", "used", "new", "new"]


def test_a_model_that_does_not_fit_at_all_is_refused() -> None:
    async def scene(world: World) -> None:
        world.failures = [InsufficientMemory("too large")]
        with pytest.raises(InsufficientMemory):
            await world.pool.load(key("a"))
        assert world.loads == ["a"]  # nothing was idle
        await world.pool.load(key("b"))
        world.failures = [InsufficientMemory("too large") for _ in range(2)]
        with pytest.raises(InsufficientMemory):
            await world.pool.load(key("a"))
        assert world.loads == ["a", "b", "a", "a"]
        assert world.loaded() == []

    play(scene)


def test_idle_models_are_unloaded_after_their_time() -> None:
    async def scene(world: World) -> None:
        await world.pool.load(key("old"))
        async with world.pool.lease(key("used")):
            world.now += 200
            await world.pool.load(key("young"))
            world.now += 200
            world.pool.sweep()
            assert world.loaded() == ["used", "young"]
        world.pool.sweep()  # its time begins when it was used last
        assert world.loaded() == ["used", "young"]
        world.now += 301
        world.pool.sweep()
        assert world.loaded() == []

    play(scene, ttl=300)


def test_a_negative_time_to_live_keeps_models() -> None:
    async def scene(world: World) -> None:
        await world.pool.load(key("a"))
        world.now += 1e9
        world.pool.sweep()
        assert world.loaded() == ["a"]

    play(scene, ttl=-1)


def test_a_load_whose_requester_left_is_there_and_goes_in_time() -> None:
    async def scene(world: World) -> None:
        await world.begin_load("a")
        world.may_load.set()
        await until(lambda: world.pool.statuses()[0].state == "ready")
        assert await doubled(world, "a") == 4
        assert world.loads == ["a"]
        world.now += 301
        world.pool.sweep()
        assert world.loaded() == []

    play(scene, ttl=300)


def test_a_load_that_failed_with_nobody_waiting_leaves_nothing() -> None:
    async def scene(world: World) -> None:
        world.may_load.clear()
        world.failures = [NotConfigured("no such thing")]
        load = asyncio.create_task(world.pool.load(key("a")))
        await until(lambda: bool(world.loads))
        load.cancel()
        await asyncio.wait([load])
        world.may_load.set()
        await until(lambda: not world.pool.statuses())

    play(scene)


def test_a_failed_load_is_told_to_all_and_forgotten() -> None:
    async def scene(world: World) -> None:
        world.may_load.clear()
        world.failures = [NotConfigured("set X")]
        tasks = [asyncio.create_task(doubled(world, "a")) for _ in range(3)]
        await until(lambda: bool(world.loads))
        world.may_load.set()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(answer, NotConfigured)
        assert world.loaded() == []
        assert await doubled(world, "a") == 4

    assert play(scene).loads == ["a", "a"]


def test_a_vendor_s_load_error_keeps_its_words_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(world: World) -> None:
        world.failures = [ValueError("/secret/path is broken")]
        with pytest.raises(ModelUnavailable) as caught:
            await world.pool.load(key("a"))
        assert "secret" not in caught.value.message

    play(scene)
    assert "/secret/path" in caplog.text


def test_a_lane_that_died_goes_on_with_a_model_loaded_anew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(world: World) -> None:
        with pytest.raises(Unavailable):
            await doubled(world, "a", -1)
        assert await doubled(world, "a") == 4
        assert world.pool.statuses()[0].lane.stats.restarts == 1

    assert play(scene).loads == ["a", "a"]


def test_a_lane_that_cannot_load_again_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(world: World) -> None:
        await world.pool.load(key("a"))
        world.failures = [ModelUnavailable("the hub is away")]
        with pytest.raises(Unavailable):
            await doubled(world, "a", -1)
        await until(lambda: world.pool.statuses()[0].lane.closed)
        assert await doubled(world, "a") == 4

    assert play(scene).loads == ["a", "a", "a"]


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each load makes the process 100 bytes larger."""
    measured = iter(range(0, 1_000_000, 100))
    monkeypatch.setattr(loading, "_resident_bytes", lambda: next(measured))


@pytest.mark.usefixtures("growing")
def test_over_the_budget_the_least_recently_used_go() -> None:
    async def scene(world: World) -> None:
        for name in "ab":
            await world.pool.load(key(name))
            world.now += 1
        await world.pool.load(key("a"))
        world.now += 1
        await world.pool.load(key("c"))
        assert world.loaded() == ["a", "c"]
        await until(world.models["b"].closed.is_set)

    play(scene, memory_bytes=250)


@pytest.mark.usefixtures("growing")
def test_models_in_use_may_exceed_the_budget_until_they_are_idle() -> None:
    async def scene(world: World) -> None:
        async with AsyncExitStack() as stack:
            for name in "abc":
                await stack.enter_async_context(world.pool.lease(key(name)))
                world.now += 1
            assert world.loaded() == ["a", "b", "c"]
        # Left in the order c, b, a: the last one used stays.
        assert world.loaded() == ["a"]

    play(scene, memory_bytes=150)


def test_a_model_loaded_again_keeps_its_measured_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([0, 100, 100, 100])  # the second load reuses what the allocator kept
    monkeypatch.setattr(loading, "_resident_bytes", lambda: next(sizes))

    async def scene(world: World) -> None:
        for _ in range(2):
            await world.pool.load(key("a"))
            assert world.pool.statuses()[0].memory_bytes == 100
            await world.pool.unload(key("a"))

    play(scene)


def test_voice_activity_is_found_while_other_models_compute() -> None:
    """Live sessions need it for every half second of audio."""

    async def scene(world: World) -> None:
        busy = [key(name) for name in ("transcriber", "aligner")]
        detector = replace(key("detector"), stage="vad")
        async with AsyncExitStack() as leases:
            lanes = [await leases.enter_async_context(world.pool.lease(each)) for each in busy]
            for model in world.models.values():
                model.may_end.clear()
            held = [
                lane.submit(Entry(work=DOUBLE, payload=1, client="a", request_id="file"))
                for lane in lanes
            ]
            await until(lambda: all(future.running() for future in held))
            lane = await leases.enter_async_context(world.pool.lease(detector))
            found = lane.submit(Entry(work=DOUBLE, payload=2, client="b", request_id="live"))
            await until(found.done)
            assert not any(future.done() for future in held)
            for model in world.models.values():
                model.may_end.set()

    play(scene)


def test_cancel_reaches_every_lane() -> None:
    async def scene(world: World) -> None:
        async with world.pool.lease(key("a")) as one, world.pool.lease(key("b")) as two:
            hold = threading.Event()
            held: Work[Model, int, int] = Work(run=lambda *_: [int(hold.wait(PATIENCE))])
            running = [
                asyncio.wrap_future(
                    lane.submit(Entry(work=held, payload=0, client="c", request_id="other"))
                )
                for lane in (one, two)
            ]
            await until(lambda: one.in_flight == two.in_flight == 1)
            for lane in (one, two):
                lane.submit(Entry(work=DOUBLE, payload=1, client="c", request_id="gone"))
            assert world.pool.cancel("gone") == 2
            assert [status.waiting for status in world.pool.statuses()] == [0, 0]
            hold.set()
            await asyncio.gather(*running)

    play(scene)


class Hearing(Model):
    """A transcriber as the pool sees it."""

    def __init__(self, max_batch: int | None) -> None:
        super().__init__()
        self.capabilities = Capabilities(max_batch=max_batch)


@pytest.mark.parametrize(("engine", "expected"), [(None, 6), (4, 4), (8, 6)])
def test_a_batch_is_bounded_by_the_setting_and_by_the_engine(
    engine: int | None, expected: int
) -> None:
    async def scene(world: World) -> None:
        world.make = lambda: Hearing(engine)
        spec = ModelSpec(name="a", max_batch=6)
        async with world.pool.lease(
            ModelKey(stage="transcription", backend="test", spec=spec)
        ) as lane:
            assert lane.batch_limit == expected

    play(scene)
