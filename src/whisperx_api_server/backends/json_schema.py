"""Keeps a language model's output inside a JSON schema, and ends it in time.

llguidance turns the schema into a mask over the vocabulary for each step, so that no step can leave
the schema. What a mask cannot do is end: a model may fill its budget from inside a string. The
answer is then cut back as far as it takes to close it within the budget.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidRequest
from .base import require

CLOSERS = ('"', "}", "]")
"""Tried in this order when an answer is closed: `"` ends a string, in which `}` is mere text."""

FIRST_CUT = 4
"""Tokens given up in the first attempt to make room for the closing; doubled in each further."""


class SchemaGuide:
    """A JSON schema over one tokenizer's tokens.

    As a logits processor of transformers it masks what would leave the schema, for several beams
    as for one. It counts the tokens behind the prompt, whose length it takes from its first call.
    """

    def __init__(self, schema: Mapping[str, object], tokenizer: Any, *, extra: str) -> None:
        """`tokenizer` is an `LLTokenizer`.

        Raises:
            InvalidRequest: the schema is invalid, or needs what cannot be guaranteed.
        """
        self._tokenizer = tokenizer
        matcher_class = require("llguidance", extra=extra).LLMatcher
        try:
            grammar = matcher_class.grammar_from_json_schema(
                tightened(schema), overrides={"whitespace_flexible": False}
            )
        except ValueError as error:
            raise _invalid_schema(error) from error
        self._start = matcher_class(tokenizer, grammar, log_level=0)
        if self._start.is_error():
            raise _invalid_schema(self._start.get_error())
        self._matchers: dict[tuple[int, ...], Any] = {(): self._start}
        self._prompt_length: int | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """`scores` (beams, vocabulary) with -inf on what may not follow `input_ids` (beams, T)."""
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        answers = [tuple(row) for row in input_ids[:, self._prompt_length :].tolist()]
        self._matchers = {answer: self._matcher_after(answer) for answer in answers}
        allowed = np.stack(
            [self._allowed(self._matchers[answer], scores.shape[-1]) for answer in answers]
        )
        return scores.masked_fill(~scores.new_tensor(allowed).bool(), float("-inf"))

    def finish(self, answer: Sequence[int], limit: int) -> str:
        """The JSON text of an answer (without end token), closed within `limit` tokens.

        Raises:
            InvalidRequest: not even the shortest object found for the schema fits.
        """
        for kept in _cuts(len(answer)):
            matcher = self._start.deep_copy()
            matcher.consume_tokens(list(answer[:kept]))
            closing = self._close(matcher, limit - kept)
            if closing is not None:
                text = str(self._tokenizer.decode_str([*answer[:kept], *closing]))
                if _is_readable(text):
                    return text
        raise InvalidRequest(
            f"{limit} tokens do not hold an object of gen_schema: raise max_new_tokens",
            param="gen_cfg",
        )

    def _matcher_after(self, answer: tuple[int, ...]) -> Any:
        """The state behind an answer that is the same as at the last step, or one token longer."""
        if answer in self._matchers:
            return self._matchers[answer]
        matcher = self._matchers[answer[:-1]].deep_copy()
        matcher.consume_token(answer[-1])
        return matcher

    def _allowed(self, matcher: Any, vocabulary: int) -> NDArray[np.bool_]:
        """Which tokens may follow; only an end where a beam has left the schema for good."""
        allowed = np.zeros(vocabulary, bool)
        if matcher.is_error():
            allowed[self._tokenizer.eos_tokens] = True
            return allowed
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        known = min(vocabulary, self._tokenizer.vocab_size)
        allowed[:known] = bits[:known].astype(bool)
        return allowed

    def _close(self, matcher: Any, budget: int) -> list[int] | None:
        """At most `budget` tokens that end the answer, or None where they do not suffice."""
        preferred = [token for text in CLOSERS for token in self._tokenizer.greedy_tokenize(text)]
        closing: list[int] = []
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            if len(closing) >= budget or matcher.is_error():
                return None
            allowed = self._allowed(matcher, self._tokenizer.vocab_size)
            # where nothing closes yet, rotating through the choices gets out of any pattern's loop
            token = next((token for token in preferred if allowed[token]), None)
            if token is None:
                token = min(np.flatnonzero(allowed).tolist(), key=lambda choice: used[choice])
                used[token] += 1
            matcher.consume_token(token)
            closing.append(token)
        return closing


def tightened(schema: Mapping[str, object]) -> dict[str, object]:
    """The schema with every declared property required and no other allowed, where it says neither.

    What satisfies the result satisfies the schema. Without this `{}` would be an answer to most
    schemas that clients send. A schema with references stays as it is: a recursive one, tightened,
    might have no finite answer.
    """
    return dict(schema) if _has_reference(schema) else _tightened(schema)


def _tightened(schema: Mapping[str, object]) -> dict[str, object]:
    result = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(each := result.get(key), Mapping):
            result[key] = _tightened(each)
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(several := result.get(key), list):
            result[key] = [
                _tightened(each) if isinstance(each, Mapping) else each for each in several
            ]
    properties = result.get("properties")
    if isinstance(properties, Mapping):
        result["properties"] = {
            name: _tightened(each) if isinstance(each, Mapping) else each
            for name, each in properties.items()
        }
        required = result.setdefault("required", list(properties))
        # next to these, what is declared elsewhere in the schema is allowed, or demanded, as well
        open_ended = {"allOf", "anyOf", "oneOf", "patternProperties"} & result.keys()
        if not open_ended and isinstance(required, list) and set(required) <= properties.keys():
            result.setdefault("additionalProperties", False)
    return result


def _has_reference(value: object) -> bool:
    if isinstance(value, Mapping):
        return "$ref" in value or any(map(_has_reference, value.values()))
    return isinstance(value, list) and any(map(_has_reference, value))


def _cuts(length: int) -> Iterator[int]:
    """How many tokens to keep: all, then ever fewer, at last none."""
    yield length
    cut = FIRST_CUT
    while cut < length:
        yield length - cut
        cut *= 2
    if length:
        yield 0


def _is_readable(text: str) -> bool:
    """Whether all numbers are of a size that readers of JSON can hold: `1e999` is valid, too."""
    try:
        json.loads(text, parse_float=_finite)
    except ValueError:
        return False
    return True


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is beyond a float")
    return number


def _invalid_schema(reason: object) -> InvalidRequest:
    first_line = str(reason).partition("\n")[0]
    return InvalidRequest(f"gen_schema cannot be honoured: {first_line}", param="gen_schema")
