"""`suppress_numerals`: texts without digits, decoded so or spelled so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...numerals import has_numerals, is_spelling, spell_numerals
from .decoding import Decoding
from .encoding import EncodedBatch
from .search import BeamSearch, Row, Search
from .vocabulary import MAX_LENGTH, Vocabulary

MAX_LOGPROB_LOSS = 0.3
"""Mean log probability that a text in words may have less than the same text in digits."""

WITHOUT_NUMERALS = Search(suppress_numerals=True)


class NumeralSpeller:
    """Puts the numerals of decoded texts into words; costs nothing where there are none."""

    def __init__(self, search: BeamSearch, vocabulary: Vocabulary) -> None:
        self._search = search
        self._vocabulary = vocabulary

    def spelled(
        self,
        encoded: EncodedBatch,
        rows: Sequence[Row],
        decodings: Sequence[Decoding],
        beam_size: int,
        temperature: float,
    ) -> list[Decoding]:
        """The decodings of the rows, their numerals in words.

        What the decoder says when it may not write numerals stands where that is the same text
        with the same numbers; it knows how a number was said. Elsewhere the digits are spelled.
        """
        found = list(decodings)
        places = [place for place, one in enumerate(decodings) if has_numerals(one.text)]
        chosen = [rows[place] for place in places]
        written = self._search.generate(encoded, chosen, WITHOUT_NUMERALS, beam_size, temperature)
        for place, row, words in zip(places, chosen, written, strict=True):
            digits = found[place]
            kept = (
                not words.unlikely
                and not words.repetitive
                and words.avg_logprob >= digits.avg_logprob - MAX_LOGPROB_LOSS
                and is_spelling(words.text, digits.text, row.language)
            )
            found[place] = words if kept else self._spell(digits, row.language)
        return found

    def _spell(self, digits: Decoding, language: str) -> Decoding:
        tokens = self._vocabulary.encode(spell_numerals(digits.text, language))
        if len(tokens) > MAX_LENGTH // 2:  # with its prompt it could not be aligned
            return digits
        return replace(digits, tokens=tuple(tokens), text=self._vocabulary.decode(tokens))
