"""The queue's promises, for any interleaving of what can happen to it."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from whisperx_api_server.scheduling.batch_queue import BatchQueue
from whisperx_api_server.scheduling.work import AnyEntry, Entry, Work

WORK: Work[object, int, int] = Work(run=lambda _, numbers, __: numbers)


def entry(
    request: str,
    payload: int = 0,
    *,
    client: str = "a",
    key: str = "k",
    padded_seconds: float = 1.0,
    max_batch: int | None = None,
    draft: bool = False,
    urgent: bool = False,
) -> AnyEntry:
    return Entry(
        work=WORK,
        client=client,
        request_id=request,
        payload=payload,
        key=key,
        padded_seconds=padded_seconds,
        max_batch=max_batch,
        draft=draft,
        urgent=urgent,
    )


def ids(batch: list[AnyEntry]) -> list[tuple[str, int]]:
    return [(e.request_id, e.payload) for e in batch]


def fill(queue: BatchQueue, request: str, count: int, **kwargs: object) -> None:
    for index in range(count):
        queue.add(entry(request, index, **kwargs))  # type: ignore[arg-type]


def test_a_short_request_joins_the_next_batch_however_much_waits() -> None:
    queue = BatchQueue()
    fill(queue, "long", 1000)
    queue.add(entry("short"))
    assert ids(queue.take(4)) == [("long", 0), ("short", 0), ("long", 1), ("long", 2)]


def test_requests_take_turns_across_batches() -> None:
    queue = BatchQueue()
    for name in "pqr":
        fill(queue, name, 3)
    taken = [ids(queue.take(2)) for _ in range(3)]
    assert taken == [[("p", 0), ("q", 0)], [("r", 0), ("p", 1)], [("q", 1), ("r", 1)]]


def test_a_client_with_many_requests_gets_no_more_turns() -> None:
    queue = BatchQueue()
    for number in range(10):
        fill(queue, f"busy{number}", 2, client="busy")
    fill(queue, "calm", 4, client="calm")
    clients = [e.client for _ in range(2) for e in queue.take(4)]
    assert clients.count("calm") == 4


def test_drafts_wait_while_an_urgent_entry_does_and_keep_their_turn() -> None:
    queue = BatchQueue()
    for name in "pq":
        queue.add(entry(name, draft=True))
    queue.add(entry("file", client="b"))
    queue.add(entry("turn", client="c", urgent=True))
    batches = [ids(queue.take(4)) for _ in range(2)]
    assert batches == [[("file", 0), ("turn", 0)], [("p", 0), ("q", 0)]]


def test_an_urgent_entry_takes_no_turn_of_a_file() -> None:
    queue = BatchQueue()
    for name in ("file", "turn"):
        queue.add(entry(name, client=name, urgent=name == "turn"))
    assert ids(queue.take(1)) == [("file", 0)]


def test_a_share_limits_what_one_request_adds_but_not_new_requests() -> None:
    queue = BatchQueue()
    fill(queue, "long", 10)
    assert len(queue.take(8, may_extend=lambda batch, _: len(batch) < 2)) == 2
    for name in "pqr":
        queue.add(entry(name))
    batch = queue.take(8, may_extend=lambda batch, _: len(batch) < 2)
    assert sorted(e.request_id for e in batch) == ["long", "p", "q", "r"]


def test_a_share_of_one_request_is_not_that_of_another() -> None:
    queue = BatchQueue()
    fill(queue, "small", 10)
    fill(queue, "large", 10)
    batch = queue.take(8, may_extend=lambda batch, e: len(batch) < 2 or e.request_id != "small")
    assert [e.request_id for e in batch].count("small") == 1


def test_only_one_key_shares_a_batch_and_the_other_comes_next() -> None:
    queue = BatchQueue()
    fill(queue, "p", 2, key="x")
    fill(queue, "q", 2, key="y")
    assert ids(queue.take(8)) == [("p", 0), ("p", 1)]
    assert ids(queue.take(8)) == [("q", 0), ("q", 1)]


def test_a_batch_counts_its_padding() -> None:
    queue = BatchQueue()
    queue.add(entry("p", padded_seconds=30))
    queue.add(entry("q", padded_seconds=1))
    queue.add(entry("r", padded_seconds=1))
    assert len(queue.take(8, 60)) == 2  # the short one is padded to 30
    queue.add(entry("s", padded_seconds=500))
    queue.take(1, 60)
    assert ids(queue.take(8, 60)) == [("s", 0)]  # longer than the limit, alone


def test_a_request_bounds_the_batches_it_joins() -> None:
    queue = BatchQueue()
    fill(queue, "small", 4, max_batch=2)
    fill(queue, "large", 4)
    sizes = []
    while batch := queue.take(8):
        if any(e.request_id == "small" for e in batch):
            assert len(batch) <= 2
        sizes.append(len(batch))
    assert sum(sizes) == 8


def test_a_request_keeps_its_turn_while_a_newer_entry_takes_the_place_of_one() -> None:
    queue = BatchQueue()
    stale, newer = entry("live", 1), entry("live", 2)
    for each in (stale, entry("file"), newer):
        queue.add(each)
    assert queue.remove("a", "live", stale.future) is stale
    assert ids(queue.take(1)) == [("live", 2)]


def test_cancelling_one_request_leaves_the_others() -> None:
    queue = BatchQueue()
    fill(queue, "p", 3)
    fill(queue, "q", 2)
    assert len(queue.cancel("p")) == 3
    assert (len(queue), queue.requests) == (2, 1)
    assert queue.cancel("p") == []


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=40), st.integers(1, 9))
def test_peek_shows_what_take_can_take(entries: list[tuple[int, int]], count: int) -> None:
    queue = BatchQueue()
    for index, (request, seconds) in enumerate(entries):
        queue.add(entry(f"r{request}", index, padded_seconds=seconds))
    shown = queue.peek(count)
    assert len(shown) == min(count, len(entries)) == len(queue.peek(count))
    assert len({id(e) for e in shown}) == len(shown)
    if entries:
        assert queue.take(1)[0] is shown[0]


class QueueMachine(RuleBasedStateMachine):
    """Add, take, cancel and give back in any order: nothing is lost, doubled or reordered."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = BatchQueue()
        self.waiting: dict[str, list[AnyEntry]] = {}
        self.number = 0

    @rule(
        request=st.integers(0, 6),
        key=st.sampled_from("xy"),
        seconds=st.floats(0.5, 30),
        max_batch=st.none() | st.integers(1, 5),
        count=st.integers(1, 5),
    )
    def add(
        self, request: int, key: str, seconds: float, max_batch: int | None, count: int
    ) -> None:
        for _ in range(count):
            self.number += 1
            added = entry(
                f"r{request}",
                self.number,
                client=f"c{request % 3}",
                key=key,
                padded_seconds=seconds,
                max_batch=max_batch,
            )
            self.queue.add(added)
            self.waiting.setdefault(added.request_id, []).append(added)

    @rule(
        size=st.integers(1, 8),
        budget=st.none() | st.floats(1, 200),
        shares=st.lists(st.none() | st.integers(1, 8), min_size=7, max_size=7),
    )
    def take(self, size: int, budget: float | None, shares: list[int | None]) -> None:
        def may_extend(batch: Sequence[AnyEntry], entry: AnyEntry) -> bool:
            return len(batch) < (shares[int(entry.request_id[1:])] or size)

        batch = self.queue.take(size, budget, may_extend)
        assert bool(batch) == any(self.waiting.values())
        for taken in batch:
            assert self.waiting[taken.request_id].pop(0) is taken  # in order, once
        if len(batch) > 1:
            assert len({e.key for e in batch}) == 1
            assert len(batch) <= min(size, *(e.max_batch or size for e in batch))
            assert budget is None or len(batch) * max(e.padded_seconds for e in batch) <= budget
        for position, taken in enumerate(batch):
            if taken.request_id in {e.request_id for e in batch[:position]}:
                assert position < (shares[int(taken.request_id[1:])] or size)

    @rule(request=st.integers(0, 6))
    def cancel(self, request: int) -> None:
        assert self.queue.cancel(f"r{request}") == self.waiting.pop(f"r{request}", [])

    @rule(request=st.integers(0, 6), index=st.integers(0, 9))
    def withdraw(self, request: int, index: int) -> None:
        waiting = self.waiting.get(f"r{request}", [])
        gone = waiting.pop(index) if index < len(waiting) else entry(f"r{request}")
        removed = self.queue.remove(f"c{request % 3}", gone.request_id, gone.future)
        assert removed is (gone if gone.payload else None)
        assert self.queue.waits(f"c{request % 3}", gone.request_id) == bool(waiting)

    @rule()
    def drain(self) -> None:
        drained = self.queue.drain()
        assert {e.payload for e in drained} == {
            e.payload for entries in self.waiting.values() for e in entries
        }
        self.waiting.clear()

    @invariant()
    def accounts_hold(self) -> None:
        entries = [e for waiting in self.waiting.values() for e in waiting]
        assert len(self.queue) == len(entries)
        assert self.queue.requests == sum(1 for waiting in self.waiting.values() if waiting)


TestQueueMachine = QueueMachine.TestCase
