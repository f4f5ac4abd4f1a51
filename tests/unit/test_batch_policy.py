"""How large the batches of a lane may be: while requests compete, for a stream, after shortages."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.scheduling.batch_policy import (
    CONTENTION_MEMORY,
    CONTENTION_STRETCH,
    GROWTH_AFTER,
    WATCHED_SECONDS,
    WATCHED_STRETCH,
    BatchLimits,
    BatchPolicy,
)
from whisperx_api_server.scheduling.batch_queue import BatchQueue
from whisperx_api_server.scheduling.batch_times import BatchTimes
from whisperx_api_server.scheduling.work import Entry, Work

AnyWork = Work[object, int, int]


def work() -> AnyWork:
    return Work(run=lambda _, numbers, __: numbers)


WORK, SLOW, FAST = work(), work(), work()


class Lane:
    """A policy whose clock the test holds, and batches that take base + slope * size seconds."""

    def __init__(self, max_batch: int, base: float = 0.0, slope: float = 1.0) -> None:
        self.now = 100.0
        self.base = base
        self.slope = slope
        self.policy = BatchPolicy(BatchQueue(), clock=lambda: self.now)
        self.policy.set_limits(BatchLimits(max_batch=max_batch))

    def add(self, request: str, count: int, *, watched: bool = False, work: AnyWork = WORK) -> None:
        for number in range(count):
            self.policy.queue.add(
                Entry(
                    client=request, request_id=request, payload=number, work=work, watched=watched
                )
            )

    def seconds(self, size: int) -> float:
        return self.base + self.slope * size

    def batch(self) -> list[str]:
        """Run the next batch; the requests in it."""
        batch = self.policy.take()
        self.now += self.seconds(len(batch))
        self.policy.succeeded(batch, self.seconds(len(batch)))
        return [entry.request_id for entry in batch]

    def sizes(self) -> list[int]:
        """Run all that waits; the sizes of the batches."""
        sizes = []
        while len(self.policy.queue):
            sizes.append(len(self.batch()))
        return sizes


def test_a_request_alone_has_whole_batches() -> None:
    lane = Lane(8)
    lane.add("long", 20)
    assert lane.sizes() == [8, 8, 4]


@given(
    base=st.floats(0.0, 20.0),
    slope=st.floats(0.01, 10.0),
    max_batch=st.integers(1, 32),
    count=st.integers(1, 100),
)
def test_a_stream_alone_flows(base: float, slope: float, max_batch: int, count: int) -> None:
    """No batch takes longer than the stretch of a single one, or than nobody notices."""
    lane = Lane(max_batch, base, slope)
    lane.add("stream", count, watched=True)
    sizes = lane.sizes()
    assert sum(sizes) == count
    assert max(sizes) <= max_batch
    bound = max(WATCHED_SECONDS, WATCHED_STRETCH * lane.seconds(1))
    times = [lane.seconds(size) for size in sizes]
    assert max(times) <= max(2 * bound, lane.seconds(1))  # while one size only was seen
    assert max(times[4:], default=0.0) <= 1.1 * bound + slope


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_flows_and_keeps_its_throughput_on_two_cores(seed: int) -> None:
    """Seconds of Whisper base, by size of batch; up to 10 % more or less for each batch."""
    measured = [0.0, 1.68, 2.48, 3.25, 4.2, 5.1, 6.1, 7.2, 8.2, 9.2, 10.3, 11.3, 12.4]
    noise = random.Random(seed)
    first = 1.0  # a short clip, which has less to decode than a whole window
    policy: BatchPolicy = BatchPolicy(BatchQueue())
    policy.set_limits(BatchLimits(max_batch=16))
    policy.queue.add(Entry(client="c", request_id="short", payload=0, work=WORK))
    policy.succeeded(policy.take(), first)
    times, total = [], 0.0
    for _ in range(20):
        for number in range(12):
            policy.queue.add(
                Entry(client="c", request_id="stream", payload=number, work=WORK, watched=True)
            )
        while batch := policy.take():
            total += measured[len(batch)]
            times.append(measured[len(batch)])
            policy.succeeded(batch, measured[len(batch)] * noise.uniform(0.9, 1.1))
    assert total <= 1.1 * 20 * measured[12]
    assert max(times) <= 2 * measured[1]


def test_a_stream_has_whole_batches_where_they_take_no_time() -> None:
    lane = Lane(16, base=0.2, slope=0.02)
    lane.add("stream", 100, watched=True)
    assert lane.sizes().count(16) >= 5


def test_a_stream_does_not_keep_others_out_of_its_batches() -> None:
    lane = Lane(8)
    lane.add("stream", 5, watched=True)
    for number in range(6):
        lane.add(f"short{number}", 1)
    assert sorted(lane.batch()) == [*(f"short{number}" for number in range(6)), "stream"]


def test_while_requests_compete_one_request_s_share_stays_short() -> None:
    lane = Lane(8, base=0.0, slope=0.1)
    lane.add("long", 10)
    lane.add("short", 1)
    assert lane.batch() == ["long", "short"]
    assert lane.batch() == ["long"]  # the next short one would wait for what is taken now
    lane.now += CONTENTION_MEMORY
    assert lane.batch() == ["long"] * 8


def test_a_request_alone_has_short_batches_while_a_live_session_is_open() -> None:
    lane = Lane(8)
    lane.add("long", 40)
    lane.batch()
    lane.policy.succeeded(lane.policy.take(live=True), lane.seconds(1))
    assert len(lane.policy.take(live=True)) == 2
    assert len(lane.policy.take()) == 8


@pytest.mark.parametrize("sessions", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_a_file_has_short_batches_beside_live_sessions(sessions: int, seed: int) -> None:
    """Drafts take little time, a file's windows much, and some of them far more."""
    noise = random.Random(seed)
    policy = BatchPolicy(BatchQueue())
    policy.set_limits(BatchLimits(max_batch=16))

    def add(request: str, seconds: float, key: str = "whole") -> None:
        policy.queue.add(
            Entry(
                client=request,
                request_id=request,
                payload=0,
                work=WORK,
                key=key,
                padded_seconds=30.0,
                seconds=seconds,
                watched=True,
                draft=key == "draft",
                urgent=key == "whole" and request != "file",
            )
        )

    for beside in (False, True):  # the file begins later
        for _ in range(200):
            for number in range(noise.randint(0, sessions)):
                final = noise.random() < 0.15
                add(f"live{number}", noise.uniform(1, 10), "whole" if final else "draft")
            while beside and len(policy.queue) < 20:
                add("file", noise.uniform(20, 30))
            batch = policy.take()
            if not batch:
                continue
            seconds = 0.2 + 0.03 * sum(each.seconds for each in batch) * noise.uniform(0.9, 1.1)
            if noise.random() < 0.03:
                seconds += 15.0
            assert sum(each.request_id == "file" for each in batch) <= 3
            policy.succeeded(batch, seconds)


