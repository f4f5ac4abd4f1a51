"""Translation and text generation: text models on lanes, beside those for speech.

A text is cut into pieces that go through the model's lane one by one, side by side with those of
other requests: a page never makes a sentence wait for long, and what still waits for a client that
has left is dropped.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

from .backends import ModelKey, find_backend
from .backends.base import GenerationOptions, LanguageModel, Translator
from .catalog import Catalog
from .domain import SPACELESS_LANGUAGES
from .errors import InvalidRequest, ModelNotFound, Overloaded, Unavailable
from .languages import parse_language
from .model_pool import ModelPool
from .scheduler import Lane
from .sentences import split_sentences
from .work import Work

PIECE = 500
"""Characters of one piece, except where a single sentence is longer."""

LONGEST_SENTENCE = 1000
"""Characters; a longer one is cut between words. It would not fit into most models anyway."""

MAX_WAITING = 64
"""Requests that may wait for one model; text has no seconds that admission control could count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    text: str
    options: GenerationOptions
    schema: Mapping[str, object] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    text: str
    source: str
    target: str


TRANSLATE: Work[Translator, _Piece, str] = Work(
    run=lambda model, batch, _: model.translate(
        [each.text for each in batch], batch[0].source, batch[0].target
    )
)
GENERATE: Work[LanguageModel, _Prompt, str] = Work(
    run=lambda model, batch, _: [
        model.generate(each.text, options=each.options, schema=each.schema) for each in batch
    ]
)


class TextService:
    """Runs text requests; any number at a time, on one event loop.

    `timeout` is in seconds, for one request; 0 is none.
    """

    def __init__(self, *, pool: ModelPool, catalog: Catalog, timeout: float) -> None:
        self._pool = pool
        self._catalog = catalog
        self._timeout = timeout
        self._waiting: Counter[ModelKey] = Counter()

    async def translate(
        self, text: str, source: str, target: str, *, request_id: str, client: str
    ) -> str:
        """Translate a text of any length. Cancelling the call drops what still waits for it.

        Args:
            text: line breaks in it stay where they are.
            source: its language, a code or an English name.
            target: the language wanted.

        Raises:
            InvalidRequest: a language is unknown, or there is no model for the pair.
            ServiceError: the model cannot be loaded, or fails.
        """
        source = _language(source, "source_language")
        target = _language(target, "target_language")
        if source == target or not text.strip():
            return text
        key = self._catalog.translator(source, target)
        gap = "" if target in SPACELESS_LANGUAGES else " "
        lines = [list(pieces(line, source)) for line in text.split("\n")]
        async with self._lane(key, request_id, pair=(source, target)) as lane:
            futures = [
                lane.submit(
                    TRANSLATE,
                    _Piece(text=piece, source=source, target=target),
                    client=client,
                    request_id=request_id,
                    key=(source, target),
                )
                for line in lines
                for piece in line
            ]
            translated = iter(await asyncio.gather(*map(asyncio.wrap_future, futures)))
        return "\n".join(gap.join(islice(translated, len(line))) for line in lines)

    async def generate(
        self,
        prompt: str,
        *,
        config: Mapping[str, object],
        schema: Mapping[str, object] | None,
        request_id: str,
        client: str,
    ) -> str:
        """Answer a prompt; `config` is the client's `gen_cfg`.

        Raises:
            NotConfigured: no language model is set.
            InvalidRequest: the configuration, the schema or the prompt cannot be honoured.
            ServiceError: the model cannot be loaded, or fails.
        """
        key = self._catalog.language_model()
        options = find_backend(key.backend, key.stage).generation_options(config)
        async with self._lane(key, request_id) as lane:
            return await asyncio.wrap_future(
                lane.submit(
                    GENERATE,
                    _Prompt(text=prompt, options=options, schema=schema),
                    client=client,
                    request_id=request_id,
                )
            )

    @asynccontextmanager
    async def _lane(
        self, key: ModelKey, request_id: str, pair: tuple[str, str] | None = None
    ) -> AsyncIterator[Lane[Any]]:
        """A model's lane for one request, within the bounds of time and of the queue."""
        if self._waiting[key] >= MAX_WAITING:
            raise Overloaded(
                "as many requests wait for this model as the server accepts; try again later",
                retry_after=self._retry_after(key),
            )
        self._waiting[key] += 1
        try:
            async with asyncio.timeout(self._timeout or None):
                async with self._pool.lease(key) as lane:
                    yield lane
        except TimeoutError as error:
            raise Unavailable(
                f"the request took longer than the {self._timeout:g} s that are allowed"
            ) from error
        except ModelNotFound as error:
            if pair is None or "-".join(pair) in self._catalog.translation_models:
                raise
            raise InvalidRequest(
                f"there is no translation from {pair[0]!r} to {pair[1]!r}: {error.message}",
                param="target_language",
            ) from error
        finally:
            self._waiting[key] -= 1
            self._pool.cancel(request_id)

    def _retry_after(self, key: ModelKey) -> float:
        """Seconds until what waits should be done, at the speed measured so far."""
        for status in self._pool.statuses():
            if status.key == key and (stats := status.lane.stats).entries:
                return max(1.0, status.waiting * stats.busy_seconds / stats.entries)
        return 1.0


def pieces(line: str, language: str | None = None) -> Iterator[str]:
    """A line cut after sentences into pieces of about `PIECE` characters, blanks around removed."""
    piece = ""
    for sentence in _sentences(line, language):
        if piece and len(piece) + len(sentence) > PIECE:
            yield piece.strip()
            piece = ""
        piece += sentence
    if piece.strip():
        yield piece.strip()


def _sentences(line: str, language: str | None) -> Iterator[str]:
    """The sentences of a line with the blanks behind them."""
    starts = [start for start, _ in split_sentences(line, language)]
    for start, following in zip_longest(starts, starts[1:]):
        sentence = line[start:following]
        if len(sentence) <= LONGEST_SENTENCE:
            yield sentence
            continue
        for part in textwrap.wrap(
            sentence, LONGEST_SENTENCE, break_long_words=False, break_on_hyphens=False
        ):
            yield f"{part} "


def _language(value: str, param: str) -> str:
    try:
        return parse_language(value)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=param) from error
