"""Which words of speech that goes on are certain: those on which two decodings in a row agree.

The policy is LocalAgreement-2 (Liu, Spanakis and Niehues, "Low-Latency Sequence-to-Sequence Speech
Recognition and Translation by Partial Hypothesis Selection", Interspeech 2020). Pure: texts in,
deltas out; the deltas joined are the transcript.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
"""Thai to Burmese, Khmer, kana and Han, which put no spaces between words: a word per character."""

_STOPS = re.escape(".,;:!?…。，、！？；：؟،।»”’\"')]}—–-")

_PIECE = re.compile(
    rf"\s*[{_SPACELESS}]"
    rf"|\s*[^\s{_SPACELESS}]*[^\s{_SPACELESS}{_STOPS}]"
    rf"|\s*[{_STOPS}]+"
    r"|\s+"
)
"""A word with the space before it, or the punctuation that follows a word."""

_PUNCTUATION = re.compile(rf"\s*[{_STOPS}]+")


class Agreement:
    """The text of one window that is decoded again and again while it grows.

    What was sent is never taken back: a later decoding that has other words in its place is
    aligned with it (least edit distance), and only what follows is new.
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._last: list[str] = []  # what the decoding before had after the words that were sent

    @property
    def text(self) -> str:
        """All that was sent."""
        return "".join(self._sent)

    def hear(self, text: str) -> str:
        """Take the next decoding, and return the words that became certain.

        The last word of a decoding is not confirmed by the next: it may have been cut. Punctuation
        at the end of a decoding stays open: the next word may change it.
        """
        rest = _after(self._sent, _pieces(text))
        agreed = _common(self._last, rest)
        if agreed == len(rest):
            while agreed and _PUNCTUATION.fullmatch(rest[agreed - 1]):
                agreed -= 1
        self._last = _without_last_word(rest[agreed:])
        return self._send(rest[:agreed])

    def finish(self, text: str) -> str:
        """Take the last decoding, and return all that was not sent."""
        return self._send(_after(self._sent, _pieces(text)))

    def _send(self, pieces: Sequence[str]) -> str:
        self._sent += pieces
        return "".join(pieces)


def _without_last_word(pieces: list[str]) -> list[str]:
    words = [place for place, piece in enumerate(pieces) if not _PUNCTUATION.fullmatch(piece)]
    return pieces[: words[-1]] if words else []


def _pieces(text: str) -> list[str]:
    """The words and the punctuation of a text, which joined are the text without outer space."""
    return _PIECE.findall(text.strip())


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many pieces both begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _after(sent: Sequence[str], pieces: list[str]) -> list[str]:
    """What a decoding has after the words that were sent."""
    if pieces[: len(sent)] == sent:
        return pieces[len(sent) :]
    wanted = [_plain(piece) for piece in sent]
    row = list(range(len(pieces) + 1))
    columns = [_plain(piece) for piece in pieces]
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(columns, 1):
            previous, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, previous + _difference(word, other)),
            )
    # Of equally near places the last: a word that was heard otherwise is not said twice.
    nearest = min(range(len(row)), key=lambda place: (row[place], -place))
    return pieces[nearest:]


def _difference(one: str, other: str) -> int:
    """The cost of one piece in the place of another; a word never stands in for punctuation."""
    if one == other:
        return 0
    return 1 if bool(_PUNCTUATION.fullmatch(one)) == bool(_PUNCTUATION.fullmatch(other)) else 2


def _plain(piece: str) -> str:
    return piece.strip().casefold()