def test_contention_lets_through_what_costs_little() -> None:
    lane = Lane(8, base=1.0, slope=0.05)
    for count in (1, 8, 4):
        lane.add("alone", count)
        lane.sizes()
    lane.add("one", 40)
    lane.add("two", 40)
    sizes = lane.sizes()
    assert sizes.count(8) > 3
    assert lane.seconds(8) <= CONTENTION_STRETCH * lane.seconds(1)


def test_the_times_of_one_work_say_nothing_of_another() -> None:
    lane = Lane(8, base=0.0, slope=2.0)
    lane.add("stream", 30, watched=True, work=SLOW)
    assert max(lane.sizes()) <= 3
    lane.base, lane.slope = 0.1, 0.0
    lane.add("stream", 30, watched=True, work=FAST)
    assert max(lane.sizes()) == 8


def test_a_memory_shortage_lowers_the_limit_and_it_grows_back() -> None:
    lane = Lane(8)
    lane.policy.ran_out_of_memory(8)
    lane.policy.ran_out_of_memory(4)
    assert lane.policy.batch_limit == 2
    lane.add("long", 1000)
    for _ in range(GROWTH_AFTER):
        assert len(lane.batch()) == 2
    assert lane.policy.batch_limit == 3
    lane.policy.ran_out_of_memory(1)
    assert lane.policy.batch_limit == 1  # there is no smaller one
    lane.sizes()
    assert lane.policy.batch_limit == 8


def test_two_batches_are_prepared_ahead() -> None:
    lane = Lane(3)
    lane.add("long", 20)
    assert [entry.payload for entry in lane.policy.upcoming()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("base", "slope"), [(0.0, 1.0), (1.0, 0.1), (1.0, 0)])
@pytest.mark.parametrize("audio", [1.0, 30.0])
def test_batch_times_are_learnt(base: float, slope: float, audio: float) -> None:
    times = BatchTimes()
    for size in (1, 4, 2, 8, 1, 3) * 3:
        times.observe(size, audio * size, base + slope * size)
    for size in (1, 4, 8):
        assert times.seconds(audio * size) == pytest.approx(base + slope * size, rel=0.1)


@given(
    batches=st.lists(
        st.tuples(st.integers(1, 32), st.floats(1, 60), st.floats(0.001, 1000)), min_size=1
    ),
    audio=st.floats(1, 2000),
)
def test_batch_times_grow_with_the_size(
    batches: list[tuple[int, float, float]], audio: float
) -> None:
    times = BatchTimes()
    for entries, length, seconds in batches:
        times.observe(entries, entries * length, seconds)
    assert 0 < times.seconds(audio) < times.seconds(audio + 1)


def test_larger_batches_that_took_less_time_do_not_make_later_ones_larger() -> None:
    times = BatchTimes()
    for _ in range(100):
        times.observe(1, 1.0, 1.2)
        times.observe(4, 4.0, 0.6)
    assert times.overhead == pytest.approx(1.0)


def test_batch_times_of_one_size_return_to_what_is_assumed() -> None:
    """A false estimate must not keep the size of batch that it leads to for ever."""
    times = BatchTimes()
    for size in (1, 2, 3) * 5:
        times.observe(size, size, 2.0 * size)  # as if batches cost nothing
    for _ in range(100):
        times.observe(2, 2.0, 3.0)
    assert [times.seconds(size) for size in (1, 2, 3)] == pytest.approx([2.0, 3.0, 4.0], rel=0.02)


def test_batch_times_follow_a_lane_that_becomes_slower() -> None:
    times = BatchTimes()
    for size in (1, 4, 2, 8) * 5:
        times.observe(size, size, 1.0 + 0.1 * size)
    for size in (1, 4, 2, 8) * 15:
        times.observe(size, size, 1.0 + 1.0 * size)
    assert times.seconds(1) == pytest.approx(2.0, rel=0.05)
