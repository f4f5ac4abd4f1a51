"""A lane answers every waiter, whatever its model does."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, nullcontext, suppress

import pytest

from lanes import DOUBLE_PREPARED, Engine, Lanes, submit
from support import PATIENCE, eventually
from whisperx_api_server.errors import (
    InsufficientMemory,
    InvalidAudio,
    TranscriptionFailed,
    Unavailable,
)
from whisperx_api_server.scheduling.fair_semaphore import FairSemaphore
from whisperx_api_server.scheduling.tracebacks import release_frames
from whisperx_api_server.scheduling.work import Entry, Work


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    with closing(Lanes()) as made:
        yield made


def test_requests_share_batches_on_one_thread(lanes: Lanes) -> None:
    lane, engine = lanes.held()
    futures = [submit(lane, f"r{number}", number) for number in range(1, 9)]
    engine.go.set()
    assert [future.result(PATIENCE) for future in futures] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert len(engine.threads) == 1
    assert (lane.stats.entries, lane.stats.batches, lane.stats.largest_batch) == (9, 3, 4)


def test_different_keys_never_share_a_batch(lanes: Lanes) -> None:
    lane, engine = lanes.held()
    futures = [submit(lane, f"r{n}", n, key=n % 2) for n in range(1, 5)]
    engine.go.set()
    assert [future.result(PATIENCE) for future in futures] == [2, 4, 6, 8]
    assert engine.batches[1:] == [[1, 3], [2, 4]]


def test_features_are_computed_ahead(lanes: Lanes) -> None:
    """While a batch is computed, those of the next two: no batch waits for its own."""
    ready = {number: threading.Event() for number in range(12)}

    def run(model: Engine, numbers: Sequence[int], features: Sequence[object | None]) -> list[int]:
        for ahead in numbers:
            for each in range(ahead + 1, min(ahead + 3, 12)):
                assert ready[each].wait(PATIENCE), f"no features for {each} beside {ahead}"
        return model.run(numbers, features)

    def prepare(_: Engine, number: int) -> str:
        ready[number].set()
        return f"p{number}"

    work: Work[Engine, int, int] = Work(run=run, prepare=prepare)
    lane, engine = lanes.held(max_batch=1)
    futures = [submit(lane, "r", number, work=work) for number in range(12)]
    assert ready[0].wait(PATIENCE)
    engine.go.set()
    assert [future.result(PATIENCE) for future in futures] == [2 * number for number in range(12)]
    assert engine.prepared == [None, *(f"p{number}" for number in range(12))]


class CountingDevice(FairSemaphore):
    """Knows how often a lane wanted to compute."""

    def __init__(self) -> None:
        super().__init__(1)
        self.entered = 0

    def __enter__(self) -> None:
        self.entered += 1
        super().__enter__()


def test_an_idle_lane_sleeps(lanes: Lanes) -> None:
    device = CountingDevice()
    lane = lanes.lane(device=device, max_wait=0.0)
    for number in range(100):
        assert submit(lane, "r", number).result(PATIENCE) == 2 * number
    assert device.entered == 100


def test_cancel_drops_what_waits_at_once(lanes: Lanes) -> None:
    lane, engine = lanes.held()
    gone = [submit(lane, "gone", n, padded_seconds=30.0) for n in range(1, 6)]
    kept = submit(lane, "kept", 9)
    assert lane.cancel("gone") == 5
    assert len(lane) == 1
    assert (lane.stats.cancelled, lane.stats.cancelled_seconds) == (5, 150.0)
    engine.go.set()
    assert kept.result(PATIENCE) == 18
    for future in gone:
        with pytest.raises(CancelledError):
            future.result(0)
    assert engine.batches == [[0], [9]]


def test_an_entry_whose_future_is_cancelled_leaves_the_queue(lanes: Lanes) -> None:
    lane, engine = lanes.held()
    first, second = submit(lane, "r", 1), submit(lane, "r", 2)
    first.cancel()
    assert (len(lane), lane.stats.cancelled) == (1, 1)
    engine.go.set()
    assert second.result(PATIENCE) == 4
    assert engine.batches == [[0], [2]]


@pytest.mark.parametrize("stale", ["draft", "whole"])
def test_the_end_of_a_turn_is_in_the_next_batch_after_a_stale_decoding(
    lanes: Lanes, stale: str
) -> None:
    """Beside a file, of which no more than one window is in a batch."""
    lane, engine = lanes.held()
    file = [submit(lane, "file", number, key="whole") for number in range(1, 4)]
    submit(lane, "live", 10, key=stale, draft=stale == "draft").cancel()
    final = submit(lane, "live", 11, key="whole", urgent=True)
    engine.go.set()
    for future in (*file, final):
        future.result(PATIENCE)
    assert engine.batches[1] == [1, 11]


def test_a_plain_upload_has_short_batches_while_a_live_session_is_open(lanes: Lanes) -> None:
    now = 0.0

    def run(_: Engine, numbers: Sequence[int], __: object) -> list[int]:
        nonlocal now
        now += 2.0 * len(numbers)
        return list(numbers)

    work: Work[Engine, int, int] = Work(run=run)
    lane = lanes.lane(max_batch=8, clock=lambda: now)
    largest = []
    for live in (True, False):
        held = threading.Event()
        blocker: Work[Engine, int, bool] = Work(run=lambda *_, held=held: [held.wait(PATIENCE)])
        lane.submit(Entry(work=blocker, payload=0, client="a", request_id="r"))
        futures = [submit(lane, "r", number, work=work) for number in range(16)]
        with lane.live() if live else nullcontext():
            held.set()
            for future in futures:
                future.result(PATIENCE)
        largest.append(lane.stats.largest_batch)
    assert largest[0] <= 3
    assert largest[1] == 8


def test_poison_fails_its_own_request_only(lanes: Lanes) -> None:
    lane, engine = lanes.held(max_batch=8)
    engine.poison = {3: ValueError("vendor's words"), 6: InvalidAudio("this cannot be heard")}
    futures = {n: submit(lane, f"r{n}", n) for n in range(1, 9)}
    engine.go.set()
    for number in (1, 2, 4, 5, 7, 8):
        assert futures[number].result(PATIENCE) == 2 * number
    with pytest.raises(TranscriptionFailed) as failed:
        futures[3].result(PATIENCE)
    assert "vendor" not in str(failed.value)  # its words are for the log, not for the client
    with pytest.raises(InvalidAudio, match="cannot be heard"):
        futures[6].result(PATIENCE)
    assert lane.stats.failed == 2


def test_memory_shortage_shrinks_batches_and_they_grow_back(lanes: Lanes) -> None:
    lane, engine = lanes.held(max_batch=8)
    engine.memory = 2
    futures = [submit(lane, f"r{n}", n) for n in range(1, 9)]
    engine.go.set()
    assert [f.result(PATIENCE) for f in futures] == [2 * n for n in range(1, 9)]
    assert lane.batch_limit == 2
    engine.memory = 1_000_000
    for n in range(25):
        submit(lane, f"s{n}", n).result(PATIENCE)
    assert lane.batch_limit == 3


def test_one_window_that_does_not_fit_says_so(lanes: Lanes) -> None:
    lane = lanes.lane()
    lane.loaded.result(PATIENCE)
    lane.model.memory = 0
    with pytest.raises(InsufficientMemory):
        submit(lane, "r", 1).result(PATIENCE)


def test_a_dead_thread_is_replaced_and_every_waiter_answered(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    lane, engine = lanes.held(max_batch=1)
    engine.poison = {1: SystemExit("killed")}
    dying, waiting = submit(lane, "r1", 1), submit(lane, "r2", 2)
    engine.go.set()
    with pytest.raises(Unavailable, match="try again"):
        dying.result(PATIENCE)
    assert waiting.result(PATIENCE) == 4
    assert len(lanes.engines) == 2  # the model was loaded anew
    assert lane.stats.restarts == 1
    assert submit(lane, "r3", 3).result(PATIENCE) == 6
    assert "died" in caplog.text


def test_a_failed_load_answers_all(lanes: Lanes) -> None:
    held = threading.Event()

    def load() -> Engine:
        held.wait(PATIENCE)
        raise InvalidAudio("no such model")

    lane = lanes.lane(load)
    future = submit(lane, "r", 1)
    held.set()
    with pytest.raises(InvalidAudio):
        future.result(PATIENCE)
    with pytest.raises(InvalidAudio):
        lane.loaded.result(PATIENCE)
    with pytest.raises(Unavailable):
        submit(lane, "r", 2).result(PATIENCE)
    assert lane.closed


def test_requests_in_the_batch_of_a_dead_thread_are_answered(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Engine:
        engine = lanes.load()
        engine.poison = {3: SystemExit("killed")}
        return engine

    lane = lanes.lane(load)
    lane.loaded.result(PATIENCE)
    engine = lane.model
    engine.go.clear()
    submit(lane, "blocker", 0)
    assert engine.busy.wait(PATIENCE)
    futures = [submit(lane, f"r{n}", n) for n in range(1, 5)]
    engine.go.set()
    assert [futures[n].result(PATIENCE) for n in (0, 1, 3)] == [2, 4, 8]
    with pytest.raises(Unavailable, match="try again"):
        futures[2].result(PATIENCE)
    assert (lane.stats.restarts, lane.stats.failed) == (2, 1)


def test_a_thread_that_dies_while_loading_answers_all(lanes: Lanes) -> None:
    def load() -> Engine:
        raise SystemExit("the vendor gives up")

    lane = lanes.lane(load)
    with pytest.raises(Unavailable, match="try again"):
        lane.loaded.result(PATIENCE)
    with pytest.raises(Unavailable):
        submit(lane, "r", 1, work=DOUBLE_PREPARED).result(PATIENCE)


def test_a_dead_thread_s_model_is_gone_before_the_next_is_loaded(lanes: Lanes) -> None:
    models: list[weakref.ref[Engine]] = []
    left: list[int] = []

    def load() -> Engine:
        gc.collect()
        left.append(sum(model() is not None for model in models))
        engine = Engine()
        engine.poison = {1: SystemExit("killed")} if not models else {}
        models.append(weakref.ref(engine))
        return engine

    lane = lanes.lane(load)
    with pytest.raises(Unavailable):
        submit(lane, "r1", 1, work=DOUBLE_PREPARED).result(PATIENCE)
    assert submit(lane, "r2", 2, work=DOUBLE_PREPARED).result(PATIENCE) == 4
    assert left == [0, 0]
    lane.loaded.result(PATIENCE)
    assert lane.model is models[1]()


def test_a_closed_lane_holds_no_model(lanes: Lanes) -> None:
    lane = lanes.lane()
    assert submit(lane, "r", 1, work=DOUBLE_PREPARED).result(PATIENCE) == 2
    model = weakref.ref(lanes.engines.pop())
    gc.disable()  # a model of gigabytes must not wait for the collector
    try:
        lane.close().result(PATIENCE)
        assert model() is None
    finally:
        gc.enable()
    with pytest.raises(Unavailable):
        _ = lane.model


def test_an_idle_lane_holds_nothing_of_what_it_did(lanes: Lanes) -> None:
    class Audio:
        """A clip keeps its file's disk space."""

    work: Work[Engine, Audio, str] = Work(
        run=lambda _model, batch, _prepared: ["done" for _ in batch],
        prepare=lambda _model, _audio: None,
    )
    lane = lanes.lane()
    audio = Audio()
    held = weakref.ref(audio)
    assert (
        lane.submit(Entry(work=work, payload=audio, client="a", request_id="r")).result(PATIENCE)
        == "done"
    )
    del audio
    eventually(lambda: held() is None)


