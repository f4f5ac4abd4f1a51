"""Constrains a language model's output to a JSON schema and to a number of tokens.

llguidance converts the schema into a mask over the vocabulary for each step, so that no step can
violate the schema. A mask cannot end the answer: the token limit may be reached inside a string.
Tokens are then removed from the end until the answer can be closed within the limit.
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
from .vendors import require

CLOSERS = ('"', "}", "]")
"""Tokens that close an answer, tried in this order: `"` ends a string, in which `}` is text."""

FIRST_CUT = 4
"""Tokens removed in the first attempt to make room for closing; doubled in each further one."""


class SchemaGuide:
    """A JSON schema over one tokenizer's tokens.

    As a logits processor of transformers it masks tokens that violate the schema, for any number
    of beams. It takes the prompt's length from its first call.
    """

    def __init__(self, schema: Mapping[str, object], tokenizer: Any, *, extra: str) -> None:
        """`tokenizer` is an `LLTokenizer`.

        Raises:
            InvalidRequest: the schema is invalid, or cannot be guaranteed.
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
        """Mask `scores` (beams, vocabulary) with -inf after `input_ids` (beams, T)."""
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        answers = [tuple(row) for row in input_ids[:, self._prompt_length :].tolist()]
        self._matchers = {answer: self._matcher_after(answer) for answer in answers}
        allowed = np.stack(
            [self._allowed(self._matchers[answer], scores.shape[-1]) for answer in answers]
        )
        return scores.masked_fill(~scores.new_tensor(allowed).bool(), float("-inf"))

    def finish(self, answer: Sequence[int], limit: int) -> str:
        """Close an answer (without end token) within `limit` tokens, and return its JSON text.

        Raises:
            InvalidRequest: even the shortest object found for the schema does not fit.
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
            f"an object of gen_schema does not fit into {limit} tokens: raise max_new_tokens",
            param="gen_cfg",
        )

    def _matcher_after(self, answer: tuple[int, ...]) -> Any:
        """The state after an answer that equals one of the last step, or is one token longer."""
        if answer in self._matchers:
            return self._matchers[answer]
        matcher = self._matchers[answer[:-1]].deep_copy()
        matcher.consume_token(answer[-1])
        return matcher

    def _allowed(self, matcher: Any, vocabulary: int) -> NDArray[np.bool_]:
        """The tokens that may follow; only an end token if a beam has violated the schema."""
        allowed = np.zeros(vocabulary, bool)
        if matcher.is_error():
            allowed[self._tokenizer.eos_tokens] = True
            return allowed
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        known = min(vocabulary, self._tokenizer.vocab_size)
        allowed[:known] = bits[:known].astype(bool)
        return allowed

    def _close(self, matcher: Any, budget: int) -> list[int] | None:
        """At most `budget` tokens that end the answer; None if that is not possible."""
        preferred = [token for text in CLOSERS for token in self._tokenizer.greedy_tokenize(text)]
        closing: list[int] = []
        used: Counter[int] = Counter()
        while not matcher.is_accepting():
            if len(closing) >= budget or matcher.is_error():
                return None
            allowed = self._allowed(matcher, self._tokenizer.vocab_size)
            # if nothing can be closed, take the least used token: it leads out of a pattern's loop
            token = next((token for token in preferred if allowed[token]), None)
            if token is None:
                token = min(np.flatnonzero(allowed).tolist(), key=lambda choice: used[choice])
                used[token] += 1
            matcher.consume_token(token)
            closing.append(token)
        return closing


def tightened(schema: Mapping[str, object]) -> dict[str, object]:
    """Require every declared property and forbid others, unless the schema states otherwise.

    Without this, `{}` would satisfy most schemas that clients send. Every answer that satisfies
    the result satisfies the schema. A schema with references is not changed, because a recursive
    one might then have no finite answer.
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
        # with these, properties declared elsewhere in the schema are allowed or required too
        open_ended = {"allOf", "anyOf", "oneOf", "patternProperties"} & result.keys()
        if not open_ended and isinstance(required, list) and set(required) <= properties.keys():
            result.setdefault("additionalProperties", False)
    return result


def _has_reference(value: object) -> bool:
    if isinstance(value, Mapping):
        return "$ref" in value or any(map(_has_reference, value.values()))
    return isinstance(value, list) and any(map(_has_reference, value))


def _cuts(length: int) -> Iterator[int]:
    """Numbers of tokens to keep: all, then fewer, finally none."""
    yield length
    cut = FIRST_CUT
    while cut < length:
        yield length - cut
        cut *= 2
    if length:
        yield 0


def _is_readable(text: str) -> bool:
    """Whether all numbers fit into a float; `1e999` is valid JSON but does not."""
    try:
        json.loads(text, parse_float=_finite)
    except ValueError:
        return False
    return True


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} does not fit into a float")
    return number


def _invalid_schema(reason: object) -> InvalidRequest:
    first_line = str(reason).partition("\n")[0]
    return InvalidRequest(f"gen_schema cannot be honoured: {first_line}", param="gen_schema")
