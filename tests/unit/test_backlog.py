"""The bound on waiting audio, and when to come back."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.backlog import LONGEST_RETRY, Backlog
from whisperx_api_server.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(backlog: Backlog, seconds: float) -> float:
    with pytest.raises(Overloaded) as caught, backlog.reserve(seconds):
        pass
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_up_to_the_bound_is_taken_and_nothing_beyond() -> None:
    backlog = Backlog(100)
    with backlog.reserve(60), backlog.reserve(40):
        assert backlog.seconds == 100
        refused(backlog, 0.1)
        with pytest.raises(Overloaded):
            backlog.check()  # it is full: not even worth reading an upload
    with backlog.reserve(100):
        pass


def test_an_empty_backlog_takes_any_length() -> None:
    backlog = Backlog(10)
    with backlog.reserve(3600):
        refused(backlog, 1)
    assert backlog.seconds == 0


def test_what_is_transcribed_makes_room() -> None:
    backlog = Backlog(100)
    with backlog.reserve(90) as long:
        refused(backlog, 20)
        long.done(30)
        assert backlog.seconds == 60
        with backlog.reserve(20):
            assert backlog.seconds == 80
    assert backlog.seconds == 0


def test_retry_after_comes_from_the_measured_speed(clock: Clock) -> None:
    backlog = Backlog(100, clock=clock)
    with backlog.reserve(100) as running:
        assert refused(backlog, 50) == 50  # nothing was measured: real time
        clock.now += 5
        running.done(50)
        assert backlog.speed == pytest.approx(10)
        assert refused(backlog, 80) == 3  # 30 s too much at 10 s a second


def test_idle_time_is_not_counted_into_the_speed(clock: Clock) -> None:
    backlog = Backlog(100, clock=clock)
    for _ in range(3):
        with backlog.reserve(20):
            clock.now += 2
        clock.now += 10_000
    assert backlog.speed == pytest.approx(10)


def test_withdrawn_work_is_not_counted_as_done(clock: Clock) -> None:
    backlog = Backlog(100, clock=clock)
    with backlog.reserve(20):
        clock.now += 2
    with suppress(RuntimeError), backlog.reserve(90):
        clock.now += 1
        raise RuntimeError
    assert backlog.speed == pytest.approx(20 / 3, rel=0.05)
    assert backlog.seconds == 0


def test_the_speed_follows_the_machine(clock: Clock) -> None:
    backlog = Backlog(100, clock=clock)
    for speed in [1.0] * 50 + [10.0] * 200:
        with backlog.reserve(20):
            clock.now += 20 / speed
    assert backlog.speed == pytest.approx(10, rel=0.1)


def test_nobody_is_sent_away_for_hours() -> None:
    backlog = Backlog(1)
    with backlog.reserve(36_000):
        assert refused(backlog, 36_000) == LONGEST_RETRY


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=20))
def test_nothing_is_left_of_any_sum(lengths: list[float]) -> None:
    backlog = Backlog(1e9)
    reservations = [backlog.reserve(length) for length in lengths]
    for reservation, length in zip(reservations, lengths, strict=True):
        with reservation:
            reservation.done(length / 3)
    assert backlog.seconds == 0
    with backlog.reserve(1e10):  # what rounding leaves must not look like work
        pass
