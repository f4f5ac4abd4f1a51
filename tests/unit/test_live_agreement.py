"""Words are sent once two decodings agree on them, and never taken back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.live.agreement import Agreement


def heard(*texts: str) -> list[str]:
    """The deltas of decodings, of which the last is of the whole window."""
    agreement = Agreement()
    *partial, last = texts
    deltas = [*(agreement.hear(text) for text in partial), agreement.finish(last)]
    assert "".join(deltas) == agreement.text
    return deltas


def test_a_word_is_sent_once_two_decodings_in_a_row_agree() -> None:
    assert heard("It was", "It was the", "It was the worst of", "It was the best") == [
        "",
        "It",
        " was",
        " the best",
    ]


def test_the_last_word_of_a_decoding_may_be_cut() -> None:
    assert heard("to welcome him", "to welcome him gospel", "to welcome his gospel.") == [
        "",
        "to welcome",
        " his gospel.",
    ]


def test_two_decodings_that_do_not_follow_one_another_do_not_agree() -> None:
    assert heard("red house", "blue house", "red house", "red") == ["", "", "", "red"]


def test_a_word_after_a_disputed_one_waits() -> None:
    assert heard("red house door", "rat house door", "red house door") == [
        "",
        "",
        "red house door",
    ]


def test_punctuation_at_the_end_of_a_decoding_stays_open() -> None:
    assert heard("of times. I", "of times.", "of times, it was", "of times, it was.") == [
        "",
        "of times",
        "",
        ", it was.",
    ]


def test_a_sent_word_that_is_heard_otherwise_later_is_not_sent_twice() -> None:
    assert heard("I scream so", "I scream", "Ice cream is cold", "Ice cream is cold.") == [
        "",
        "I scream",
        "",
        " is cold.",
    ]


def test_a_word_in_the_place_of_punctuation_that_was_sent_is_not_lost() -> None:
    assert heard("at present, we", "at present, it", "at present differs from") == [
        "",
        "at present,",
        " differs from",
    ]


def test_a_last_decoding_without_the_sent_words_adds_nothing() -> None:
    assert heard("thank you so", "thank you", "") == ["", "thank you", ""]


def test_characters_are_words_where_there_are_no_spaces() -> None:
    assert heard("今天天气", "今天天气很", "今天天气很好。") == ["", "今天天", "气很好。"]


def test_words_with_apostrophes_and_numbers_are_whole() -> None:
    assert heard("don't pay 3", "don't pay 3.50", "don't pay 3.50 now") == [
        "",
        "don't pay",
        " 3.50 now",
    ]


@given(st.lists(st.text(alphabet="ab ,.今é'", max_size=12), min_size=1, max_size=8))
def test_the_deltas_joined_are_the_text_whatever_is_heard(texts: list[str]) -> None:
    deltas = heard(*texts)
    if not any(deltas[:-1]):
        assert deltas[-1] == texts[-1].strip()
