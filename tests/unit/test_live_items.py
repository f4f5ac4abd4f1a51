"""When a window that grows is decoded, and which decodings of it still count."""

from __future__ import annotations

import pytest

from whisperx_api_server.domain import SAMPLE_RATE, DecodeOptions, SpeechRegion, WindowTranscript
from whisperx_api_server.live.items import Item, ItemOptions, LiveWindow
from whisperx_api_server.live.spans import TAIL, Span

HEARD = WindowTranscript(window_index=0, language="en", language_probability=1.0, segments=())


def window(*, speech: float, quiet: float = 0.0, decoded: float = 0.0) -> LiveWindow:
    """A window with so many seconds of speech and of silence after it, decoded up to a time."""
    item = Item(id="item", options=ItemOptions(model="m", decode=DecodeOptions()))
    made = LiveWindow(
        item=item,
        span=Span(first=0, end=0, settled=0),
        index=0,
        decoded=round(decoded * SAMPLE_RATE),
    )
    grow(made, speech=speech, quiet=quiet)
    return made


def grow(grown: LiveWindow, *, speech: float, quiet: float = 0.0) -> None:
    grown.span.regions = [SpeechRegion(start=0.0, end=speech)]
    grown.span.end = round(speech * SAMPLE_RATE) + min(round(quiet * SAMPLE_RATE), TAIL)


@pytest.mark.parametrize(
    ("speech", "quiet", "decoded", "due"),
    [
        (0.7, 0.0, 0.0, False),  # too little has been said
        (0.9, 0.0, 0.0, True),
        (2.0, 0.0, 1.7, False),  # too little is new
        (2.0, 0.0, 1.5, True),
        (2.0, 0.2, 1.5, False),  # the turn may end: a draft would only be in the way
        (2.0, 0.3, 1.9, True),
        (2.0, 0.5, 2.3, False),  # decoded already
    ],
)
def test_a_window_is_decoded_while_there_is_speech_and_in_a_pause(
    speech: float, quiet: float, decoded: float, due: bool
) -> None:
    assert window(speech=speech, quiet=quiet, decoded=decoded).is_due is due


def test_drafts_become_rarer_where_they_take_long() -> None:
    slow = window(speech=2.0, decoded=1.5)
    slow.took(2.0)
    due = [slow.is_due]
    grow(slow, speech=4.6)
    assert [*due, slow.is_due] == [False, True]
    slow.took(0.1)
    assert slow.step == round(0.4 * SAMPLE_RATE)


def test_a_draft_is_stale_once_its_window_pauses_or_closes() -> None:
    speaking = window(speech=2.0)
    draft = speaking.decoding
    assert draft.draft
    grow(speaking, speech=2.1)
    stale = [draft.is_stale]
    grow(speaking, speech=2.1, quiet=0.3)
    assert [*stale, draft.is_stale] == [False, True]

    cut = window(speech=2.0)
    draft = cut.decoding
    cut.span.closed = True  # by a commit within a word
    assert draft.is_stale
    assert not cut.decoding.draft


@pytest.mark.parametrize(
    ("speech", "quiet", "outdated"),
    [
        (2.3, 0.0, False),  # too little is new
        (2.5, 0.0, True),
        (2.5, 0.2, False),  # the turn may end
        (2.5, 0.3, False),  # it is stale: another one than a draft is wanted
    ],
)
def test_a_draft_is_outdated_once_enough_more_is_said(
    speech: float, quiet: float, outdated: bool
) -> None:
    speaking = window(speech=2.0)
    draft = speaking.decoding
    grow(speaking, speech=speech, quiet=quiet)
    assert draft.is_outdated is outdated


def test_a_decoding_made_in_a_pause_is_final_unless_speech_goes_on() -> None:
    paused = window(speech=2.0, quiet=0.3)
    decoding = paused.decoding
    assert not decoding.draft
    paused.hear(HEARD, decoding.end, draft=False)
    assert paused.final == HEARD
    grow(paused, speech=3.0)
    assert not decoding.is_stale  # it is heard, as far as it goes
    assert paused.final is None


def test_a_draft_is_never_final() -> None:
    spoken = window(speech=2.0)
    spoken.hear(HEARD, spoken.span.end, draft=True)
    spoken.span.closed = True
    assert spoken.final is None
