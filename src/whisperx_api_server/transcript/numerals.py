"""Spells out the numerals of a transcript in its language.

The words come from `num2words`. Digits stay where it has no words or fails, as for Chinese or an IP
address. A numeral is everything that is read as one: `14th`, `10:30`, `1,000.5`, `$5`, `12 %`.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial

from ..domain import SPACELESS_LANGUAGES, Segment, Word
from .sentences import word_spans

MAX_CARDINAL_DIGITS = 7
"""A longer number is read digit by digit, unless it is round."""

MAX_ROUND_DIGITS = 15
"""A longer number is read digit by digit even if it is round."""

MAX_NUMERAL_LENGTH = 100
"""A longer numeral stays in digits."""

MAX_FREE_NUMERALS = 8
"""Maximum number of numerals that `is_spelling` accepts in a language without number words."""

CODES = {"nn": "no", "kk": "kz"}
"""Codes of num2words that differ from Whisper's."""

MISREAD_LANGUAGES = frozenset({"am", "cy"})
"""Languages whose numbers num2words 0.5.14 reads wrongly; some Amharic ones take it for ever."""

MISREAD_DECIMALS = frozenset({"ar", "bn", "fa", "tr", "vi"})
"""Languages in which num2words 0.5.14 reads 0.05 as 0.5, or loses digits."""

DECIMAL_POINT = frozenset({"en", "ja", "ko", "th", "he"})
"""Languages that write 1,000.5; the others write 1.000,5."""

YEAR_READING = frozenset({"en", "de", "nl", "da", "no", "nn"})
"""Languages in which a year is read differently from the number."""

ORDINAL_SUFFIX = {
    "en": r"(?:st|nd|rd|th)\b",
    "fr": r"(?:er|ère|re|ème|e)\b",
    "es": r"\.?[ºª°]",
    "it": r"[ºª°]",
    "pt": r"\.?[ºª°]",
    "nl": r"(?:ste|de|e)\b",
    "sv": r":[ae]\b",
    "de": r"\.(?=\s(?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November"
    r"|Dezember|Jahrhundert)\b)",
    **dict.fromkeys(
        ("da", "no", "nn", "fi", "is", "hu", "sl", "sk", "lv", "cs", "sr"), r"\.(?=\s[^\W\d_A-Z])"
    ),
}

UNITS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    language: {
        sign: (f"{gap}{one}", f"{gap}{several}")
        for sign, (one, _, several) in zip(
            "%$£€", (unit.partition("/") for unit in units.split(", ")), strict=True
        )
    }
    for language, gap, units in (
        ("en", " ", "percent/percent, dollar/dollars, pound/pounds, euro/euros"),
        ("de", " ", "Prozent/Prozent, Dollar/Dollar, Pfund/Pfund, Euro/Euro"),
        ("fr", " ", "pour cent/pour cent, dollar/dollars, livre/livres, euro/euros"),
        ("es", " ", "por ciento/por ciento, dólar/dólares, libra/libras, euro/euros"),
        ("it", " ", "per cento/per cento, dollaro/dollari, sterlina/sterline, euro/euro"),
        ("pt", " ", "por cento/por cento, dólar/dólares, libra/libras, euro/euros"),
        ("nl", " ", "procent/procent, dollar/dollar, pond/pond, euro/euro"),
        ("sv", " ", "procent/procent, dollar/dollar, pund/pund, euro/euro"),
        ("ja", "", "パーセント/パーセント, ドル/ドル, ポンド/ポンド, ユーロ/ユーロ"),
    )
}
"""The words for a sign, spoken after the number: singular/plural."""

_NUMBER = r"\d(?:[\d.,:/'’\u00a0\u202f–-]*\d)?"
_SPACED = r"\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?:[.,]\d+)?(?!\d)"  # 10 000
_SCALE = r"(?:hundred|thousand|million|billion|trillion)"


_DICTATED = r"\d(?:[–-]\d){2,}"
"""Digits that were spoken one by one."""


def has_numerals(text: str) -> bool:
    """Whether a text contains digits."""
    return any(character.isdecimal() for character in text)


def spell_numerals(text: str, language: str) -> str:
    """Spell out the numerals of a text; those without a spelling stay as they are."""
    spelled, end = "", 0
    for start, stop, words in _spellings(text, language):
        spelled += text[end:start] + words
        end = stop
    return spelled + text[end:]


def spell_segment(segment: Segment, language: str) -> Segment:
    """Spell out the numerals of a segment, in its text and its `words`.

    The words of a number share its time in proportion to their lengths.
    """
    text, words = segment.text, segment.words
    spellings = list(_spellings(text, language))
    if not spellings:
        return segment
    spans = word_spans(text, words) if words else None
    if words and spans is None:
        return segment  # its words do not match its text
    return replace(
        segment,
        text=spell_numerals(text, language),
        words=tuple(_spelled_words(text, words, spans, spellings)) if words and spans else words,
    )


