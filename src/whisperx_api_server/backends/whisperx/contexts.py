"""Short contexts: how much of Whisper's 30 s the encoder gets for a window.

The encoder's cost follows its context, not the speech in it. A context of the speech and a few
seconds of silence gives the same text; with less silence, the decoder says everything twice. Much
of that silence need not be encoded with the speech: its output is nearly the same each time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import defaultdict
from collections.abc import Sequence

from ...domain import SAMPLE_RATE, Window
from ..base import ContextStats
from .decoding import Decoding
from .encoding import FRAMES_PER_POSITION
from .features import HOP, N_FRAMES
from .search import Row

logger = logging.getLogger(__name__)

SILENCE = 10.0
"""Minimum seconds of silence after the speech."""

DRAFT_SILENCE = 4.0
"""The same for drafts. One in fifteen is then written twice, and left out as doubtful."""

ENCODED_SILENCE = 6.0
"""Seconds of it that are encoded with the speech."""

STEP = 4.0
"""Contexts are multiples of this many seconds, so that windows of similar length share a call."""

MIN_WINDOWS = 20
"""Minimum number of windows from which a model is judged."""

MAX_FAILED = 0.1
"""Maximum share of windows whose text is only right in the full context."""

MIN_WINDOWS_FOR_COST = 100
"""Minimum number of windows from which their cost is judged; one recording of noise has fewer."""

MAX_REPEATED = 0.5
"""Maximum share of windows that are decoded twice; with more, short contexts save nothing."""


class Contexts:
    """Chooses the contexts of a model's windows, and counts how often a short one failed.

    If that is more than `MAX_FAILED` of the windows, or more than `MAX_REPEATED` of them are
    decoded twice, all later ones get the full context. `short` False gives it to all of them. The
    model's `name` is for the log.
    """

    def __init__(self, name: str, *, short: bool) -> None:
        self._name = name
        self._short = short
        self._counting = threading.Lock()  # parts of a batch are decoded side by side
        self._windows = 0
        self._repeated = 0
        self._failed = 0

    @property
    def stats(self) -> ContextStats:
        """What was counted. Thread-safe."""
        return ContextStats(short=self._short, windows=self._windows, repeated=self._repeated)

    def groups(self, windows: Sequence[Window], *, draft: bool = False) -> dict[int, list[int]]:
        """Group windows by their context in frames of the spectrogram; returns their indices."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for index, window in enumerate(windows):
            groups[self._frames(window, DRAFT_SILENCE if draft else SILENCE)].append(index)
        return groups

    def _frames(self, window: Window, silence: float) -> int:
        if not self._short:
            return N_FRAMES
        return _frames_of(STEP * math.ceil((_seconds(window) + silence) / STEP))

    def count(self, *, windows: int, repeated: int, failed: int) -> None:
        """Count windows with a short context.

        `repeated` of them were decoded again in the full one, `failed` of these were sure then.
        """
        with self._counting:
            self._windows += windows
            self._repeated += repeated
            self._failed += failed
            self._judge()

    def _judge(self) -> None:
        if not self._short:
            return
        failing = self._windows >= MIN_WINDOWS and self._failed > MAX_FAILED * self._windows
        costly = (
            self._windows >= MIN_WINDOWS_FOR_COST and self._repeated > MAX_REPEATED * self._windows
        )
        if failing or costly:
            self._short = False
            logger.warning(
                "%s gets the full context of 30 s from now on: of %d windows with a short one, %d "
                "were decoded again, and %d were only right then",
                self._name,
                self._windows,
                self._repeated,
                self._failed,
            )


def encoded_frames(window: Window, context: int) -> int:
    """Frames of a window's spectrogram that are encoded in a context of so many frames."""
    if context == N_FRAMES:
        return N_FRAMES
    return min(_frames_of(_seconds(window) + ENCODED_SILENCE), context)


def cost_of(window: Window) -> float:
    """Seconds that are encoded for a window, by which the parts of a batch are balanced."""
    return _seconds(window) + ENCODED_SILENCE


def _seconds(window: Window) -> float:
    return len(window.samples) / SAMPLE_RATE


def _frames_of(seconds: float) -> int:
    """Frames of so many seconds, at most Whisper's; an even number, for whole positions."""
    frames = seconds * SAMPLE_RATE / HOP
    return min(FRAMES_PER_POSITION * math.ceil(frames / FRAMES_PER_POSITION), N_FRAMES)


def is_doubtful(decoding: Decoding, row: Row) -> bool:
    """Whether a short context may be the reason for a text."""
    return (
        decoding.unlikely
        or decoding.repeats
        or decoding.restarts
        or len(decoding.tokens) >= row.max_tokens
    )
