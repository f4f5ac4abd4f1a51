"""One live session: audio and events in, transcripts out.

Three tasks share a session. The reader checks each message and queues its action. The listener runs
the actions in order: it finds the turns in the audio, and opens and closes windows. The transcriber
decodes them.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..active_requests import ActiveRequests
from ..backends.base import Detection
from ..domain import SAMPLE_RATE, AudioClip, Samples, SpeechRegion, VadOptions
from ..errors import InvalidAudio, InvalidRequest, Overloaded, ServiceError, TooLarge
from ..fields import rules
from ..fields.transcription import FormDefaults, TranscriptionForm, validated
from ..pipeline.chunking import loudest_window
from ..pipeline.stages import Engines
from .audio import AudioReader, SampleBuffer
from .items import Item, ItemOptions, LiveWindow
from .messages import (
    LOGPROBS,
    AppendAudio,
    ClearAudio,
    Cleared,
    ClientError,
    CommitAudio,
    Committed,
    ConversationItem,
    ErrorEvent,
    ItemAdded,
    SessionConfig,
    SessionEvent,
    SpeechStarted,
    SpeechStopped,
    UpdateSession,
    client_event,
    event_id_of,
    new_id,
    read_message,
)
from .settings import LiveSettings
from .transcriber import LiveRequest, LiveTranscriber, Send, error_details
from .turns import MANUAL_SILENCE, SHORTEST_SPEECH, Closed, Opened, Span, TurnFinder

LONGEST_WINDOW = 30 * SAMPLE_RATE
"""Samples of the longest window, and of the silence that is kept."""

BLOCK = SAMPLE_RATE // 2
"""Samples that voice activity detection takes at a time."""

INNER_PAUSE_MS = 200
"""Pauses that the detector tells apart; how long a silence ends a turn is decided here."""

MANUAL_PADDING_MS = 300

SHORTEST_COMMIT = round(0.1 * SAMPLE_RATE)
"""Samples that a commit needs, as in OpenAI's API."""

LARGE_MESSAGE = 64 * 1024
"""Bytes from which on a message is decoded on another thread."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends: a WebSocket close code (RFC 6455) and its reason."""

    code: int
    reason: str = ""


SHUT_DOWN = Ending(1012, "the server shuts down: connect again")


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionContext:
    """What a session needs of the server. `engines` leases models in its name."""

    id: str
    client: str
    engines: Callable[[LiveRequest], Engines]
    defaults: FormDefaults
    settings: LiveSettings
    active: ActiveRequests