def test_close_answers_what_waits_and_closes_the_model(lanes: Lanes) -> None:
    lane, engine = lanes.held()
    waiting = submit(lane, "r", 1)
    ended = lane.close()
    with pytest.raises(Unavailable):
        waiting.result(PATIENCE)
    assert not ended.done()  # its batch still runs
    with pytest.raises(Unavailable):
        submit(lane, "r", 2).result(PATIENCE)
    engine.go.set()
    ended.result(PATIENCE)
    assert engine.closed


def test_a_lane_that_dies_while_it_closes_ends(
    lanes: Lanes, caplog: pytest.LogCaptureFixture
) -> None:
    lane, engine = lanes.held()
    engine.poison = {0: SystemExit("killed")}
    ended = lane.close()
    engine.go.set()
    ended.result(PATIENCE)
    assert engine.closed
    assert len(lanes.engines) == 1


def test_lanes_of_one_device_take_turns(lanes: Lanes) -> None:
    """Batches of one: a lane with hours of work lets another in after the batch that runs."""
    device = CountingDevice()
    busy, other = (lanes.lane(max_batch=1, device=device) for _ in range(2))
    for lane in (busy, other):
        lane.loaded.result(PATIENCE)
    engine = busy.model
    engine.go.clear()
    futures = [submit(busy, "long", n) for n in range(1000)]
    assert engine.busy.wait(PATIENCE)
    short = submit(other, "short", 1)
    eventually(lambda: device.entered == 2)  # the other lane asks for the device
    done_before: list[int] = []
    short.add_done_callback(lambda _: done_before.append(len(engine.batches)))
    engine.go.set()
    short.result(PATIENCE)
    for future in futures:
        future.result(PATIENCE)
    assert done_before[0] < 500


