"""Items of a live session, each a committed turn, and the windows in which they are decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..domain import (
    SAMPLE_RATE,
    SPACELESS_LANGUAGES,
    DecodeOptions,
    TokenLogprob,
    WindowTranscript,
    join_texts,
)
from ..errors import ServiceError
from .agreement import Agreement
from .spans import TAIL, Span

FIRST = round(0.8 * SAMPLE_RATE)
"""Samples before a window that goes on is decoded for the first time."""

STEP = round(0.4 * SAMPLE_RATE)
"""New samples before it is decoded again, or its draft that waits is replaced: two decodings of
nearly the same audio always agree."""

PACE = 1.5
"""New audio before it is decoded again, as a multiple of the time that the last draft took with its
wait: on a busy lane drafts become rarer, so that the last decodings of turns find it free."""

HESITATION = round(0.1 * SAMPLE_RATE)
"""Samples of silence after which no draft starts: a decoding follows at `TAIL`, is final if the
turn ends here, and must not wait for a draft."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemOptions:
    """How an item is transcribed: the session's configuration when it began."""

    model: str
    decode: DecodeOptions


@dataclass(kw_only=True, slots=True, eq=False)
class Item:
    """A user's turn; `transcript` is all that was sent of it."""

    id: str
    options: ItemOptions
    previous: str | None = None
    transcript: str = ""
    language: str | None = None
    seconds: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    error: ServiceError | None = None
    abandoned: bool = False

    def send(self, text: str, *, begins_window: bool, language: str) -> str:
        """Add text, and return it as a delta; a window's first is apart from the one before."""
        gap = self.transcript and begins_window and language not in SPACELESS_LANGUAGES
        delta = f" {text}" if text and gap else text
        self.transcript += delta
        return delta


@dataclass(kw_only=True, slots=True, eq=False)
class LiveWindow:
    """One window of an item, which is decoded again while it grows."""

    item: Item
    span: Span
    index: int
    decoded: int
    """The end of the audio of its last decoding."""
    agreement: Agreement = field(default_factory=Agreement)
    language: str | None = None
    """The language in which it is decoded, once that is clear."""
    transcript: WindowTranscript | None = None
    """The last decoding, unless it was a draft."""
    step: int = STEP
    """New samples before the next draft."""

    @property
    def is_paused(self) -> bool:
        """Whether the silence so far may be its end."""
        return self.span.end - self.span.last_speech >= TAIL

    @property
    def is_spoken(self) -> bool:
        """Whether its speech goes on."""
        return self.span.end - self.span.last_speech <= HESITATION

    @property
    def is_due(self) -> bool:
        """Whether it has enough new audio, or a pause that may be its end."""
        span = self.span
        new = span.end - self.decoded
        if span.closed or self.is_paused:
            return new > 0 and not span.closed
        return self.is_spoken and new >= self.step and span.end - span.first >= FIRST

    @property
    def decoding(self) -> Decoding:
        """What is to be decoded of it now."""
        draft = not self.span.closed and not self.is_paused
        return Decoding(window=self, end=self.span.end, draft=draft)

    @property
    def final(self) -> WindowTranscript | None:
        """The decoding of all of it, if that was done before it closed."""
        return self.transcript if self.decoded == self.span.end else None

    def took(self, seconds: float) -> None:
        """Note how long a draft took, its wait included."""
        self.step = max(STEP, round(PACE * seconds * SAMPLE_RATE))

    def skip(self, end: int) -> None:
        """Note that the decoding of its audio up to `end` told nothing."""
        self.decoded, self.transcript = end, None

    def hear(self, transcript: WindowTranscript, end: int, *, draft: bool) -> str:
        """Take a decoding of its audio up to `end`; the delta of what became certain."""
        before = self.decoded
        self.decoded, self.transcript = end, None if draft else transcript
        began = bool(self.agreement.text)
        new = self.agreement.hear(text_of(transcript))
        if new:
            self.span.settled = max(self.span.settled, before)
        return self.item.send(new, begins_window=not began, language=transcript.language)

    def finish(self, transcript: WindowTranscript) -> str:
        """Take the decoding of all its audio; the delta of what was not sent."""
        item, span = self.item, self.span
        item.seconds += (span.end - span.first) / SAMPLE_RATE
        item.logprobs += [each for segment in transcript.segments for each in segment.logprobs]
        if transcript.segments:
            item.language = transcript.language
        began = bool(self.agreement.text)
        new = self.agreement.finish(text_of(transcript))
        return item.send(new, begins_window=not began, language=transcript.language)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """One decoding of a window, of its audio up to sample `end`."""

    window: LiveWindow
    end: int
    draft: bool

    @property
    def is_stale(self) -> bool:
        """Whether it is a draft of a window that needs a final decoding, or of other audio."""
        window = self.window
        if window.item.abandoned:
            return True
        if self.draft:
            return window.span.closed or window.is_paused
        return window.span.closed and self.end != window.span.end

    @property
    def is_outdated(self) -> bool:
        """Whether it is a draft, and one of enough more speech can take its place."""
        window = self.window
        new = window.span.end - self.end
        return self.draft and not self.is_stale and window.is_spoken and new >= STEP


def text_of(transcript: WindowTranscript) -> str:
    """The text of a window."""
    return join_texts(
        (segment.text, segment.language or transcript.language) for segment in transcript.segments
    )
