"""How much a worker takes, and which members are alive."""

from __future__ import annotations

from whisperx_api_server.distributed import worker_limits
from whisperx_api_server.distributed.members import Members
from whisperx_api_server.distributed.wire import Heartbeat
from whisperx_api_server.domain import RemoteUrl, TranscriptionRequest, Upload


def test_an_idle_worker_takes_a_run_of_any_length() -> None:
    assert worker_limits.has_room(seconds=0, runs=0, limit=0)


def test_a_worker_takes_no_more_than_its_limit() -> None:
    assert worker_limits.has_room(seconds=99, runs=3, limit=100)
    assert not worker_limits.has_room(seconds=100, runs=3, limit=100)
    assert not worker_limits.has_room(seconds=1, runs=worker_limits.MOST_RUNS, limit=100)


def test_three_full_batches_are_in_hand_unless_the_setting_says_otherwise() -> None:
    assert worker_limits.prefetch_limit(None, 16) == 3 * 16 * 30
    assert worker_limits.prefetch_limit(0.0, 16) == 0.0


def test_a_worker_with_more_in_hand_waits_longer() -> None:
    waits = [worker_limits.pause(seconds=seconds, limit=100) for seconds in (0, 50, 100, 500)]
    assert waits == sorted(waits)
    assert waits[0] == 0
    assert waits[-1] == worker_limits.LONGEST_PAUSE


def test_a_recording_counts_before_it_is_opened() -> None:
    request = TranscriptionRequest(id="r", source=Upload(id="u", size=320_000), model="base")
    assert worker_limits.assumed_seconds(request) == 10
    unknown = TranscriptionRequest(id="r", source=RemoteUrl(url="https://host/a"), model="base")
    assert worker_limits.assumed_seconds(unknown) > 0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def beat(member: str, at: float = 1000.0) -> Heartbeat:
    return Heartbeat(member=member, role="worker", at=at)


def test_a_silent_member_is_gone() -> None:
    clock = Clock()
    members = Members(clock=clock)
    members.apply("w", beat("w"))
    clock.now += 9
    assert members.alive("w")
    assert [each.member for each in members.workers()] == ["w"]
    clock.now += 2
    assert not members.alive("w")
    assert members.workers() == []


def test_a_member_that_leaves_is_gone_at_once() -> None:
    members = Members(clock=Clock())
    members.apply("w", beat("w"))
    members.apply("w", None)
    assert members.workers() == []


def test_no_member_is_gone_while_the_broker_is_away() -> None:
    clock = Clock()
    members = Members(clock=clock)
    members.apply("one", beat("one"))
    members.apply("other", beat("other"))
    clock.now += 60
    assert not members.is_gone("one", 10)
    members.apply("other", beat("other"))  # the broker is back
    assert not members.is_gone("one", 10)
    for _ in range(6):
        clock.now += 2
        members.apply("other", beat("other"))
    assert members.is_gone("one", 10)
    assert not members.is_gone("other", 10)


def test_heartbeats_from_before_count_by_their_own_time() -> None:
    members = Members(clock=Clock())
    members.apply("old", beat("old", at=900), old=True)
    members.apply("new", beat("new", at=995), old=True)
    assert [each.member for each in members.workers()] == ["new"]


def test_a_clock_that_is_wrong_keeps_no_member_out() -> None:
    members = Members(clock=Clock())
    members.apply("w", beat("w", at=0))
    assert members.alive("w")


def test_the_time_without_workers_begins_when_the_last_was_heard() -> None:
    clock = Clock()
    members = Members(clock=clock)
    clock.now += 20
    assert members.without_workers() == 20
    members.apply("w", beat("w"))
    assert members.without_workers() == 0
    clock.now += 15
    assert members.without_workers() == 15
