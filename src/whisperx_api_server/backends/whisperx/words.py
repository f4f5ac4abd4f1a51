"""Word times and token probabilities from the decoder's own cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...domain import TokenLogprob, Window, Word
from .vocabulary import Vocabulary

TOKEN_SECONDS = 0.02  # one position of the encoder
OPENING = frozenset("\"'“¿([{-")  # openai/whisper's prepend_punctuations
CLOSING = frozenset("\"'.。,，!！?？:：”)]}、")  # and append_punctuations


def words_of(
    vocabulary: Vocabulary,
    tokens: Sequence[int],
    language: str,
    *,
    path: Sequence[tuple[int, int]],
    probabilities: Sequence[float],
    window: Window,
) -> tuple[Word, ...]:
    """The words of a window on the recording's clock, in order and not overlapping.

    `path` has (token, encoder position) pairs from dynamic time warping, its last token being the
    end of the text; `probabilities` has one entry a token. A word's score is their mean.
    """
    token_index = np.array([pair[0] for pair in path])
    position = np.array([pair[1] for pair in path])
    starts = position[np.diff(token_index, prepend=-1) > 0] * TOKEN_SECONDS  # one a token, and end
    texts = vocabulary.split_words(tokens, language)
    first = np.cumsum([0, *(count for _, count in texts)])  # token of each word; last is the end
    edges = np.clip(window.start + starts[first], window.start, window.end).tolist()
    words = [
        Word(
            text=text,
            start=edges[index],
            end=edges[index + 1],
            score=min(1.0, float(np.mean(probabilities[first[index] : first[index + 1]]))),
            tokens=tuple(tokens[first[index] : first[index + 1]]),
        )
        for index, (text, _) in enumerate(texts)
    ]
    return _join_punctuation(words)


def logprobs_of(
    vocabulary: Vocabulary, tokens: Sequence[int], probabilities: Sequence[float]
) -> tuple[TokenLogprob, ...]:
    """Natural logarithms of the probabilities, with each token's exact bytes."""
    smallest = float(np.finfo(np.float32).tiny)
    return tuple(
        TokenLogprob(
            token=_shown(raw), logprob=float(np.log(max(probability, smallest))), bytes=tuple(raw)
        )
        for raw, probability in zip(map(vocabulary.token_bytes, tokens), probabilities, strict=True)
    )


def _shown(raw: bytes) -> str:
    """A token as OpenAI lists it: its text, or its bytes where it holds part of a character."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _join_punctuation(words: Sequence[Word]) -> tuple[Word, ...]:
    """Opening marks go to the word behind them, closing ones to the word before."""
    joined: list[Word] = []
    opening: Word | None = None
    for word in words:
        if opening is not None:
            word = replace(
                word,
                text=opening.text + word.text.lstrip(),
                start=opening.start,
                tokens=opening.tokens + word.tokens,
            )
        if word.text.startswith(" ") and word.text.strip() in OPENING:
            opening = word
            continue
        opening = None
        if joined and set(word.text) <= CLOSING:
            joined[-1] = replace(
                joined[-1],
                text=joined[-1].text + word.text,
                tokens=joined[-1].tokens + word.tokens,
            )
        else:
            joined.append(word)
    joined += [opening] if opening else []
    return tuple(replace(word, text=word.text.strip()) for word in joined if word.text.strip())
