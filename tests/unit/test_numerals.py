"""Numerals become words of their language, and nothing else of a text changes."""

from __future__ import annotations

import re

import num2words
import pytest

from whisperx_api_server.domain import Segment, Word
from whisperx_api_server.transcript.numerals import (
    CODES,
    DECIMAL_POINT,
    MISREAD_LANGUAGES,
    has_numerals,
    is_spelling,
    spell_numerals,
    spell_segment,
)

LANGUAGES = sorted(
    {code for code in num2words.CONVERTER_CLASSES if "_" not in code} - MISREAD_LANGUAGES | {*CODES}
)

WHOLE_NUMBERS = [
    str(number)
    for number in (*range(131), *range(190, 10_000, 97), 1000, 1984, 2000, 2024, 12345, 9999999)
]

OTHER_NUMERALS = [
    *re.split(
        " ",
        "1984 1100 0 00 007 123456789 1.234.567 1,234,567 0,5 0.5 12.05 1000,5 1234567,891 "
        "3. 3.5.2024 3/5/2024 2024-05-03 10:30 10:00 7:05 1990-1995 555-1234 1-800-555-1234 1-2-3 "
        "14th 1st 1990s 1er 5º 0º 2ª 0ª 7% $5 $5.50 0€ £1000000 192.168.1.1 1/2 ٢٥",
    ),
    *(f"{digit}{'0' * zeros}" for digit in (1, 25) for zeros in (*range(3, 20, 2), 99, 5000)),
]


@pytest.mark.parametrize(
    ("language", "text", "spelled"),
    [
        (
            "de",
            "Meine Lieblingszahl ist 268.",
            "Meine Lieblingszahl ist zweihundertachtundsechzig.",
        ),
        ("es", " Mi número favorito es 268.", " Mi número favorito es doscientos sesenta y ocho."),
        ("it", "Il mio numero preferito è 26.", "Il mio numero preferito è ventisei."),
        ("fr", "le 1er mai, 10 000 euros", "le premier mai, dix mille euros"),
        ("ru", "Мне 25 лет.", "Мне двадцать пять лет."),
        ("ko", "제 번호는 268", "제 번호는 이백육십팔"),
        ("ja", "3月14日に12%です", "三月十四日に十二パーセントです"),
        (
            "de",
            "am 3. Mai 1961 um 10:00 Uhr",
            "am dritten Mai neunzehnhunderteinundsechzig um zehn Uhr",
        ),
        ("de", "Es waren 1.000 und 3,5 %.", "Es waren eintausend und drei Komma fünf Prozent."),
        ("en", "on March 14th, 2024.", "on March fourteenth, twenty twenty-four."),
        ("en", "at 10:30, 1,000.5 of them", "at ten thirty, one thousand point five of them"),
        (
            "en",
            "It costs $5.50 or $3 million",
            "It costs five dollars fifty or three million dollars",
        ),
        ("en", "call 555-1234", "call five five five one two three four"),
        ("en", "1-0-0-0-1 0-1-803", "One zero zero zero one zero one eight zero three"),
        ("en", "1-0-0-0-1 902-10", "One zero zero zero one nine zero two one zero"),
        ("de", "Seiten 902-910 4-5-6", "Seiten neun null zwei neun eins null vier fünf sechs"),
        (
            "en",
            "pages 902-910 and 4-5-6",
            "pages nine hundred and two nine hundred and ten and four five six",
        ),
        ("en", "the 1990s, MP3, COVID-19", "the nineteen nineties, MP three, COVID-nineteen"),
        ("en", "Yes. 12% agree", "Yes. Twelve percent agree"),
        # where there are no words for it the digits stay
        ("zh", "我最喜欢的数字是268", "我最喜欢的数字是268"),
        ("ru", "это 12%", "это 12%"),
        ("en", "192.168.1.1 and 1/2", "192.168.1.1 and 1/2"),
        ("xx", "268", "268"),
        ("en", "no number here, $ and %", "no number here, $ and %"),
    ],
)
def test_numerals_are_spelled_in_their_language(language: str, text: str, spelled: str) -> None:
    assert spell_numerals(text, language) == spelled


@pytest.mark.parametrize(
    ("language", "text", "spelled"),
    [
        ("de", "ist 268.", "ist zweihundertachtundsechzig."),
        ("de", "am 3. Mai", "Am dritten Mai"),
        ("en", "it is 268", "it is two hundred sixty-eight"),
        ("en", "it is 268", "it is two hundred and sixty eight"),
        ("en", "room 902", "Room nine oh two."),
        ("en", "in 1984", "in nineteen eighty-four"),
        ("en", "$5", "five dollars"),
        ("zh", "是268", "是二百六十八"),
        ("el", "το 268", "το διακόσια εξήντα οκτώ"),
    ],
)
def test_words_that_say_the_number_are_its_spelling(language: str, text: str, spelled: str) -> None:
    assert is_spelling(spelled, text, language)


