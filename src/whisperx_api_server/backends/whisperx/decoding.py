"""The result of decoding a window once, and the rules for doubtful results."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ...domain import DecodeOptions, Window
from ..base import MIN_SPEECH_PROBABILITY

# openai/whisper transcribe.py: what makes a decoding doubtful
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6

MIN_AVG_LOGPROB_IN_DOUBT = -0.7
"""Minimum mean log probability of a text in a window with doubtful speech."""

MAX_NO_SPEECH_PROB_IN_DOUBT = 0.7
"""Maximum no-speech probability of such a text. Measured: speech up to 0.60, noise and music with
as probable a text from 0.81."""

MIN_AVG_LOGPROB_IN_LAUGHTER = -0.4
"""Minimum mean log probability of a text that is mostly laughter; its other words are otherwise
hallucinated."""

MIN_LAUGHS = 3
"""Minimum number of such words as "ha" in a text that is mostly laughter."""

MAX_TOKEN_RUN = 8
"""Maximum number of equal tokens in a row."""

RUNAWAY_TOKENS_PER_SECOND = 4
"""A repetitive text with more tokens per second is a loop of the decoder, not speech."""

MIN_RESTART_BYTES = 8
"""Minimum length of a beginning that ends a text too: two words in Latin, three in Chinese."""

USUAL_PACE = 2.0
"""Text tokens per second of speech; fewer are doubtful."""

LEAST_PACE = 0.5
"""With fewer, a repetitive text is noise, such as laughter."""

_THRICE = re.compile(r"(.{6,}?)\1\1")
"""A phrase of six letters or more, three times in a row."""

_LAUGH = re.compile(r"(?:h[ao]+h*|heh|hee|х[аео]|[哈呵嘿ハは하허호히ㅋㅎ])+|(?:h[ei]){2,}")
"""A word that a decoder writes for laughter: "ha", "hahaha", "hoho"; not the word "he"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """The result of decoding a window of `seconds` once. `tokens` are text tokens."""

    seconds: float
    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float

    @property
    def silent(self) -> bool:
        """Whether the window has no speech, so that its text is hallucinated."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and self.unlikely

    @property
    def sure(self) -> bool:
        """Whether the text is kept in a window with doubtful speech."""
        return (
            self.no_speech_prob <= MAX_NO_SPEECH_PROB_IN_DOUBT
            and self.avg_logprob >= MIN_AVG_LOGPROB_IN_DOUBT
        )

    @property
    def unlikely(self) -> bool:
        return self.avg_logprob < MIN_AVG_LOGPROB

    @property
    def repetitive(self) -> bool:
        """Whether the text repeats itself more than speech does."""
        runs = (sum(1 for _ in run) for _, run in groupby(self.tokens))
        return (
            self.compression_ratio > MAX_COMPRESSION_RATIO or max(runs, default=0) > MAX_TOKEN_RUN
        )

    @property
    def runaway(self) -> bool:
        """Whether the text is a loop of the decoder, not repetitive speech."""
        return self.repetitive and len(self.tokens) > RUNAWAY_TOKENS_PER_SECOND * self.seconds

    @property
    def repeats(self) -> bool:
        """Whether it is repetitive, or says a phrase three times in a row: perhaps a loop."""
        return self.repetitive or _THRICE.search(letters_of(self.text)) is not None

    @property
    def restarts(self) -> bool:
        """Whether it ends as it begins: perhaps the speech is written twice."""
        letters = letters_of(self.text)
        return any(
            letters.startswith(end) and len(end.encode()) >= MIN_RESTART_BYTES
            for end in (letters[place:] for place in range(1, len(letters)))
        )

    @property
    def laughter(self) -> bool:
        """Whether most words are laughter, and the text is not probable enough to be speech."""
        words = re.findall(r"\w+", self.text.lower())
        laughs = sum(_LAUGH.fullmatch(word) is not None for word in words)
        return (
            laughs >= MIN_LAUGHS
            and 2 * laughs > len(words)
            and self.avg_logprob < MIN_AVG_LOGPROB_IN_LAUGHTER
        )

    def echoes(self, context: str) -> bool:
        """Whether speech is improbable and all words are from the context (prompt and hotwords)."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and words_of_text(self.text) <= (
            words_of_text(context)
        )


def is_speech(decoding: Decoding, window: Window, options: DecodeOptions) -> bool:
    """Whether a text is speech, and not hallucinated or repeated from the prompt."""
    if decoding.silent or decoding.laughter or not letters_of(decoding.text):
        return False
    pace = len(decoding.tokens) / max(window.speech_seconds, 0.01)
    doubtful = window.speech_probability < MIN_SPEECH_PROBABILITY
    # A translation is shorter and less likely than what was said, however clear that is.
    slow = pace < USUAL_PACE and options.task == "transcribe"
    if (doubtful or slow) and not decoding.sure:
        return False
    if (doubtful or pace < LEAST_PACE) and decoding.repeats:
        return False
    context = " ".join(filter(None, (options.prompt, options.hotwords)))
    return not (context and decoding.echoes(context))


def best(tries: Sequence[Decoding]) -> Decoding:
    """The most probable decoding that is not a loop, or of all if all are loops."""
    return max([one for one in tries if not one.runaway] or tries, key=lambda one: one.avg_logprob)


def compression_ratio(text: str) -> float:
    """Bytes of the text divided by its compressed bytes: high for repetitive texts."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def letters_of(text: str) -> str:
    """Letters and digits of a text, in lower case."""
    return "".join(character for character in text.lower() if character.isalnum())


def words_of_text(text: str) -> frozenset[str]:
    """The distinct words of a text, without case and punctuation."""
    return frozenset(re.findall(r"\w+", text.lower()))
