"""Where sentences end, in most scripts, without a download.

The rules are those that hold across languages: a stop mark before a space ends a sentence, unless
it belongs to an abbreviation, an initial or an ordinal number, or the sentence visibly goes on.
"""

from __future__ import annotations

import re
from itertools import zip_longest

_TOKEN = re.compile(r"\S+")
_STOPS = ".!?…؟۔।॥።։။។༎;\u037e"
_GREEK_QUESTION_MARKS = ";\u037e"
_CLOSERS = "\"'”’»›)]}"
_OPENERS = "\"'“‘«‹([{¿¡„‚"
_WIDE_STOP = re.compile("[。！？｡．…]*[。！？｡．][”’」』】）》〉]*")
"""The stops of scripts without spaces end a sentence wherever they stand."""

_NEVER_LAST = {
    "en": "adm brig capt cmdr col dr fr gen gov hon lieut lt maj mr mrs ms mt messrs pres prof rep "
    "rev sen sgt st supt vs viz",
    "fr": "m mm mme mlle me mgr dr pr st ste cf env",
    "de": "bzw ca dr evtl fr ggf hr hrn inkl nr prof sog st str usf vgl zzgl",
    "es": "sr sra srta sres dr dra d da dña ud uds vd vds ee gral ing lic prof",
    "it": "sig sigg sig.ra sig.na dott dott.ssa prof prof.ssa avv ing arch on geom ca",
    "pt": "sr sra srs sras dr dra prof profa eng exmo exma d",
    "nl": "dhr mevr mw dr drs ir ing mr prof jhr bijv ca",
}
_ABBREVIATIONS = {language: frozenset(words.split()) for language, words in _NEVER_LAST.items()}
_COMMON_ABBREVIATIONS = frozenset({"dr", "prof", "st", "mr", "mrs", "ms", "cf", "ca", "vs"})
_BEFORE_A_NUMBER = frozenset(
    {"no", "nos", "nr", "núm", "vol", "fig", "pp", "p", "art", "ch", "sec"}
)
_LAST_OR_NOT = frozenset(
    {"etc", "inc", "ltd", "co", "corp", "jr", "sr", "bros", "usw", "a.m", "p.m"}
)
_ORDINAL_LANGUAGES = frozenset(
    {"cs", "da", "de", "et", "eu", "fi", "hr", "hu", "lv", "nn", "no", "pl", "sk", "sl", "tr"}
)
"""Write "the 3rd" as "3."."""


def split_sentences(text: str, language: str | None) -> list[tuple[int, int]]:
    """The sentences of a text as (start, end) character spans, in order.

    Every character but white space is in exactly one span, and no span begins or ends with white
    space. `language` (ISO-639-1) adds its abbreviations; None knows the common ones. Linear in
    the text.
    """
    tokens = list(_TOKEN.finditer(text))
    spans: list[tuple[int, int]] = []
    start: int | None = None
    word = ""
    for token, after in zip_longest(tokens, tokens[1:]):
        start = token.start() if start is None else start
        for stop in _WIDE_STOP.finditer(text, token.start(), token.end()):
            spans.append((start, stop.end()))
            start = stop.end()
        # French sets a space before », which belongs to the sentence that it closes
        word = token.group() if token.group().strip(_CLOSERS) else word + token.group()
        if start < token.end() and (after is None or _ends(word, after.group(), language)):
            spans.append((start, token.end()))
            start = None
        elif start == token.end():
            start = None
    return spans


def _ends(word: str, following: str, language: str | None) -> bool:
    """Whether a sentence ends with `word`, which a space and `following` come after."""
    if not following.strip(_CLOSERS):
        return False
    core = word.rstrip(_CLOSERS)
    body = core.rstrip(_STOPS)
    stop = core[len(body) :]
    if not stop or (stop[-1] in _GREEK_QUESTION_MARKS and language != "el"):
        return False
    goes_on = following.lstrip(_OPENERS)[:1].islower()
    if goes_on and core != word:  # "Why?" she asked.
        return False
    if "…" in stop or ".." in stop:
        return not goes_on
    return stop != "." or not _keeps_dot(body.lstrip(_OPENERS), following, language)


def _keeps_dot(body: str, following: str, language: str | None) -> bool:
    """Whether the dot after `body` is the word's own and ends no sentence."""
    word = body.lower()
    next_is_number = following[:1].isdigit()
    if word in _ABBREVIATIONS.get(language or "", _COMMON_ABBREVIATIONS):
        return True
    if word in _LAST_OR_NOT:
        return not following.lstrip(_OPENERS)[:1].isupper()
    if word in _BEFORE_A_NUMBER and next_is_number:
        return True
    if word.isdigit():
        return language in _ORDINAL_LANGUAGES and len(word) <= 2
    if len(word) == 1 and word.isalpha():  # an initial, but not "So do I."
        return body.isupper() and not (language == "en" and word == "i")
    return "." in word and all(len(part) == 1 and part.isalpha() for part in word.split("."))
