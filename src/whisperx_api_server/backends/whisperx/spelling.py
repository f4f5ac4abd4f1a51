"""`suppress_numerals`: decodes or spells texts without digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...transcript.numerals import has_numerals, is_spelling, spell_numerals
from .decoding import Decoding
from .encoding import EncodedBatch
from .search import BeamSearch, Row, Search
from .vocabulary import MAX_LENGTH, Vocabulary

MAX_LOGPROB_LOSS = 0.3
"""Maximum loss of mean log probability of a text in words against the text with digits."""

WITHOUT_NUMERALS = Search(suppress_numerals=True)


class NumeralSpeller:
    """Writes the numerals of decoded texts as words; costs nothing without numerals."""

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
        """Write the numerals of the rows' decodings as words.

        The rows are decoded again without numerals, since only the decoder knows how a number was
        spoken. That result is used if it is the same text with the same numbers. Otherwise the
        digits are spelled out.
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
