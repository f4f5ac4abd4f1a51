"""Assembles words with times from a transducer's tokens; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...domain import TokenLogprob, Window, Word

CLOSING_PUNCTUATION = frozenset(".,?!:;%…")
WORD_START = "▁"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One decoded token: its frames in the encoder's output, and its natural log probability."""

    id: int
    piece: str
    start: int
    end: int
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenWord:
    """The tokens of a word, including its punctuation."""

    text: str
    tokens: tuple[Token, ...]


def words_of_tokens(
    tokens: Sequence[Token], text_of: Callable[[list[int]], str]
) -> list[SpokenWord]:
    """Group tokens by the word-start mark; `text_of` writes a word's token ids as text.

    Punctuation in its own tokens joins the word before it.
    """
    groups: list[list[Token]] = []
    for token in tokens:
        if token.piece.startswith(WORD_START) or not groups:
            groups.append([])
        groups[-1].append(token)
    words: list[SpokenWord] = []
    for group in groups:
        text = text_of([token.id for token in group]).strip()
        if words and set(text) <= CLOSING_PUNCTUATION:
            before = words.pop()
            text, group = before.text + text, [*before.tokens, *group]
        if text:
            words.append(SpokenWord(text=text, tokens=tuple(group)))
    return words


def timed_words(words: Sequence[SpokenWord], window: Window, frame: float) -> list[Word]:
    """Words with times in the recording: in order, non-overlapping, inside the window.

    `frame` is the encoder's step in seconds. Word-start marks and punctuation do not count, because
    the model emits the former too early and the latter too late.
    """
    timed: list[Word] = []
    earliest = window.start
    for i, word in enumerate(words):
        voiced = [token for token in word.tokens if re.search(r"\w", token.piece)]
        sounding = voiced or list(word.tokens)
        end = window.start + sounding[-1].end * frame
        if i + 1 < len(words):
            end = min(end, window.start + _first_frame(words[i + 1]) * frame)
        start = min(max(window.start + sounding[0].start * frame, earliest), window.end)
        end = min(max(end, start), window.end)
        score = math.exp(min(token.logprob for token in sounding))
        tokens = tuple(token.id for token in word.tokens)
        timed.append(Word(text=word.text, start=start, end=end, score=score, tokens=tokens))
        earliest = end
    return timed


def _first_frame(word: SpokenWord) -> int:
    return next(
        (token.start for token in word.tokens if re.search(r"\w", token.piece)),
        word.tokens[0].start,
    )


def token_logprob(token: Token) -> TokenLogprob:
    """Convert a token to OpenAI's form; pieces of single bytes keep their byte."""
    byte = BYTE_PIECE.fullmatch(token.piece)
    text = token.piece.replace(WORD_START, " ")
    return TokenLogprob(
        token=text,
        logprob=token.logprob,
        bytes=(int(byte[1], 16),) if byte else tuple(text.encode()),
    )