def test_a_stream_alone_has_small_batches(lanes: Lanes) -> None:
    """On an engine that gains nothing by batches, by what the lane learns from its own."""
    now = 0.0
    sizes: list[int] = []

    def run(_: Engine, numbers: Sequence[int], __: object) -> list[int]:
        nonlocal now
        now += 2.0 * len(numbers)
        sizes.append(len(numbers))
        return list(numbers)

    work: Work[Engine, int, int] = Work(run=run)
    lane = lanes.lane(max_batch=8, clock=lambda: now)
    for request, watched in (("stream", True), ("plain", False)):
        held = threading.Event()
        blocker: Work[Engine, int, bool] = Work(run=lambda *_, held=held: [held.wait(PATIENCE)])
        lane.submit(Entry(work=blocker, payload=0, client="a", request_id=request))
        futures = [submit(lane, request, n, work=work, watched=watched) for n in range(16)]
        held.set()
        for future in futures:
            future.result(PATIENCE)
    stream, plain = sizes[: sizes.index(8)], sizes[sizes.index(8) :]
    assert sum(stream) == 16
    assert stream[0] == 1  # nothing is known yet
    assert max(stream) <= 3
    assert plain == [8, 8]


def test_an_error_that_requests_share_ends_none_of_those_that_still_wait() -> None:
    shared = TranscriptionFailed("for both")

    async def fails_for(waiting: asyncio.Event) -> str:
        try:
            raise shared
        finally:
            await waiting.wait()

    async def cleans_up(waiting: asyncio.Event) -> str:
        with suppress(TranscriptionFailed):
            await fails_for(waiting)
        return "cleaned up"

    async def both() -> str:
        waiting = asyncio.Event()
        other = asyncio.create_task(cleans_up(waiting))
        await asyncio.sleep(0)
        release_frames(shared)
        waiting.set()
        return await other

    assert asyncio.run(asyncio.wait_for(both(), PATIENCE)) == "cleaned up"
