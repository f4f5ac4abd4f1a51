"""The bound on waiting audio, and when to come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.errors import Overloaded
from whisperx_api_server.jobs.admission import LONGEST_RETRY, AdmissionControl


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(control: AdmissionControl, seconds: float) -> float:
    with pytest.raises(Overloaded) as caught, control.reserve(seconds):
        pass
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_up_to_the_bound_is_taken_and_nothing_beyond() -> None:
    control = AdmissionControl(100)
    with control.reserve(60), control.reserve(40):
        assert control.seconds == 100
        refused(control, 0.1)
        with pytest.raises(Overloaded):
            control.check()  # it is full: not even worth reading an upload
    with control.reserve(100):
        pass


def test_an_empty_queue_takes_any_length() -> None:
    control = AdmissionControl(10)
    with control.reserve(3600):
        refused(control, 1)
    assert control.seconds == 0


def test_transcribed_audio_makes_room() -> None:
    control = AdmissionControl(100)
    with control.reserve(90) as long:
        refused(control, 20)
        long.advance(30)
        assert control.seconds == 60
        with control.reserve(20):
            assert control.seconds == 80
    assert control.seconds == 0


def test_retry_after_comes_from_the_measured_speed(clock: Clock) -> None:
    control = AdmissionControl(100, clock=clock)
    with control.reserve(100) as running:
        assert refused(control, 50) == 50  # nothing was measured: real time
        clock.now += 5
        running.advance(50)
        assert control.speed == pytest.approx(10)
        assert refused(control, 80) == 3  # 30 s too much at 10 s a second


def test_idle_time_is_not_counted_into_the_speed(clock: Clock) -> None:
    control = AdmissionControl(100, clock=clock)
    for _ in range(3):
        with control.reserve(20):
            clock.now += 2
        clock.now += 10_000
    assert control.speed == pytest.approx(10)


def test_withdrawn_work_is_not_counted_as_done(clock: Clock) -> None:
    control = AdmissionControl(100, clock=clock)
    with control.reserve(20):
        clock.now += 2
    with suppress(RuntimeError), control.reserve(90):
        clock.now += 1
        raise RuntimeError
    assert control.speed == pytest.approx(20 / 3, rel=0.05)
    assert control.seconds == 0


def test_the_speed_follows_the_machine(clock: Clock) -> None:
    control = AdmissionControl(100, clock=clock)
    for speed in [1.0] * 50 + [10.0] * 200:
        with control.reserve(20):
            clock.now += 20 / speed
    assert control.speed == pytest.approx(10, rel=0.1)


def test_retry_after_is_bounded() -> None:
    control = AdmissionControl(1)
    with control.reserve(36_000):
        assert refused(control, 36_000) == LONGEST_RETRY


@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=20))
def test_nothing_is_left_of_any_sum(lengths: list[float]) -> None:
    control = AdmissionControl(1e9)
    reservations = [control.reserve(length) for length in lengths]
    for reservation, length in zip(reservations, lengths, strict=True):
        with reservation:
            reservation.advance(length / 3)
    assert control.seconds == 0
    with control.reserve(1e10):  # what rounding leaves must not look like work
        pass


def test_each_recording_frees_its_own_seconds_only() -> None:
    control = AdmissionControl(100)
    with control.reserve(50):
        with control.reserve(40) as other:
            other.advance(30)
        assert control.seconds == 50


def test_windows_that_a_retry_found_done_are_not_speed(clock: Clock) -> None:
    control = AdmissionControl(100, clock=clock)
    with control.reserve(90) as resumed:
        clock.now += 1
        resumed.advance(80, computed=False)
        clock.now += 4
        resumed.advance(10)
    assert control.speed == pytest.approx(2, rel=0.1)


def test_recordings_wait_in_the_order_in_which_they_came() -> None:
    admitted: list[str] = []

    async def waits(control: AdmissionControl, name: str, seconds: float) -> None:
        with await control.wait(seconds):
            admitted.append(name)
            await asyncio.sleep(0)

    async def scenario() -> None:
        control = AdmissionControl(100)
        with control.reserve(90) as running:
            waiting = [
                asyncio.create_task(waits(control, name, seconds))
                for name, seconds in (("long", 500), ("short", 5), ("shorter", 1))
            ]
            await asyncio.sleep(0)
            assert control.must_wait(1)
            running.advance(60)
            await asyncio.sleep(0)
            assert admitted == []  # there is room for the short ones, but they came later
        await asyncio.gather(*waiting)
        assert admitted == ["long", "short", "shorter"]
        assert control.seconds == 0

    asyncio.run(scenario())


def test_a_waiting_recording_is_passed_up_to_its_own_length(clock: Clock) -> None:
    async def scenario() -> None:
        control = AdmissionControl(100, clock=clock)
        with control.reserve(50):
            waiting = asyncio.create_task(control.wait(60))
            await asyncio.sleep(0)
            for _ in range(3):
                with control.reserve(20):
                    pass
            assert refused(control, 20) == 30  # until the one that waits is in, and this one too
        with await waiting, control.reserve(20):
            assert control.seconds == 80

    asyncio.run(scenario())


def test_waiting_recordings_are_bounded_by_the_limit_too(clock: Clock) -> None:
    async def scenario() -> None:
        control = AdmissionControl(100, clock=clock)
        with control.reserve(100) as running:
            waiting = []
            for seconds in (60, 60):
                control.check_waiting()
                waiting.append(asyncio.create_task(control.wait(seconds)))
                await asyncio.sleep(0)
            with pytest.raises(Overloaded) as caught:
                control.check_waiting()
            assert caught.value.retry_after == 60  # until the first of them is admitted
            running.advance(60)
            with await waiting[0]:
                control.check_waiting()
        with await waiting[1]:
            pass

    asyncio.run(scenario())


def test_a_recording_that_waits_no_longer_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        control = AdmissionControl(100)
        with control.reserve(50):
            leaving = asyncio.create_task(control.wait(90))
            staying = asyncio.create_task(control.wait(40))
            await asyncio.sleep(0)
            leaving.cancel()
            with await staying:
                assert control.seconds == 90
        assert leaving.cancelled()

    asyncio.run(scenario())
