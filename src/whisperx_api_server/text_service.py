"""Runs translation and text generation on the lanes of text models.

A text is cut into pieces that are queued one by one together with those of other requests, so that
a page does not delay a sentence, and the waiting pieces of a client that disconnects are removed.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

from pydantic import ValidationError

from .active_requests import ActiveRequests
from .backends import ModelKey
from .backends.base import GenerationOptions, LanguageModel, Translator
from .catalog import Catalog
from .domain import SPACELESS_LANGUAGES
from .errors import InvalidRequest, ModelNotFound, Overloaded, Unavailable
from .languages import parse_language
from .scheduling.lane import Lane
from .scheduling.model_pool import ModelPool
from .scheduling.work import Entry, Work
from .transcript.sentences import split_sentences

PIECE = 500
"""Maximum characters of a piece, unless a single sentence is longer."""

LONGEST_SENTENCE = 1000
"""Characters; a longer sentence, which most models could not process, is cut between words."""

MAX_WAITING = 64
"""Maximum number of requests per model, because text has no duration for admission control."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRequest:
    """A text to translate between two languages, or a prompt with its `config` and `schema`.

    The languages are codes or English names; `config` is the client's `gen_cfg`.
    """

    id: str
    client: str
    text: str
    source: str = ""
    target: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    waits: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    text: str
    options: GenerationOptions
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    sentences: Sequence[str]
    source: str
    target: str


def _translated(
    model: Translator, batch: Sequence[_Piece], _features: Sequence[object | None]
) -> list[list[str]]:
    sentences = [sentence for piece in batch for sentence in piece.sentences]
    translated = iter(model.translate(sentences, batch[0].source, batch[0].target))
    return [list(islice(translated, len(piece.sentences))) for piece in batch]


TRANSLATE: Work[Translator, _Piece, list[str]] = Work(run=_translated)
GENERATE: Work[LanguageModel, _Prompt, str] = Work(
    run=lambda model, batch, _: [
        model.generate(each.text, options=each.options, schema=each.schema) for each in batch
    ]
)


class Texts(Protocol):
    """Translates and generates texts, in this process or on workers."""

    async def translate(self, request: TextRequest) -> str:
        """Translate a text of any length, line by line; line breaks are kept.

        Cancelling the call removes its waiting pieces.

        Raises:
            InvalidRequest: a language is unknown, or the pair has no model.
            ServiceError: the model cannot be loaded, or fails.
        """

    async def generate(self, request: TextRequest) -> str:
        """Answer a prompt.

        Raises:
            NotConfigured: no language model is set.
            InvalidRequest: the configuration, the schema or the prompt is not valid.
            ServiceError: the model cannot be loaded, or fails.
        """


class TextService:
    """Runs concurrent text requests; `timeout` is in seconds per request, 0 disables it."""

    def __init__(
        self, *, active: ActiveRequests, pool: ModelPool, catalog: Catalog, timeout: float
    ) -> None:
        self._active = active
        self._pool = pool
        self._catalog = catalog
        self._timeout = timeout
        self._waiting: Counter[ModelKey] = Counter()

    async def translate(self, request: TextRequest) -> str:
        source = parse_language(request.source, "source_language")
        target = parse_language(request.target, "target_language")
        if source == target or not request.text.strip():
            return request.text
        key = self._catalog.translator(source, target)
        gap = "" if target in SPACELESS_LANGUAGES else " "
        lines = [list(sentences(line, source)) for line in request.text.split("\n")]
        async with self._lane(key, request.id, pair=(source, target)) as lane:
            futures = [
                lane.submit(
                    Entry(
                        work=TRANSLATE,
                        payload=_Piece(sentences=piece, source=source, target=target),
                        client=request.client,
                        request_id=request.id,
                        key=(source, target),
                    )
                )
                for piece in pieces(chain.from_iterable(lines))
            ]
            parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        translated = chain.from_iterable(parts)
        return "\n".join(gap.join(islice(translated, len(line))) for line in lines)

    async def generate(self, request: TextRequest) -> str:
        key = self._catalog.language_model()
        options = generation_options(request.config)
        async with self._lane(key, request.id) as lane:
            entry = Entry(
                work=GENERATE,
                payload=_Prompt(text=request.text, options=options, schema=request.schema),
                client=request.client,
                request_id=request.id,
            )
            return await asyncio.wrap_future(lane.submit(entry))

    @asynccontextmanager
    async def _lane(
        self, key: ModelKey, request_id: str, pair: tuple[str, str] | None = None
    ) -> AsyncIterator[Lane[Any]]:
        """Lease a model's lane for one request, within the timeout and the queue's limit."""
        if self._waiting[key] >= MAX_WAITING:
            raise Overloaded(
                "the queue of this model is full; try again later",
                retry_after=self._retry_after(key),
            )
        self._waiting[key] += 1
        try:
            with self._active.track():
                async with asyncio.timeout(self._timeout or None), self._pool.lease(key) as lane:
                    yield lane
        except TimeoutError as error:
            raise Unavailable(
                f"the request took longer than {self._timeout:g} s, the maximum"
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
        """Estimated seconds until the waiting entries are done, at the measured speed."""
        for status in self._pool.statuses():
            if status.key == key and (stats := status.lane.stats).entries:
                return max(1.0, status.waiting * stats.busy_seconds / stats.entries)
        return 1.0


def generation_options(fields: Mapping[str, object]) -> GenerationOptions:
    """Validate a client's `gen_cfg`; null counts as absent.

    Raises:
        InvalidRequest: an unknown field, or a value out of its range.
    """
    sent = {name: value for name, value in fields.items() if value is not None}
    try:
        return GenerationOptions.model_validate(sent)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InvalidRequest(
            f"gen_cfg: {first['loc'][0]}: {first['msg']}", param="gen_cfg"
        ) from error


def sentences(line: str, language: str | None) -> Iterator[str]:
    """Split a line into its sentences, and those that are too long between words."""
    for start, end in split_sentences(line, language):
        sentence = line[start:end]
        if len(sentence) <= LONGEST_SENTENCE:
            yield sentence
        else:
            yield from textwrap.wrap(
                sentence, LONGEST_SENTENCE, break_long_words=False, break_on_hyphens=False
            )


def pieces(sentences: Iterable[str]) -> Iterator[list[str]]:
    """Group sentences into pieces of at most `PIECE` characters, or of one longer sentence."""
    piece: list[str] = []
    size = 0
    for sentence in sentences:
        if piece and size + len(sentence) > PIECE:
            yield piece
            piece, size = [], 0
        piece.append(sentence)
        size += len(sentence)
    if piece:
        yield piece