class Session:
    """A transcription session; `send` takes the events for the client, one at a time.

    `beta`: the client calls events by the names of OpenAI's beta API.
    """

    def __init__(
        self, context: SessionContext, config: SessionConfig, send: Send, *, beta: bool = False
    ) -> None:
        self._context = context
        self._config = config
        self._send = send
        self._beta = beta
        # the reader's
        self._actions: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(1000)
        self._reader = AudioReader(config.audio.input.format)
        self._audio: list[Samples] | None = None  # of the last action, where that is audio
        self._received = 0
        # the listener's
        self._listening = config
        self._options = self._item_options(config)
        self._buffer = SampleBuffer()
        self._turns = TurnFinder(self._buffer, longest=LONGEST_WINDOW, padding=0, silence=0)
        self._detection: Detection | None = None
        self._heard_from = 0  # the sample at which the detection began
        self._stale = True  # the detection has other options than the configuration
        self._uncommitted = 0  # the first sample that no commit has had
        self._item: Item | None = None
        self._window: LiveWindow | None = None
        self._windows = 0
        self._previous: str | None = None
        self._transcriber = LiveTranscriber(
            context.id, context.client, engines=context.engines, buffer=self._buffer, send=send
        )

    @property
    def id(self) -> str:
        return self._context.id

    async def run(self, messages: AsyncIterator[str | bytes]) -> Ending:
        """Serve the session until the client leaves, is silent for too long, or the server ends."""
        await self._send_session("session.created", self._config)
        listening = asyncio.create_task(self._listen())
        transcribing = asyncio.create_task(self._transcriber.run(self._options))
        reading = asyncio.create_task(self._read(messages))
        leaving = asyncio.create_task(self._context.active.until_draining())
        tasks: list[asyncio.Task[Any]] = [listening, transcribing, reading, leaving]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not reading.done():
                reading.cancel()
                tasks.append(asyncio.create_task(self._answer_all()))
                ending = SHUT_DOWN
                await asyncio.wait(
                    {tasks[-1], listening, transcribing}, return_when=asyncio.FIRST_COMPLETED
                )
            else:
                ending = reading.result() if reading.done() else SHUT_DOWN
            for task in (listening, transcribing):
                if task.done():
                    task.result()  # raises: they never end by themselves
            return ending
        except ServiceError as error:  # no speech can be found without a voice detector
            await self._refuse(error, None)
            return Ending(1011, error.code)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- the reader ---------------------------------------------------------------------------

    async def _read(self, messages: AsyncIterator[str | bytes]) -> Ending:
        idle = self._context.settings.idle_seconds
        while True:
            try:
                async with asyncio.timeout(idle or None):
                    message = await anext(messages)
            except StopAsyncIteration:
                return Ending(1000)
            except TimeoutError:
                return Ending(1001, f"no message came for {idle:g} s")
            await self._read_one(message)

    async def _read_one(self, message: str | bytes) -> None:
        event_id = None
        try:
            limit = self._context.settings.message_bytes
            if len(message) > limit:
                raise TooLarge(f"a message has at most {limit} bytes: send shorter pieces of audio")
            large = len(message) > LARGE_MESSAGE
            event = (
                await asyncio.to_thread(read_message, message) if large else read_message(message)
            )
            event_id = event_id_of(event)
            request = client_event(event)
            if isinstance(request, AppendAudio):
                work = partial(self._decode_audio, request.audio)
                await self._queue_audio(await asyncio.to_thread(work) if large else work())
                return
            action = await self._action(request, event_id)
        except ServiceError as error:
            await self._refuse(error, event_id)
            return
        self._audio = None
        await self._actions.put(action)

    def _decode_audio(self, audio: str) -> Samples:
        self._check_backlog()
        try:
            content = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidAudio("the audio is not valid base64", param="audio") from error
        return self._reader.push(content)

    async def _queue_audio(self, samples: Samples) -> None:
        self._received += len(samples)
        if self._audio is None:
            self._audio = [samples]
            await self._actions.put(partial(self._hear, self._audio))
        else:
            self._audio.append(samples)

    def _check_backlog(self) -> None:
        limit = self._context.settings.backlog_seconds
        waiting = self._received - self._buffer.end + self._transcriber.waiting
        if waiting > limit * SAMPLE_RATE:
            raise Overloaded(
                f"more than {limit:g} s of audio wait for their transcript, so this audio was "
                "dropped: send audio as fast as it is spoken, or upload the file"
            )

    async def _action(
        self, event: UpdateSession | CommitAudio | ClearAudio | AppendAudio, event_id: str | None
    ) -> Callable[[], Awaitable[None]]:
        """What the listener does about an event that is not audio.

        Raises:
            ServiceError: the session cannot be configured so.
        """
        if isinstance(event, CommitAudio):
            return partial(self._commit, event_id)
        if isinstance(event, ClearAudio):
            return self._clear
        assert isinstance(event, UpdateSession)
        config = self._config.updated(event.change())
        options = self._item_options(config)
        if config.audio.input.format != self._config.audio.input.format:
            await self._queue_audio(self._reader.finish())
            self._reader = AudioReader(config.audio.input.format)
        self._config = config
        self._beta = self._beta or event.type == "transcription_session.update"
        return partial(self._configure, config, options, event.type)

    def _item_options(self, config: SessionConfig) -> ItemOptions:
        """How items are transcribed, as the same fields of an upload would have it.

        Raises:
            ServiceError: there is no such model or language, or the model cannot do it.
        """
        asked, defaults = config.audio.input.transcription, self._context.defaults
        fields = {
            "model": asked.model,
            "language": asked.language,
            "languages[]": asked.languages,
            "prompt": asked.prompt,
            "keywords[]": asked.keywords,
            "include[]": ["logprobs"] if LOGPROBS in config.include else [],
            "response_format": "json",
        }
        try:
            form = validated(TranscriptionForm, fields)
            rules.check(rules.of_transcription(form, "json"))
            decode = form.decode_options("transcribe", defaults)
            options = ItemOptions(model=asked.model or defaults.model, decode=decode)
            request = LiveRequest(
                id=self._context.id,
                client=self._context.client,
                model=options.model,
                decode=options.decode,
            )
            self._context.engines(request).check_request()
        except ServiceError as error:
            if error.param is not None and not error.param.startswith("include"):
                name = error.param.removesuffix("[]")
                error.param = f"session.audio.input.transcription.{name}"
            raise
        return options

    async def _refuse(self, error: ServiceError, event_id: str | None) -> None:
        details = error_details(error).model_dump()
        await self._send(ErrorEvent(error=ClientError(**details, event_id=event_id)))

    # -- the listener -------------------------------------------------------------------------

    async def _listen(self) -> None:
        request = LiveRequest(
            id=self._context.id,
            client=self._context.client,
            model=self._options.model,
            decode=self._options.decode,
        )
        async with self._context.engines(request).voice_detector() as detector:
            self._detector = detector
            self._configure_turns()
            while True:
                action = await self._actions.get()
                await action()

    async def _hear(self, audio: list[Samples]) -> None:
        if audio is self._audio:
            self._audio = None  # what comes now is another action's
        samples = np.concatenate(audio)
        for first in range(0, len(samples), BLOCK):
            await self._hear_block(samples[first : first + BLOCK])

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
        for event in self._turns.push(found, moved):
            if isinstance(event, Opened):
                await self._open(event.span)
            else:
                assert isinstance(event, Closed)
                await self._close()
        self._transcriber.grow(self._window)
        self._buffer.drop_before(
            min(self._transcriber.first_needed, self._buffer.end - LONGEST_WINDOW)
        )

    async def _restart_detection(self) -> None:
        server = self._listening.audio.input.turn_detection
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
        server = self._listening.audio.input.turn_detection is not None
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
        if self._listening.audio.input.turn_detection is not None:
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

    async def _commit(self, event_id: str | None) -> None:
        """End the item that is open, or make one of the audio that has none."""
        count = self._buffer.end - self._uncommitted
        if self._item is None and count < SHORTEST_COMMIT:
            milliseconds = count * 1000 / SAMPLE_RATE
            error = EmptyCommit(
                "the input audio buffer has too little audio to commit: send at least 100 ms, "
                f"it has {milliseconds:.0f} ms"
            )
            await self._refuse(error, event_id)
            return
        item = self._item or Item(id=new_id("item"), options=self._options)
        self._turns.close()
        if self._window is not None:
            self._transcriber.close(self._window)
            self._window = None
        elif self._item is None and self._listening.audio.input.turn_detection is None:
            doubtful = self._loudest()
            if doubtful is not None:
                self._transcriber.close(self._new_window(item, doubtful))
        await self._end_item(item, self._buffer.end)

    def _loudest(self) -> Span | None:
        """The loudest part of audio in which no speech was found: the transcriber decides."""
        first = max(self._uncommitted, self._buffer.end - LONGEST_WINDOW)
        samples = self._buffer.copy(first, self._buffer.end)
        clip = AudioClip(samples=samples, sample_rate=SAMPLE_RATE)
        loudest = loudest_window(
            clip, request_id=self._context.id, max_window=LONGEST_WINDOW / SAMPLE_RATE
        )
        if loudest is None:
            return None
        begin = first + round(loudest.start * SAMPLE_RATE)
        offset = first / SAMPLE_RATE
        return Span(
            first=begin,
            end=begin + len(loudest.samples),
            settled=begin,
            closed=True,
            regions=[_moved(region, offset) for region in loudest.regions],
        )

    async def _clear(self) -> None:
        """Drop the item that is open, and all audio that no commit has had."""
        if self._item is not None:
            self._transcriber.abandon(self._item)
        self._turns.close()
        self._item = self._window = None
        self._uncommitted = self._buffer.end
        self._stale = True
        await self._send(Cleared())

    async def _configure(self, config: SessionConfig, options: ItemOptions, event: str) -> None:
        """Change the session; an item that is open is transcribed as it began."""
        before = self._listening.audio.input.turn_detection
        self._stale = self._stale or before != config.audio.input.turn_detection
        self._listening, self._options = config, options
        self._configure_turns()
        beta = event == "transcription_session.update"
        name = "transcription_session.updated" if beta else "session.updated"
        await self._send_session(name, config)

    def _configure_turns(self) -> None:
        server = self._listening.audio.input.turn_detection
        padding = MANUAL_PADDING_MS if server is None else server.prefix_padding_ms
        self._turns.padding = padding * SAMPLE_RATE // 1000
        self._turns.silence = (
            MANUAL_SILENCE
            if server is None
            else max(SHORTEST_SPEECH, server.silence_duration_ms * SAMPLE_RATE // 1000)
        )

    async def _answer_all(self) -> None:
        """Commit the item that is open, and wait until all are answered."""
        done = asyncio.Event()

        async def finish() -> None:
            if self._item is not None:
                await self._commit(None)
            done.set()

        await self._actions.put(finish)
        await done.wait()
        await self._transcriber.until_answered()

    async def _send_session(self, name: str, config: SessionConfig) -> None:
        session = {
            **config.model_dump(mode="json"),
            "id": self._context.id,
            "object": "realtime.transcription_session",
        }
        await self._send(SessionEvent.model_validate({"type": name, "session": session}))


class EmptyCommit(InvalidRequest, code="input_audio_buffer_commit_empty"):
    """A commit without audio."""


def _moved(region: SpeechRegion, offset: float) -> SpeechRegion:
    return replace(region, start=region.start + offset, end=region.end + offset)
