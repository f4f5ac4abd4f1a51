"""Beam search over a batch of encoded windows, repeated with restrictions for doubtful results.

openai/whisper decodes doubtful windows again by sampling at rising temperatures. CTranslate2's
random generator cannot be seeded again once a thread has used it, so the same recording would get
a different text each time; and samples of a loop are loops. Here beam search is repeated with
repetitions forbidden, then penalized, then without the prompt, which is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import Decoding, best, compression_ratio
from .encoding import EncodedBatch
from .vocabulary import MAX_LENGTH, Vocabulary

MIN_BEAM_TO_SAMPLE = 5
"""Minimum number of hypotheses from which a temperature above 0 draws."""

TOKENS_PER_SECOND = 10
SPARE_TOKENS = 32
LIMIT_STEP = 10.0
"""Seconds; windows of similar length share a call, regardless of the rest of the batch."""

SOUTH_ASIAN = ("as", "bn", "gu", "hi", "kn", "ml", "mr", "ne", "pa", "sa", "sd", "si", "ta", "te")
OTHER_SCRIPTS = ("am", "ar", "bo", "fa", "he", "hy", "ka", "km", "lo", "my", "ps", "th", "ur", "yi")
MANY_TOKENS = frozenset((*SOUTH_ASIAN, *OTHER_SCRIPTS))
"""Languages whose letters take up to three tokens each; their texts have no token limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """Restrictions of beam search; the first two are CTranslate2's options.

    `context` False drops the client's prompt and hotwords, `bounded` False the limit of tokens.
    """

    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0
    context: bool = True
    bounded: bool = True
    suppress_numerals: bool = False


PLAIN = Search()
AGAINST_LOOPS = (Search(no_repeat_ngram_size=3), Search(repetition_penalty=1.2))
UNBOUNDED = Search(bounded=False)
WITHOUT_CONTEXT = Search(context=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A window of a batch: its index, seconds, language, prompt, and random seed.

    The prompt's first `context` tokens are the client's prompt and hotwords.
    """

    place: int
    seconds: float
    language: str
    prompt: tuple[int, ...]
    context: int
    seed: int

    @property
    def max_tokens(self) -> int:
        """A limit above what can be spoken in the window; the maximum if that is unknown."""
        if self.language in MANY_TOKENS:
            return MAX_LENGTH
        steps = math.ceil(self.seconds / LIMIT_STEP)
        return round(TOKENS_PER_SECOND * steps * LIMIT_STEP) + SPARE_TOKENS


class BeamSearch:
    """Decodes rows of a batch that share beam size and temperature. Deterministic."""

    def __init__(self, model: Any, vocabulary: Vocabulary, *, fallback: bool) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._fallback = fallback

    def decode(
        self, encoded: EncodedBatch, rows: Sequence[Row], beam_size: int, temperature: float
    ) -> list[Decoding]:
        """Decode each row, repeatedly if doubtful, and return the best results."""
        found = self.generate(encoded, rows, PLAIN, beam_size, temperature)
        if not self._fallback:
            return found
        tries = [[first] for first in found]

        def again(places: Sequence[int], search: Search) -> None:
            chosen = [rows[place] for place in places]
            for place, decoding in zip(
                places,
                self.generate(encoded, chosen, search, beam_size, temperature),
                strict=True,
            ):
                tries[place].append(decoding)

        cut = [
            place
            for place, row in enumerate(rows)
            if len(found[place].tokens) >= row.max_tokens and not found[place].repetitive
        ]
        again(cut, UNBOUNDED)
        spoken = [place for place, first in enumerate(found) if not first.silent]
        looping = [place for place in spoken if tries[place][-1].repeats]
        for search in AGAINST_LOOPS:
            again(looping, search)
        misled = [place for place in spoken if rows[place].context and best(tries[place]).unlikely]
        again(misled, WITHOUT_CONTEXT)
        return [best(each) for each in tries]

    def generate(
        self,
        encoded: EncodedBatch,
        rows: Sequence[Row],
        search: Search,
        beam_size: int,
        temperature: float,
    ) -> list[Decoding]:
        """Decode each row once, in order."""
        groups: dict[tuple[int, int], list[int]] = {}  # of one length and limit
        prompts = [
            list(row.prompt if search.context else row.prompt[row.context :]) for row in rows
        ]
        for index, row in enumerate(rows):
            limit = row.max_tokens if search.bounded and encoded.sliceable else MAX_LENGTH
            groups.setdefault((len(prompts[index]), limit), []).append(index)
        found: dict[int, Decoding] = {}
        for (length, limit), indices in groups.items():
            results = self._generate(
                encoded.rows([rows[index].place for index in indices]),
                [prompts[index] for index in indices],
                search,
                beam_size,
                temperature,
                min(MAX_LENGTH, length + limit),
            )
            for index, result in zip(indices, results, strict=True):
                found[index] = self._decoding(result, temperature, rows[index])
        return [found[index] for index in range(len(rows))]

    def _generate(
        self,
        encoded: Any,
        prompts: list[list[int]],
        search: Search,
        beam_size: int,
        temperature: float,
        max_length: int,
    ) -> list[Any]:
        # -1 stands for the symbols that the model's own config.json suppresses
        suppressed = [-1, *(self._vocabulary.numerals if search.suppress_numerals else ())]
        beam = beam_size if temperature == 0 else max(beam_size, MIN_BEAM_TO_SAMPLE)
        results: list[Any] = self._model.generate(
            encoded,
            prompts,
            max_length=max_length,
            suppress_tokens=suppressed,
            return_scores=True,
            return_no_speech_prob=True,
            beam_size=beam,
            num_hypotheses=1 if temperature == 0 else beam,
            no_repeat_ngram_size=search.no_repeat_ngram_size,
            repetition_penalty=search.repetition_penalty,
        )
        return results

    def _decoding(self, result: Any, temperature: float, row: Row) -> Decoding:
        choice = _draw(result, temperature, row.seed)
        score, sequence = result.scores[choice], result.sequences_ids[choice]
        tokens = self._vocabulary.text_tokens(sequence)
        text = self._vocabulary.decode(tokens)
        return Decoding(
            seconds=row.seconds,
            tokens=tuple(tokens),
            text=text,
            temperature=temperature,
            # the score is a mean that does not count the end of the text; openai/whisper's does
            avg_logprob=score * len(sequence) / (len(sequence) + 1),
            compression_ratio=compression_ratio(text.strip()),
            no_speech_prob=result.no_speech_prob,
        )


def _draw(result: Any, temperature: float, seed: int) -> int:
    """Choose the most probable hypothesis, or above temperature 0 draw one by probability."""
    if temperature == 0:
        return int(np.argmax(result.scores))
    totals = np.array(
        [
            score * len(sequence)
            for score, sequence in zip(result.scores, result.sequences_ids, strict=True)
        ]
    )
    weights = np.exp((totals - totals.max()) / temperature)
    return int(np.random.default_rng(seed).choice(len(totals), p=weights / weights.sum()))
