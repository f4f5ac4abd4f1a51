"""The audio of one live session: finds the turns in it, and opens, closes and commits items."""

from __future__ import annotations

from dataclasses import replace

from ..backends.base import Detection
from ..domain import SAMPLE_RATE, AudioClip, Samples, SpeechRegion, VadOptions
from ..errors import InvalidRequest
from ..pipeline.chunking import undetected_windows
from ..pipeline.stages import VoiceDetecting
from .audio import SampleBuffer
from .events import (
    Cleared,
    Committed,
    ConversationItem,
    ItemAdded,
    SpeechStarted,
    SpeechStopped,
    error_event,
    new_id,
)
from .items import Item, ItemOptions, LiveWindow
from .messages import SessionConfig
from .spans import MANUAL_SILENCE, SHORTEST_SPEECH, Span, SpanClosed, SpanFinder, SpanOpened
from .transcriber import LiveTranscriber, Send

LONGEST_WINDOW = 30 * SAMPLE_RATE
"""Samples of the longest window, and of the silence that is kept."""

BLOCK = SAMPLE_RATE // 2
"""Samples that voice activity detection takes at a time."""

INNER_PAUSE_MS = 200
"""Pauses that the detector tells apart; which of them end a turn, `SpanFinder` decides."""

MANUAL_PADDING_MS = 300
"""Milliseconds before speech that are decoded with it, where the client commits."""

SHORTEST_COMMIT = round(0.1 * SAMPLE_RATE)
"""Samples that a commit needs, as in OpenAI's API."""


