"""Sentence splitting, and segments that are sentences."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from whisperx_api_server.domain import Segment, TokenLogprob, Word
from whisperx_api_server.transcript.sentences import (
    LONGEST_SENTENCE,
    sentence_segments,
    split_sentences,
)


def sentences(text: str, language: str | None = "en") -> list[str]:
    return [text[start:end] for start, end in split_sentences(text, language)]


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["Hello there.", "How are you?", "Fine!", "good."]),
        ("en", ["Mr. Smith met Dr. Jones at 3.14 p.m. today.", "They talked."]),
        ("en", ["He lives in the U.S. Army base, e.g. here.", "So do I.", "Really?!", "Yes."]),
        ("en", ["J. K. Rowling wrote it.", "See no. 5, vol. 2.", "He came in 1999.", "Then left."]),
        ("en", ["“Why?” she asked.", "(I do not know.)", '"Go!"', "Well... maybe.", "So…", "Yes."]),
        ("en", ["We open at 9 a.m.", "Tea, milk etc. are free.", "Visit example.com now."]),
        ("fr", ["M. Dupont est là !", "« Bonjour ! »", "Il part, cf. page 3."]),
        ("de", ["Am 3. Mai kam Hr. Müller z.B. nicht.", "Warum?", "Im Jahr 1999.", "Gut."]),
        ("es", ["¿Qué tal, Sr. López?", "¡Bien!", "Gracias."]),
        ("el", ["Τι κάνεις;", "Καλά."]),
        ("en", ["First; then second."]),
        ("en", ["And Mr. John Dashwood left.", "It rose by 2.5 percent.", "Gen. Lee rode on."]),
        ("ru", ["Он жил на ул. Мира, т.е. рядом.", "Да."]),
        ("pl", ["Mieszka np. przy ul. Długiej.", "Tak."]),
        ("sv", ["Ta med t.ex. bröd.", "Bra."]),
        ("pt", ["A Sra. Silva saiu.", "Sim."]),
        ("it", ["Il sig. Rossi è qui.", "Sì."]),
        ("hi", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("ur", ["یہ کیا ہے؟", "یہ کتاب ہے۔"]),
        ("hy", ["Բարեւ։", "Այո։"]),
        (None, ["Dr. Who?", "Him."]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(
    language: str | None, expected: list[str]
) -> None:
    assert sentences(" ".join(expected), language) == expected


def test_scripts_without_spaces_need_none_after_a_stop() -> None:
    expected = ["私は学生です。", "「本当ですか？」", "はい！", "3．"]
    assert sentences("".join(expected), "ja") == expected
    assert sentences("你好。 再见。", "zh") == ["你好。", "再见。"]


@pytest.mark.parametrize(
    "text",
    ["", "  \n", " a ", "...", "? ? ?", "。", "»", ". .", "a.b.c.", "x\t.\u3000y。 z", "!」「"],
)
def test_every_character_is_in_one_sentence(text: str) -> None:
    spans = split_sentences(text, "en")
    assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def spoken(text: str, *, seconds: float = 0.5, language: str = "en") -> Segment:
    """A segment whose words each last so long, back to back, with one token each."""
    pieces = list(text) if language in ("ja", "zh") else text.split()
    words = tuple(
        Word(text=piece, start=seconds * k, end=seconds * (k + 1), tokens=(k,))
        for k, piece in enumerate(pieces)
    )
    return Segment(
        start=0.0,
        end=30.0,
        text=text,
        language=language,
        words=words,
        tokens=(7, 8),
        logprobs=(TokenLogprob(token="a", logprob=-0.1, bytes=(97,)),),
    )


def test_segments_are_sentences_from_their_first_word_to_their_last() -> None:
    first, second = sentence_segments(spoken("We saw Dr. Who. He left."))
    assert (first.text, first.start, first.end, first.tokens) == (
        "We saw Dr. Who.", 0.0, 2.0, (0, 1, 2, 3)
    )  # fmt: skip
    assert (second.text, second.start, second.end, second.tokens) == ("He left.", 2.0, 3.0, (4, 5))
    assert len(first.logprobs) == 1
    assert second.logprobs == ()


def test_sentences_without_spaces_are_segments_too() -> None:
    segments = sentence_segments(spoken("私は学生です。本当ですか？はい。", language="ja"))
    assert [segment.text for segment in segments] == ["私は学生です。", "本当ですか？", "はい。"]
    assert [segment.start for segment in segments] == [0.0, 3.5, 6.5]


def test_a_long_pause_ends_a_segment() -> None:
    before = spoken("so we")
    words = (*(before.words or ()), Word(text="wait", start=2.6, end=3.0))
    cut = sentence_segments(replace(before, text="so we wait", words=words))
    assert [(each.text, each.start, each.end) for each in cut] == [
        ("so we", 0.0, 1.0), ("wait", 2.6, 3.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "language"),
    [("la " * 100, "en"), ("好" * 100, "zh"), ("of the age of wisdom, it was " * 15, "en")],
)
def test_text_without_stops_does_not_stay_one_long_segment(text: str, language: str) -> None:
    whole = spoken(text.strip(), seconds=0.3, language=language)
    segments = sentence_segments(whole)
    assert all(each.end - each.start <= LONGEST_SENTENCE for each in segments)
    assert "".join("".join(each.text.split()) for each in segments) == "".join(text.split())
    assert tuple(word for each in segments for word in each.words or ()) == whole.words
    if "," in text:
        assert all(each.text.endswith(",") for each in segments[:-1])


@pytest.mark.parametrize("words", [None, (Word(text="other", start=0.0, end=1.0),)])
def test_a_segment_without_times_for_its_words_stays_whole(words: tuple[Word, ...] | None) -> None:
    segment = replace(spoken("One. Two."), words=words)
    assert sentence_segments(segment) == [segment]
