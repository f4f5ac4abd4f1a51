"""Where turns begin and end: at silence, or at the best pause before the longest window."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from whisperx_api_server.backends.fake import FakeVoiceDetector, say, silence
from whisperx_api_server.domain import SAMPLE_RATE, Samples, VadOptions
from whisperx_api_server.live.audio import SampleBuffer
from whisperx_api_server.live.spans import Span, SpanClosed, SpanFinder, SpanOpened

LONGEST = 30 * SAMPLE_RATE
WORDS = "red blue green black"
PIECE = say(WORDS)[: round(1.1 * SAMPLE_RATE)]
"""Four words; 1.1 s, without the pause after them."""


def spans(
    *pieces: Samples, silence_ms: int = 500, padding_ms: int = 300, block: int = 1600
) -> tuple[list[Span], list[str]]:
    """The spans of a recording that comes in blocks, and in which order they open and close."""
    buffer = SampleBuffer()
    finder = SpanFinder(
        buffer,
        longest=LONGEST,
        padding=padding_ms * SAMPLE_RATE // 1000,
        silence=silence_ms * SAMPLE_RATE // 1000,
    )
    detection = FakeVoiceDetector().start(VadOptions(prefix_padding_ms=0, silence_duration_ms=200))
    samples = np.concatenate(pieces)
    found: list[Span] = []
    order = []
    for first in range(0, len(samples), block):
        new = samples[first : first + block]
        buffer.append(new)
        for event in finder.push(detection.push(new), detection.under_way):
            order.append("opened" if isinstance(event, SpanOpened) else "closed")
            if isinstance(event, SpanClosed):
                found.append(event.span)
    return found, order


def seconds(span: Span) -> tuple[float, float]:
    return span.first / SAMPLE_RATE, span.end / SAMPLE_RATE


@pytest.mark.parametrize("block", [160, 1600, 8000])
def test_a_turn_has_its_padding_and_ends_with_the_silence(block: int) -> None:
    found, order = spans(silence(1), PIECE, silence(2), PIECE, silence(2), block=block)

    assert order == ["opened", "closed", "opened", "closed"]
    assert [seconds(each) for each in found] == [
        pytest.approx((0.7, 2.4), abs=0.02),
        pytest.approx((3.8, 5.5), abs=0.02),
    ]


def test_a_pause_shorter_than_the_silence_does_not_end_a_turn() -> None:
    pieces = (silence(1), PIECE, silence(0.8), PIECE, silence(2))

    assert len(spans(*pieces, silence_ms=1000)[0]) == 1
    assert len(spans(*pieces, silence_ms=500)[0]) == 2


def test_a_click_is_not_a_turn() -> None:
    click = say("red")[: round(0.05 * SAMPLE_RATE)]

    assert spans(silence(1), click, silence(2))[0] == []


def test_continuous_speech_is_cut_in_pauses_and_nothing_is_lost() -> None:
    """Pauses of 0.4 s end no turn by themselves; those of 0.1 s are between all words."""
    speech = [part for _ in range(60) for part in (PIECE, silence(0.4))]

    found, _ = spans(*speech, silence(2))

    assert len(found) >= 3
    assert all(each.end - each.first <= LONGEST for each in found)
    assert all(each.end - each.first > LONGEST / 2 for each in found[:-1])
    assert all(a.end <= b.first for a, b in pairwise(found))
    assert sum(b.first - a.end for a, b in pairwise(found)) < SAMPLE_RATE / 10
    for span in found[:-1]:
        position = span.end / SAMPLE_RATE % 1.5
        assert position < 0.01 or position >= 1.1, "not in a pause"


def test_speech_without_a_pause_is_cut_after_what_was_sent() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.3, 40 * SAMPLE_RATE).astype(np.float32)
    quiet = round(27.5 * SAMPLE_RATE)
    noise[quiet : quiet + 1600] *= 0.2  # quieter, but not a pause
    noise[25 * SAMPLE_RATE :][:1600] *= 0.1  # quieter still, but within what was sent
    buffer = SampleBuffer()
    finder = SpanFinder(buffer, longest=LONGEST, padding=0, silence=8000)
    detection = FakeVoiceDetector().start(VadOptions(prefix_padding_ms=0))
    events = []
    for first in range(0, len(noise), 1600):
        new = noise[first : first + 1600]
        buffer.append(new)
        if finder.span is not None:
            finder.span.settled = max(finder.span.first, round(26.0 * SAMPLE_RATE))
        events += finder.push(detection.push(new), detection.under_way)

    assert [type(each) for each in events] == [SpanOpened, SpanClosed, SpanOpened]
    cut = events[1].span.end
    assert cut == pytest.approx(quiet + 800, abs=800)
    assert events[2].span.first == cut


def test_a_commit_ends_a_turn_anywhere_and_the_rest_is_another() -> None:
    buffer = SampleBuffer()
    finder = SpanFinder(buffer, longest=LONGEST, padding=4800, silence=8000)
    detection = FakeVoiceDetector().start(VadOptions(prefix_padding_ms=0))

    def push(samples: Samples) -> list[SpanOpened | SpanClosed]:
        buffer.append(samples)
        return finder.push(detection.push(samples), detection.under_way)

    push(PIECE)
    committed = finder.close()
    assert committed is not None
    assert committed.closed
    assert committed.end == len(PIECE)
    assert finder.close() is None

    events = [*push(PIECE), *push(silence(1))]

    assert [type(each) for each in events] == [SpanOpened, SpanClosed]
    assert events[0].span.first == len(PIECE)
