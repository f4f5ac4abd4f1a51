"""One try at decoding a window, and openai/whisper's rules for when to try again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# openai/whisper transcribe.py: what makes a decoding doubtful, and what is tried then
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """One try at one window. `tokens` are text tokens."""

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    @property
    def silent(self) -> bool:
        """Whether nothing is said: words would be invented."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and self.avg_logprob < MIN_AVG_LOGPROB

    @property
    def repetitive(self) -> bool:
        return self.compression_ratio > MAX_COMPRESSION_RATIO

    @property
    def doubtful(self) -> bool:
        """Whether a higher temperature should be tried."""
        return not self.silent and (self.repetitive or self.avg_logprob < MIN_AVG_LOGPROB)


def best(tries: Sequence[Decoding]) -> Decoding:
    """The last try unless that is doubtful too; then the likeliest that is not repetitive.

    openai/whisper would keep the last; that this choice is better is faster-whisper's finding.
    """
    if not tries[-1].doubtful:
        return tries[-1]
    return max(
        [one for one in tries if not one.repetitive] or tries, key=lambda one: one.avg_logprob
    )


def compression_ratio(text: str) -> float:
    """Bytes of the text over its compressed bytes: high when it repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))
