"""Parts of a batch are computed side by side, and their results are in the batch's order."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from support import PATIENCE
from whisperx_api_server.backends.whisperx.parts import Parts, divided, most_parts


@pytest.mark.parametrize(
    ("threads", "parts"), [(1, 1), (2, 2), (4, 2), (8, 2), (12, 3), (16, 4), (64, 16)]
)
def test_all_threads_are_used_by_few_parts(threads: int, parts: int) -> None:
    assert most_parts(threads) == parts


@pytest.mark.parametrize(
    ("costs", "most", "parts"),
    [
        ([9.0], 2, [[0]]),
        ([9.0, 9.0], 2, [[0], [1]]),
        ([9.0, 9.0, 9.0], 1, [[0, 1, 2]]),
        ([1.0, 30.0, 1.0, 30.0, 1.0, 30.0, 1.0, 30.0], 2, [[1, 3], [5, 7, 0, 2, 4, 6]]),
        ([9.0] * 6, 3, [[0, 1], [2, 3], [4, 5]]),
        ([30.0, 1.0, 1.0], 3, [[0], [1, 2]]),
    ],
)
def test_a_batch_is_divided_by_cost(costs: list[float], most: int, parts: list[list[int]]) -> None:
    assert divided(costs, most) == parts


def test_parts_are_computed_at_the_same_time() -> None:
    both = threading.Barrier(2)

    def square(part: Sequence[int]) -> list[int]:
        both.wait(PATIENCE)
        return [index**2 for index in part]

    assert Parts(2).compute([1.0, 30.0, 2.0, 29.0], square) == [0, 1, 4, 9]


def test_one_part_is_computed_in_the_order_of_the_batch() -> None:
    assert Parts(1).compute([1.0, 30.0, 2.0], list) == [0, 1, 2]


def test_an_error_is_raised_once_all_parts_have_ended() -> None:
    go_on = threading.Event()
    ended: list[int] = []

    def fail(part: Sequence[int]) -> list[int]:
        if 0 in part:
            go_on.set()
            raise MemoryError
        go_on.wait(PATIENCE)
        ended.extend(part)
        return list(part)

    with pytest.raises(MemoryError):
        Parts(2).compute([1.0, 1.0], fail)
    assert ended == [1]