class Listener:
    """Takes the audio and the actions of one session, in order.

    `beta`: the client calls events by the names of OpenAI's beta API.
    """

    def __init__(
        self,
        detector: VoiceDetecting,
        buffer: SampleBuffer,
        transcriber: LiveTranscriber,
        send: Send,
        config: SessionConfig,
        options: ItemOptions,
        *,
        beta: bool,
    ) -> None:
        self._detector = detector
        self._buffer = buffer
        self._transcriber = transcriber
        self._send = send
        self._config = config
        self._options = options
        self._beta = beta
        self._spans = SpanFinder(buffer, longest=LONGEST_WINDOW, padding=0, silence=0)
        self._configure_turns()
        self._detection: Detection | None = None
        self._heard_from = 0  # the sample at which the detection began
        self._stale = True  # the detection has other options than the configuration
        self._uncommitted = 0  # the first sample that no commit has had
        self._item: Item | None = None
        self._window: LiveWindow | None = None
        self._windows = 0
        self._previous: str | None = None

    async def hear(self, samples: Samples) -> None:
        """Take the next audio."""
        for first in range(0, len(samples), BLOCK):
            await self._hear_block(samples[first : first + BLOCK])

    def configure(self, config: SessionConfig, options: ItemOptions, *, beta: bool) -> None:
        """Change the session; an item that is open is transcribed as it began."""
        before = self._config.audio.input.turn_detection
        self._stale = self._stale or before != config.audio.input.turn_detection
        self._config, self._options, self._beta = config, options, beta
        self._configure_turns()

    async def commit(self, event_id: str | None) -> None:
        """End the item that is open, or make one of the audio that has none."""
        count = self._buffer.end - self._uncommitted
        if self._item is None and count < SHORTEST_COMMIT:
            milliseconds = count * 1000 / SAMPLE_RATE
            error = EmptyCommit(
                "the input audio buffer has too little audio to commit: send at least 100 ms, "
                f"it has {milliseconds:.0f} ms"
            )
            await self._send(error_event(error, event_id))
            return
        item = self._item or Item(id=new_id("item"), options=self._options)
        self._spans.close()
        if self._window is not None:
            self._transcriber.close(self._window)
            self._window = None
        elif self._item is None and self._config.audio.input.turn_detection is None:
            doubtful = self._undetected()
            if doubtful is not None:
                self._transcriber.close(self._new_window(item, doubtful))
        await self._end_item(item, self._buffer.end)

    async def clear(self) -> None:
        """Drop the item that is open, and all audio that no commit has had."""
        if self._item is not None:
            self._transcriber.abandon(self._item)
        self._spans.close()
        self._item = self._window = None
        self._uncommitted = self._buffer.end
        self._stale = True
        await self._send(Cleared())

    async def finish(self) -> None:
        """Commit the item that is open."""
        if self._item is not None:
            await self.commit(None)

    async def _hear_block(self, samples: Samples) -> None:
        if self._stale and self._window is None:
            await self._restart_detection()
        detection = self._detection
        assert detection is not None
        self._buffer.append(samples)
        regions = await self._detector.push(detection, samples)
        offset = self._heard_from / SAMPLE_RATE
        found = [_moved(region, offset) for region in regions]
        under_way = detection.under_way
        moved = None if under_way is None else _moved(under_way, offset)
        for event in self._spans.push(found, moved):
            if isinstance(event, SpanOpened):
                await self._open(event.span)
            else:
                assert isinstance(event, SpanClosed)
                await self._close()
        self._transcriber.grow(self._window)
        self._buffer.drop_before(
            min(self._transcriber.first_needed, self._buffer.end - LONGEST_WINDOW)
        )

    async def _restart_detection(self) -> None:
        server = self._config.audio.input.turn_detection
        silence = INNER_PAUSE_MS if server is None else server.silence_duration_ms
        self._detection = await self._detector.start(
            VadOptions(
                threshold=None if server is None else server.threshold,
                prefix_padding_ms=0,
                silence_duration_ms=min(INNER_PAUSE_MS, silence),
            )
        )
        self._heard_from = self._buffer.end
        self._stale = False

    async def _open(self, span: Span) -> None:
        """Begin a window, and an item where none is open."""
        server = self._config.audio.input.turn_detection is not None
        if self._item is None:
            self._item = Item(id=new_id("item"), options=self._options)
        if server:
            start = span.first * 1000 // SAMPLE_RATE
            await self._send(SpeechStarted(audio_start_ms=start, item_id=self._item.id))
        self._window = self._new_window(self._item, span)

    def _new_window(self, item: Item, span: Span) -> LiveWindow:
        self._windows += 1
        return LiveWindow(item=item, span=span, index=self._windows - 1, decoded=span.first)

    async def _close(self) -> None:
        """End the window; where the server finds the turns, its item too."""
        window, item = self._window, self._item
        assert window is not None
        assert item is not None
        self._window = None
        self._transcriber.close(window)
        if self._config.audio.input.turn_detection is not None:
            end = window.span.end
            stop = end * 1000 // SAMPLE_RATE
            await self._send(SpeechStopped(audio_end_ms=stop, item_id=item.id))
            await self._end_item(item, end)

    async def _end_item(self, item: Item, end: int) -> None:
        self._item = None
        self._uncommitted = end
        item.previous, self._previous = self._previous, item.id
        await self._send(Committed(item_id=item.id, previous_item_id=item.previous))
        await self._send(
            ItemAdded(
                type="conversation.item.created" if self._beta else "conversation.item.added",
                item=ConversationItem(id=item.id),
                previous_item_id=item.previous,
            )
        )
        self._transcriber.end(item)

    def _undetected(self) -> Span | None:
        """The last audio in which no speech was found, if not silent: the transcriber decides."""
        first = max(self._uncommitted, self._buffer.end - LONGEST_WINDOW)
        samples = self._buffer.copy(first, self._buffer.end)
        clip = AudioClip(samples=samples, sample_rate=SAMPLE_RATE)
        longest = LONGEST_WINDOW / SAMPLE_RATE
        windows, _ = undetected_windows(clip, (), request_id="", max_window=longest)
        if not windows:
            return None
        [window] = windows
        begin = first + round(window.start * SAMPLE_RATE)
        offset = first / SAMPLE_RATE
        return Span(
            first=begin,
            end=begin + len(window.samples),
            settled=begin,
            closed=True,
            regions=[_moved(region, offset) for region in window.regions],
        )

    def _configure_turns(self) -> None:
        server = self._config.audio.input.turn_detection
        padding = MANUAL_PADDING_MS if server is None else server.prefix_padding_ms
        self._spans.padding = padding * SAMPLE_RATE // 1000
        self._spans.silence = (
            MANUAL_SILENCE
            if server is None
            else max(SHORTEST_SPEECH, server.silence_duration_ms * SAMPLE_RATE // 1000)
        )


class EmptyCommit(InvalidRequest, code="input_audio_buffer_commit_empty"):
    """A commit without audio."""


def _moved(region: SpeechRegion, offset: float) -> SpeechRegion:
    return replace(region, start=region.start + offset, end=region.end + offset)