def is_spelling(spelled: str, text: str, language: str) -> bool:
    """Whether `spelled` is exactly `text` with its numerals spelled out in the language.

    In a language without known number words, a numeral may be replaced by any text without digits
    and, if the language has its own script, without Latin letters.
    """
    pattern, end, free = "", 0, 0
    latin = any("a" <= letter <= "z" for letter in _squeezed(text))
    any_words = r"[^\d]{1,40}?" if latin else r"[^\da-z]{1,40}?"
    for numeral in _numerals(text, language):
        between = _squeezed(text[end : numeral.start()])
        end = numeral.end()
        pattern += re.escape(between)
        readings = {_squeezed(reading) for reading in _readings(numeral, language)}
        if readings:
            # up to two more letters, for declined number words
            pattern += f"(?:{'|'.join(sorted(map(re.escape, readings), key=len, reverse=True))})"
            pattern += r"[^\W\d_]{0,2}"
        elif between or not free:
            pattern += any_words
            free += 1
    pattern += re.escape(_squeezed(text[end:]))
    return free <= MAX_FREE_NUMERALS and re.fullmatch(pattern, _squeezed(spelled)) is not None


def _numerals(text: str, language: str) -> Iterator[re.Match[str]]:
    ordinal = ORDINAL_SUFFIX.get(language)
    english = language == "en"
    scale = rf"(?:\s(?P<scale>{_SCALE})\b)?" if english else r"(?P<scale>(?!))?"
    plural = r"s\b" if english else r"(?!)"
    pattern = (
        rf"(?P<before>[$£€])?(?(before)[ ]?)(?P<number>{_SPACED}|{_NUMBER})"
        rf"(?:(?P<ordinal>{ordinal or '(?!)'})|(?P<plural>{plural})"
        rf"|(?(before){scale}|\s?(?P<after>[%$£€]))?)"
    )
    return re.finditer(pattern, text)


def _spellings(text: str, language: str) -> Iterator[tuple[int, int, str]]:
    """The numerals that can be spelled, as (start, end, words)."""
    spaced = language not in SPACELESS_LANGUAGES
    for numeral in _numerals(text, language):
        words = next(_readings(numeral, language), None)
        if words is None:
            continue
        start, end = numeral.span()
        before = text[:start].rstrip()
        if spaced and (not before or before[-1] in ".!?"):
            words = words[:1].upper() + words[1:]
        if spaced and text[:start] and text[start - 1].isalpha():
            words = " " + words
        if spaced and text[end:] and text[end].isalpha():
            words += " "
        yield start, end, words


def _spelled_words(
    text: str,
    words: tuple[Word, ...],
    spans: tuple[tuple[int, int], ...],
    spellings: list[tuple[int, int, str]],
) -> Iterator[Word]:
    """The words of the spelled text; the words that a numeral spans are merged, then split."""
    index = 0
    while index < len(words):
        last, (start, end) = index, spans[index]
        touching = [one for one in spellings if one[0] < end and start < one[1]]
        while touching and last + 1 < len(words) and spans[last + 1][0] < touching[-1][1]:
            last += 1
            end = spans[last][1]
            touching = [one for one in spellings if one[0] < end and start < one[1]]
        if not touching:
            yield words[index]
        else:
            spelled, place = "", start
            for first, stop, said in touching:
                spelled += text[place:first] + said
                place = stop
            yield from _shared(spelled + text[place:end], words[index], words[last])
        index = last + 1


def _shared(text: str, first: Word, last: Word) -> Iterator[Word]:
    parts = text.split()
    letters = sum(map(len, parts))
    done = 0
    for part in parts:
        start = first.start + (last.end - first.start) * done / letters
        done += len(part)
        end = first.start + (last.end - first.start) * done / letters
        yield replace(first, text=part, start=start, end=end)


def _readings(numeral: re.Match[str], language: str) -> Iterator[str]:
    """The readings of a numeral, the most probable first; none if unknown."""
    if len(numeral["number"]) > MAX_NUMERAL_LENGTH:
        return
    for reading in _attempts(numeral, language):
        if not has_numerals(reading):
            yield reading


def _attempts(numeral: re.Match[str], language: str) -> Iterator[str]:
    """The readings of a numeral; those that num2words does not know still have digits."""
    say = _speaker(language)
    if say is None:
        return
    sign = numeral["before"] or numeral["after"]
    units = UNITS.get(language, {}).get(sign) if sign else ("", "")
    if units is None:
        return
    number = numeral["number"]
    if numeral["ordinal"] and number.isdecimal():
        yield _ordinal(say(int(number), to="ordinal"), numeral, language)
        return
    if sign and sign != "%" and (money := re.fullmatch(r"(\d+)[.,](\d\d)", number)):
        whole, cents = map(int, money.groups())
        yield f"{say(whole)}{units[whole != 1]} {say(cents)}"
    if _is_dictated(numeral):
        yield from _digit_readings(number, language, say)
        return
    for reading in _number_readings(number, language, say):
        if numeral["plural"]:
            yield f"{reading[:-1]}ies" if reading.endswith("y") else f"{reading}s"
            continue
        if numeral["scale"]:
            reading += f" {numeral['scale']}"
        yield reading + units[number != "1" or bool(numeral["scale"])]
        if language == "en" and " and " in reading:
            yield reading.replace(" and ", " ") + units[1]