@pytest.mark.parametrize(
    ("language", "text", "spelled"),
    [
        ("de", "ist 268.", "ist two hundred eight and sixty."),
        ("es", "es 268.", "es..."),
        ("it", "è 26.", "è ventissai."),
        ("en", "The meeting is on March 14th, 2024 at nine", "The meeting is on March,,,,,,,"),
        ("en", "902-1-0", "nano two one oh"),
        ("en", "it is 268 now", "it is two hundred sixty-eight"),
        ("en", "it is 268", "it is two hundred sixty-nine"),
        ("zh", "是268", "是 two six eight"),
        ("zh", "是268", "是"),
        ("el", "το 268", "το 268"),
    ],
)
def test_other_words_are_not_its_spelling(language: str, text: str, spelled: str) -> None:
    assert not is_spelling(spelled, text, language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_reads_whole_numbers(language: str) -> None:
    spelled = {number: spell_numerals(number, language) for number in WHOLE_NUMBERS}
    assert [number for number, words in spelled.items() if has_numerals(words)] == []
    assert len(set(spelled.values())) == len(spelled)  # no two numbers sound alike
    assert all(is_spelling(spelled[number], number, language) for number in WHOLE_NUMBERS[::4])


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_numerals_are_read_or_stay(language: str) -> None:
    for numeral in OTHER_NUMERALS:
        words = spell_numerals(numeral, language)
        assert words == numeral or is_spelling(words, numeral, language), numeral
        assert not is_spelling("", numeral, language), numeral


@pytest.mark.parametrize("language", LANGUAGES)
def test_decimals_lose_no_digit(language: str) -> None:
    decimals = ["0,05", "0,5", "3,14", "12,05", "12,5", "100,5", "0,123", "3"]
    if language in DECIMAL_POINT:
        decimals = [decimal.replace(",", ".") for decimal in decimals]
    assert len({spell_numerals(decimal, language) for decimal in decimals}) == len(decimals)


@pytest.mark.parametrize("language", ["am", "cy"])
def test_digits_stay_in_languages_that_are_misread(language: str) -> None:
    assert spell_numerals("1234567 / 12", language) == "1234567 / 12"


@pytest.mark.parametrize(
    ("language", "text", "spelled"),
    [
        ("sk", "schôdza 3. mája o 26", "schôdza 3. mája o dvadsaťšesť"),
        ("cs", "schůze 3. května v 26", "schůze 3. května v dvacet šest"),
    ],
)
def test_a_date_without_known_ordinals_stays(language: str, text: str, spelled: str) -> None:
    assert spell_numerals(text, language) == spelled
    assert is_spelling(spelled.replace("3.", "třetího"), text, language)


def test_many_numerals_are_compared_in_no_time() -> None:
    text = " α ".join(str(number) for number in range(60))
    assert not is_spelling("α " * 400, text, "el")


def test_digits_of_every_script_are_numerals() -> None:
    assert has_numerals("عدد ٢٥")
    assert not has_numerals("m² costs % and $")


def test_the_words_of_a_number_share_its_time() -> None:
    said = [
        ("Of", 0.0, 1.0),
        ("10", 1.0, 1.5),
        ("000", 1.5, 2.0),
        ("on", 2.0, 3.0),
        ("14th,", 3.0, 4.0),
    ]
    words = tuple(Word(text=text, start=start, end=end, score=0.5) for text, start, end in said)
    segment = Segment(start=0.0, end=4.0, text=" Of 10 000 on 14th,", words=words)
    spelled = spell_segment(segment, "en")
    assert spelled.text == " Of ten thousand on fourteenth,"
    assert spelled.words is not None
    assert [word.text for word in spelled.words] == ["Of", "ten", "thousand", "on", "fourteenth,"]
    of, ten, thousand, on, fourteenth = spelled.words
    assert (of, on) == (words[0], words[3])
    assert (ten.start, ten.end) == (1.0, thousand.start)
    assert (thousand.end, thousand.score) == (2.0, 0.5)
    assert (fourteenth.start, fourteenth.end) == (3.0, 4.0)


def test_a_segment_without_words_or_numerals_keeps_what_it_has() -> None:
    plain = Segment(start=0.0, end=1.0, text="no number")
    assert spell_segment(plain, "en") is plain
    timeless = Segment(start=0.0, end=1.0, text="room 5")
    assert spell_segment(timeless, "en").text == "room five"
    assert spell_segment(timeless, "en").words is None
