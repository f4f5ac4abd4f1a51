"""Sentence splitting."""

from __future__ import annotations

from itertools import pairwise

import pytest

from whisperx_api_server.backends.whisperx.sentences import split_sentences


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
