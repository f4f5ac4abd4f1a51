"""Language detection per window: the neighbours of an unclear window vote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from ..backends.base import CLEAR_LANGUAGE, Capabilities
from ..domain import DecodeOptions, Window, WindowTranscript
from .stages import Transcribing

REACH = 3
"""Number of windows before an unclear one, and of those after it, that vote on its language."""

DETECTION_WINDOWS = 3
"""Maximum number of windows that are decoded to detect the language of a recording."""


class VotingTranscriber:
    """Transcribes the windows of one recording, whose indices count from 0.

    If the request names no language, each window is decoded in its own. An unclear window is then
    decoded again in the most probable language of itself and its neighbours, if that is another.
    It waits for at most `REACH` later windows, so that a stream is not delayed for long.
    """

    def __init__(self, engine: Transcribing) -> None:
        self._engine = engine
        self._votes: dict[int, tuple[str, float]] = {}  # language and probability, by window
        self._count: int | None = None
        self._changed = asyncio.Condition()

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    async def transcribe(
        self, window: Window, options: DecodeOptions, *, repeated: bool = False
    ) -> WindowTranscript:
        transcript = await self._engine.transcribe(window, options, repeated=repeated)
        if options.language is not None:
            return transcript
        await self.vote(transcript)
        # 0 is the probability of engines that do not detect the language.
        if not 0 < transcript.language_probability < CLEAR_LANGUAGE:
            return transcript
        language = await self._agreed(window.index)
        if language == transcript.language:
            return transcript
        agreed = replace(options, language=language)
        again = await self._engine.transcribe(window, agreed, repeated=True)
        return replace(again, language_probability=transcript.language_probability)

    async def expected_language(self, window: Window) -> str | None:
        """Return the probable language of a window before it is decoded: that of the first window.

        None for the first window and the `REACH` windows after it, which do not wait.
        """
        if window.index <= REACH:
            return None
        async with self._changed:
            await self._changed.wait_for(lambda: 0 in self._votes)
        return self._votes[0][0]

    async def vote(self, transcript: WindowTranscript) -> None:
        """Count a window's own language, unless the window has no speech."""
        probability = transcript.language_probability if transcript.segments else 0.0
        self._votes[transcript.window_index] = transcript.language, probability
        await self._wake()

    async def close(self, count: int) -> None:
        """Announce that the recording has `count` windows."""
        self._count = count
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _agreed(self, index: int) -> str:
        async with self._changed:
            await self._changed.wait_for(lambda: self._votes.keys() >= self._neighbours(index))
        totals = {self._votes[index][0]: 0.0}  # first, so that it wins a tie
        for each in sorted(self._neighbours(index)):
            language, probability = self._votes[each]
            totals[language] = totals.get(language, 0.0) + probability
        return max(totals, key=totals.__getitem__)

    def _neighbours(self, index: int) -> set[int]:
        end = index + REACH + 1
        return set(
            range(max(0, index - REACH), end if self._count is None else min(end, self._count))
        )


async def language_probabilities(
    windows: AsyncIterator[Window], engine: Transcribing
) -> Mapping[str, float]:
    """Return the mean probability of each language in the first windows, up to a clear one.

    Windows without speech do not count; empty if there are no others.
    """
    votes: list[tuple[str, float]] = []
    left = DETECTION_WINDOWS
    async for window in windows:
        decoded = await engine.transcribe(window, DecodeOptions(beam_size=1))
        left -= 1
        if decoded.segments:
            votes.append((decoded.language, decoded.language_probability))
        if not left or (decoded.segments and decoded.language_probability >= CLEAR_LANGUAGE):
            break
    totals: dict[str, float] = {}
    for language, probability in votes:
        totals[language] = totals.get(language, 0.0) + probability / len(votes)
    return totals