def _is_dictated(numeral: re.Match[str]) -> bool:
    """Whether a numeral with hyphens is beside digits that were spoken one by one."""
    before, after = numeral.string[: numeral.start()], numeral.string[numeral.end() :]
    return bool(re.fullmatch(r"\d+(?:[–-]\d+)+", numeral["number"])) and bool(
        re.search(rf"{_DICTATED}\s$", before) or re.match(rf"\s{_DICTATED}", after)
    )


def _ordinal(reading: str, numeral: re.Match[str], language: str) -> str:
    """Inflect an ordinal according to its suffix and the text before it."""
    if "ª" in numeral["ordinal"]:
        return re.sub("o$", "a", reading)
    before = numeral.string[: numeral.start()]
    if language == "de" and not re.search(r"\b(?:der|die|das)\s$", before, re.IGNORECASE):
        return reading + "n"  # am dritten Mai
    return reading


def _number_readings(number: str, language: str, say: Callable[..., str]) -> Iterator[str]:
    gap = "" if language in SPACELESS_LANGUAGES else " "
    by_digit = partial(_digit_readings, number, language, say)
    value = _value(number, language)
    if value is not None:
        if isinstance(value, Decimal):
            if language not in MISREAD_DECIMALS:
                yield say(float(value) if language == "it" else value)  # a Decimal loses digits
            return
        year = number.isdecimal() and (1100 <= value < 2000 or 2010 <= value < 2100)
        if year and language in YEAR_READING:
            yield say(value, to="year")
        if number.isdecimal() and (
            (number[0] == "0" and len(number) > 1)
            or (len(number) > MAX_CARDINAL_DIGITS and not number.endswith("000"))
            or len(number) > MAX_ROUND_DIGITS
        ):
            yield next(by_digit())
        else:
            yield say(value)
            if number.isdecimal():
                yield say(value, to="ordinal")
        if number.isdecimal():
            if len(number) == 4:
                yield gap.join(say(int(pair)) for pair in (number[:2], number[2:]))
            yield from by_digit()
        return
    parts = re.split(r"\D+", number)
    if re.fullmatch(r"\d{1,2}:\d{2}", number):
        yield gap.join(say(int(part)) for part in parts if part != "00")
    elif re.fullmatch(r"[\d–-]+", number) and (
        len(parts) > 3
        or any(part[0] == "0" and len(part) > 1 for part in parts)
        or [len(part) for part in parts] in ([3, 4], [3, 3, 4], [3, 1, 1], [1, 1, 3])
    ):
        yield from by_digit()  # a telephone number
    elif re.fullmatch(r"\d{1,4}([/.–-])\d{1,2}\1\d{1,4}|\d{1,4}[–-]\d{1,4}", number):
        # a date or a range
        yield gap.join(next(_number_readings(str(int(part)), language, say)) for part in parts)


def _digit_readings(number: str, language: str, say: Callable[..., str]) -> Iterator[str]:
    gap = "" if language in SPACELESS_LANGUAGES else " "
    digits = gap.join(say(int(digit)) for digit in number if digit.isdecimal())
    yield digits
    if language == "en":
        yield digits.replace("zero", "oh")


def _value(number: str, language: str) -> int | Decimal | None:
    """The value of a number; None if it is not a single number."""
    plain = re.sub(r"[\s'’]", "", number)
    if plain.isdecimal():
        return int(plain)
    decimal, group = (".", ",") if language in DECIMAL_POINT else (",", ".")
    if re.fullmatch(rf"\d{{1,3}}(?:{re.escape(group)}\d{{3}})+(?:{decimal}\d+)?", plain):
        plain = plain.replace(group, "").replace(decimal, ".")
    elif re.fullmatch(r"\d+[.,]\d+", plain):
        plain = plain.replace(",", ".")
    else:
        return None
    return Decimal(plain) if "." in plain else int(plain)


_NUM2WORDS = threading.Lock()
"""Its converters keep the precision of the last decimal number."""


def _speaker(language: str) -> Callable[..., str] | None:
    """A function from number to words, or to digits where num2words has no words for it.

    None if num2words lacks the language.
    """
    import num2words

    code = CODES.get(language, language)
    if code not in num2words.CONVERTER_CLASSES or language in MISREAD_LANGUAGES:
        return None

    def say(value: float | Decimal, to: str = "cardinal") -> str:
        try:
            with _NUM2WORDS:
                words: str = num2words.num2words(value, lang=code, to=to)
        except Exception:  # noqa: BLE001 - its languages raise errors of many kinds
            words = ""
        return words.strip() or str(value)

    return say


def _squeezed(text: str) -> str:
    """Letters and digits only, without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in plain if character.isalnum())
