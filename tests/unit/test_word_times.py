"""Words are inside the speech regions of their window, in order, and last longer than 0."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.domain import SpeechRegion, Word
from whisperx_api_server.transcript.word_times import keep_in_speech


def words_of(*times: tuple[float, float]) -> list[Word]:
    return [Word(text=str(index), start=a, end=b) for index, (a, b) in enumerate(times)]


def times_of(words: tuple[Word, ...]) -> list[tuple[float, float]]:
    return [(word.start, word.end) for word in words]


def test_words_inside_speech_keep_their_times() -> None:
    words = words_of((0.5, 0.9), (0.9, 1.4), (5.2, 5.8))
    regions = [SpeechRegion(start=0.2, end=1.6), SpeechRegion(start=5.0, end=6.0)]
    assert keep_in_speech(words, regions) == tuple(words)


def test_a_word_that_stands_in_a_pause_moves_behind_it() -> None:
    # the decoder's times of "…genutzt. [12 s] Die Werbung vermittelt…"
    words = words_of((6.5, 7.16), (7.16, 14.16), (14.16, 18.16), (20.6, 21.2))
    regions = [SpeechRegion(start=0.0, end=7.9), SpeechRegion(start=19.9, end=23.0)]
    genutzt, die, werbung, vermittelt = keep_in_speech(words, regions)
    assert (genutzt.start, genutzt.end) == (6.5, 7.16)
    assert 19.9 <= die.start < die.end <= werbung.start < werbung.end <= vermittelt.start
    assert (vermittelt.start, vermittelt.end) == (20.6, 21.2)


def test_an_aligned_word_stays_where_it_begins() -> None:
    words = words_of((1.5, 4.0), (4.0, 5.5))  # an aligner gives the pause to the word before it
    regions = [SpeechRegion(start=0.0, end=2.0), SpeechRegion(start=5.0, end=7.0)]
    assert times_of(keep_in_speech(words, regions, anchor=0.0)) == [(1.5, 2.0), (5.0, 5.5)]


def test_a_word_that_reaches_into_a_pause_ends_with_its_region() -> None:
    words = words_of((1.0, 2.6), (9.0, 10.0))
    regions = [SpeechRegion(start=0.0, end=2.0), SpeechRegion(start=9.5, end=12.0)]
    assert times_of(keep_in_speech(words, regions)) == [(1.0, 2.0), (9.5, 10.0)]


def test_words_of_no_length_get_some() -> None:
    words = words_of((1.0, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0))
    [first, second, third, last] = keep_in_speech(words, [SpeechRegion(start=0.0, end=2.0)])
    assert first.start < second.start < third.start < last.start < last.end == 2.0


def test_no_words_are_none() -> None:
    assert keep_in_speech([], [SpeechRegion(start=0.0, end=1.0)]) == ()


times = st.floats(0, 40).map(lambda value: round(value, 3))


@given(
    edges=st.lists(times, min_size=2, max_size=8, unique=True).map(sorted),
    moments=st.lists(st.tuples(times, times), max_size=60),
)
def test_any_times_become_possible_ones(
    edges: list[float], moments: list[tuple[float, float]]
) -> None:
    regions = [
        SpeechRegion(start=edges[place], end=edges[place + 1])
        for place in range(0, len(edges) - 1, 2)
    ]
    words = words_of(*moments)
    kept = keep_in_speech(words, regions)
    assert [word.text for word in kept] == [word.text for word in words]
    for before, after in itertools.pairwise(kept):
        assert before.start < after.start
        assert before.end <= after.start + 1e-9
    for word in kept:
        assert word.end > word.start
        assert any(r.start - 1e-9 <= word.start and word.end <= r.end + 1e-9 for r in regions)
