"""Splits text into sentences, in most scripts and without a download, and segments likewise.

The rules hold across languages: a stop mark before a space ends a sentence, unless it belongs to
an abbreviation, an initial or an ordinal number, or the next word is in lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest

from ..domain import Segment, Word

SENTENCE_PAUSE = 1.5
"""Seconds without a word that end a segment also without punctuation."""

LONGEST_SENTENCE = 15.0
"""Seconds; a longer sentence is cut into several segments at clauses and pauses."""

CLAUSE_END = re.compile(r"[,;:、，；：،–—][\"'”’»)\]]*$")

_TOKEN = re.compile(r"\S+")
_STOPS = ".!?…؟۔।॥።։။۔༎;\u037e"
_GREEK_QUESTION_MARKS = ";\u037e"
_CLOSERS = "\"'”’»›)]}"
_OPENERS = "\"'“‘«‹([{¿¡„‚"
_WIDE_STOP = re.compile("[。！？｡．…]*[。！？｡．][”’」』】）》〉]*")
"""Stop marks of scripts without spaces, which always end a sentence."""

_COMMON_ABBREVIATIONS = frozenset({"dr", "prof", "st", "mr", "mrs", "ms", "cf", "ca", "vs"})
_NEVER_LAST = {
    "cs": "např tzv tzn atd č str mgr ing mudr judr phdr pí",
    "da": "f.eks bl.a ca dvs fx hr fru nr kl pga mht",
    "de": "bzw evtl fr ggf hr hrn inkl nr sog str usf vgl zzgl",
    "el": "π.χ δηλ κ κα κος",
    "en": "adm brig capt cmdr col fr gen gov hon lieut lt maj mt messrs pres rep rev sen sgt supt "
    "viz",
    "es": "sr sra srta sres dra d da dña ud uds vd vds ee gral ing lic",
    "fi": "esim ks mm ns nk",
    "fr": "m mm mme mlle me mgr pr ste env",
    "hu": "pl kb ún ill ifj id",
    "it": "sig sigg sig.ra sig.na dott dott.ssa prof.ssa avv ing arch on geom",
    "nl": "dhr mevr mw drs ir ing jhr bijv m.b.t",
    "no": "f.eks bl.a ca dvs hr fru nr kl pga",
    "pl": "np m.in tzn tj tzw ok ul al inż mgr pt św",
    "pt": "sr sra srs sras dra profa eng exmo exma d",
    "ro": "dl dna d-na dvs",
    "ru": "т.е т.к т.н им ул стр гл тов гр проф акад см ср",
    "sv": "t.ex bl.a dvs ca d.v.s hr nr kl pga s.k",
    "tr": "sn av örn bkz yrd doç",
    "uk": "т.зв ім вул стор гл проф акад див",
}
_ABBREVIATIONS = {
    language: _COMMON_ABBREVIATIONS.union(words.split()) for language, words in _NEVER_LAST.items()
}
_BEFORE_A_NUMBER = frozenset(
    {"no", "nos", "nr", "núm", "vol", "fig", "pp", "p", "art", "ch", "sec"}
)
_LAST_OR_NOT = frozenset(
    {"etc", "inc", "ltd", "co", "corp", "jr", "sr", "bros", "usw", "a.m", "p.m"}
)
_ORDINAL_LANGUAGES = frozenset(
    {"cs", "da", "de", "et", "eu", "fi", "hr", "hu", "lv", "nn", "no", "pl", "sk", "sl", "tr"}
)
"""Languages that write "the 3rd" as "3."."""


def split_sentences(text: str, language: str | None) -> list[tuple[int, int]]:
    """Split a text into sentences: (start, end) character spans, in order.

    Every character except white space is in exactly one span, and no span begins or ends with
    white space. `language` (ISO-639-1) selects its abbreviations; None selects the common ones.
    Takes linear time.
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
        # French puts a space before », which belongs to the sentence that it closes
        word = token.group() if token.group().strip(_CLOSERS) else word + token.group()
        if start < token.end() and (after is None or _ends(word, after.group(), language)):
            spans.append((start, token.end()))
            start = None
        elif start == token.end():
            start = None
    return spans


def word_spans(text: str, words: Iterable[Word]) -> tuple[tuple[int, int], ...] | None:
    """Find each word in `text`, as [start, end) characters; None if one is missing."""
    spans = []
    end = 0
    for word in words:
        stripped = word.text.strip()
        start = text.find(stripped, end)
        if start < 0:
            return None
        end = start + len(stripped)
        spans.append((start, end))
    return tuple(spans)


def sentence_segments(segment: Segment) -> list[Segment]:
    """Cut a segment into its sentences; a segment without words stays whole.

    A pause of `SENTENCE_PAUSE` seconds between two words also ends a segment, and a sentence of
    more than `LONGEST_SENTENCE` seconds is cut at clauses and pauses. A sentence lasts from its
    first word to its last, and has the tokens of its words if they are known, else those of its
    segment. The first sentence keeps the log probabilities, so that joining repeats none.
    """
    words = segment.words
    spans = word_spans(segment.text, words) if words else None
    if not words or not spans:
        return [segment]
    sentences = split_sentences(segment.text, segment.language)
    starts = [start for start, _ in spans]
    ends = {bisect_left(starts, end) for _, end in sentences}
    for index, (before, after) in enumerate(pairwise(words), 1):
        if after.start - before.end >= SENTENCE_PAUSE:
            ends.add(index)
    bounds = sorted(ends | {0, len(words)})
    bounds = [0, *(end for first, last in pairwise(bounds) for end in _shorter(words, first, last))]
    return [
        replace(
            segment,
            start=words[first].start,
            end=words[last - 1].end,
            text=segment.text[
                starts[first] if first else 0 : starts[last] if last < len(words) else None
            ].strip(),
            words=words[first:last],
            tokens=tuple(token for word in words[first:last] for token in word.tokens)
            or segment.tokens,
            logprobs=() if first else segment.logprobs,
        )
        for first, last in pairwise(bounds)
    ]


def _shorter(words: Sequence[Word], first: int, last: int) -> Iterator[int]:
    """Ends of the parts of words[first:last], so that none is longer than `LONGEST_SENTENCE`."""
    start, end = words[first].start, words[last - 1].end
    if end - start > LONGEST_SENTENCE and last - first > 1:
        middle = (start + end) / 2

        def quality(index: int) -> tuple[bool, bool, float, float]:
            place, pause = words[index].start, words[index].start - words[index - 1].end
            central = abs(place - middle) <= (end - start) / 4
            clause = CLAUSE_END.search(words[index - 1].text) is not None
            return central, clause, pause, -abs(place - middle)

        best = max(range(first + 1, last), key=quality)
        yield from _shorter(words, first, best)
        yield from _shorter(words, best, last)
    else:
        yield last


def _ends(word: str, following: str, language: str | None) -> bool:
    """Whether a sentence ends with `word`, before a space and `following`."""
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
    """Whether the dot after `body` belongs to the word and does not end a sentence."""
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
