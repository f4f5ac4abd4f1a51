"""Word times: from the language's aligner, or from the decoder without one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..catalog import Catalog
from ..domain import AlignMode, DecodeOptions, Window, WindowTranscript
from ..errors import NotConfigured, NotInstalled, ServiceError
from ..scheduling.model_pool import ModelPool
from .language_vote import VotingTranscriber
from .stages import Engines

logger = logging.getLogger(__name__)

ANY_LANGUAGE = "en"
"""Stands for an unknown language: all aligners need the same packages."""

RETRY_SECONDS = 300.0
"""Seconds until an aligner that could not be loaded is tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    reason: str
    until: float


class Aligners:
    """Checks whether languages can be aligned. Remembers failures; logs each reason once."""

    def __init__(
        self, catalog: Catalog, pool: ModelPool, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalog = catalog
        self._pool = pool
        self._clock = clock
        self._failures: dict[str, _Failure] = {}  # by language, like the attempts
        self._attempts: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._reported: set[str] = set()

    @property
    def configured(self) -> bool:
        """Whether the settings enable alignment."""
        return self._catalog.aligns

    def foreseen_problem(self, language: str | None) -> str | None:
        """Return why the language cannot be aligned, as far as known without loading.

        `language` None is unknown: then missing packages are the only reason.
        """
        if (error := self._error(language)) is not None:
            return error.message
        failure = self._failures.get(language or "")
        return failure.reason if failure is not None and self._clock() < failure.until else None

    async def problem(self, language: str) -> str | None:
        """Return why the language cannot be aligned, after an attempt to load its model."""
        async with self._attempts[language]:  # windows share one attempt
            reason = self.foreseen_problem(language) or await self._load(language)
        if reason is not None and reason not in self._reported:
            self._reported.add(reason)
            logger.warning("word times are the decoder's own: %s", reason)
        return reason

    async def require(self, language: str | None) -> None:
        """Load the language's aligner, if it has one; None is an unknown language.

        Raises:
            NotConfigured: the settings disable forced alignment.
            ServiceError: it cannot be loaded, or the packages of all aligners are missing.
        """
        if not self.configured:
            raise NotConfigured(
                "forced alignment is off: leave align out to get the decoder's word times, or set "
                "BACKENDS__ALIGNMENT=whisperx on the server"
            )
        key = self._catalog.aligner(language or ANY_LANGUAGE)
        if key is None:
            return
        if (error := self._error(language)) is not None:
            raise error
        if language is not None:
            await self._pool.load(key)

    def _error(self, language: str | None) -> ServiceError | None:
        error = self._catalog.aligner_problem(language or ANY_LANGUAGE)
        return error if language is not None or isinstance(error, NotInstalled) else None

    async def _load(self, language: str) -> str | None:
        try:
            await self.require(language)
        except ServiceError as error:
            until = self._clock() + RETRY_SECONDS
            self._failures[language] = _Failure(reason=error.message, until=until)
            return error.message
        return None


async def transcribe_timed(
    window: Window,
    options: DecodeOptions,
    engine: VotingTranscriber,
    *,
    mode: AlignMode,
    engines: Engines,
    aligners: Aligners,
) -> WindowTranscript:
    """Transcribe a window, with word times where the request needs them.

    Raises:
        ServiceError: a stage failed, or forced alignment was asked for and is not available.
    """
    capabilities = engine.capabilities
    timed = replace(options, word_timestamps=capabilities.can_time_words)
    if mode is AlignMode.OFF:
        return await engine.transcribe(window, options)
    own = capabilities.native_words or not aligners.configured
    unaligned = mode is AlignMode.SEGMENTS or options.task == "translate"
    if unaligned or (own and mode is not AlignMode.FORCED):
        return await engine.transcribe(window, timed)
    language = options.language or await engine.expected_language(window)
    own_times = aligners.foreseen_problem(language) is not None
    transcript = await engine.transcribe(window, timed if own_times else options)
    if not transcript.segments:
        return transcript
    if mode is AlignMode.FORCED:
        await aligners.require(transcript.language)
    problem = await aligners.problem(transcript.language)
    if problem is None:
        return await _aligned(transcript, window, engines)
    if not own_times and capabilities.can_time_words:
        # Only the transcript showed the language, or the load that its aligner is not available.
        timed = replace(timed, language=transcript.language)
        transcript = await engine.transcribe(window, timed, repeated=True)
    return replace(transcript, warnings=(f"word times are the decoder's own: {problem}",))


async def _aligned(
    transcript: WindowTranscript, window: Window, engines: Engines
) -> WindowTranscript:
    language = transcript.language
    async with engines.aligner(language) as engine:
        segments = await asyncio.gather(
            *(engine.align(segment, window, language) for segment in transcript.segments)
        )
    return replace(transcript, segments=tuple(segments))
