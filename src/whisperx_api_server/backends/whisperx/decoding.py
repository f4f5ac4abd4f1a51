"""One try at decoding a window, and the rules for when to doubt it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

# openai/whisper transcribe.py: what makes a decoding doubtful
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6

MIN_AVG_LOGPROB_IN_DOUBT = -0.7
"""Mean log probability that a text needs where it is doubtful that somebody speaks."""

MAX_TOKEN_RUN = 8
"""Times that one token may stand in a row."""

RUNAWAY_TOKENS_PER_SECOND = 4
"""A text that repeats itself faster than this was not said so: a decoder in a loop hardly stops."""

_THRICE = re.compile(r"(.{6,}?)\1\1")
"""A phrase of six letters or more, three times in a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """One try at one window of so many `seconds`. `tokens` are text tokens."""

    seconds: float
    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    @property
    def silent(self) -> bool:
        """Whether nothing is said: words would be invented."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and self.unlikely

    @property
    def sure(self) -> bool:
        """Whether the text stands where it is doubtful that somebody speaks."""
        return (
            self.no_speech_prob <= MAX_NO_SPEECH_PROB
            and self.avg_logprob >= MIN_AVG_LOGPROB_IN_DOUBT
        )

    @property
    def unlikely(self) -> bool:
        return self.avg_logprob < MIN_AVG_LOGPROB

    @property
    def repetitive(self) -> bool:
        """Whether it repeats itself more than speech does."""
        runs = (sum(1 for _ in run) for _, run in groupby(self.tokens))
        return (
            self.compression_ratio > MAX_COMPRESSION_RATIO or max(runs, default=0) > MAX_TOKEN_RUN
        )

    @property
    def runaway(self) -> bool:
        """Whether it is a loop, not speech that repeats itself."""
        return self.repetitive and len(self.tokens) > RUNAWAY_TOKENS_PER_SECOND * self.seconds

    @property
    def repeats(self) -> bool:
        """Whether it is repetitive, or says a phrase three times in a row: perhaps a loop."""
        return self.repetitive or _THRICE.search(letters_of(self.text)) is not None

    def echoes(self, context: str) -> bool:
        """Whether hardly anything is heard but words of the context: the prompt and hotwords."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and words_of_text(self.text) <= (
            words_of_text(context)
        )


def best(tries: Sequence[Decoding]) -> Decoding:
    """The likeliest try of those that do not run away, or of all."""
    return max([one for one in tries if not one.runaway] or tries, key=lambda one: one.avg_logprob)


def compression_ratio(text: str) -> float:
    """Bytes of the text over its compressed bytes: high when it repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def letters_of(text: str) -> str:
    """Letters and digits of a text, in lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


def words_of_text(text: str) -> frozenset[str]:
    """The different words of a text, without case and punctuation."""
    return frozenset(re.findall(r"\w+", text.lower()))
