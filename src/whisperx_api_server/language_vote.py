"""The language of windows where the request names none: the first windows of a recording vote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace

from .domain import DecodeOptions, Window
from .stages import Transcribing

VOTERS = 3
"""How many of the first windows decide on the language of those that do not tell by themselves."""


async def with_options(
    windows: AsyncIterator[Window], engine: Transcribing, options: DecodeOptions
) -> AsyncGenerator[tuple[Window, DecodeOptions], None]:
    """Windows as they come, each with how to decode it.

    Where the language is open, the first windows vote on it before any is decoded; each is then
    decoded in its own language, and in the voted one where it does not tell.
    """
    undecided = options.language is None
    held: list[Window] = []
    async for window in windows:
        if undecided:
            held.append(window)
            if len(held) < VOTERS:
                continue
            options = await _with_fallback(held, engine, options)
            undecided = False
            for waiting in held:
                yield waiting, options
            held = []
        else:
            yield window, options
    if len(held) > 1:
        options = await _with_fallback(held, engine, options)
    for waiting in held:
        yield waiting, options


async def language_probabilities(
    windows: AsyncIterator[Window], engine: Transcribing
) -> Mapping[str, float]:
    """The mean probability of each language in the first windows; empty if there is no window."""
    first: list[Window] = []
    async for window in windows:
        first.append(window)
        if len(first) == VOTERS:
            break
    votes = await _votes(first, engine)
    return {language: votes[language] / len(first) for language in votes}


async def _with_fallback(
    windows: Sequence[Window], engine: Transcribing, options: DecodeOptions
) -> DecodeOptions:
    """The options with the language that the windows together most probably are in."""
    votes = await _votes(windows, engine)
    possible = [each for each in votes if not options.languages or each in options.languages]
    winner = max(possible, key=lambda language: votes[language]) if possible else None
    return replace(options, fallback_language=winner)


async def _votes(windows: Sequence[Window], engine: Transcribing) -> dict[str, float]:
    """The probability of each language, summed over the windows."""
    votes: dict[str, float] = {}
    for probabilities in await asyncio.gather(*map(engine.detect_language, windows)):
        for language, probability in probabilities.items():
            votes[language] = votes.get(language, 0.0) + probability
    return votes
