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
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..active_requests import ActiveRequests
from ..domain import SAMPLE_RATE, Samples
from ..errors import InvalidAudio, Overloaded, ServiceError, TooLarge
from ..fields import rules
from ..fields.transcription import FormDefaults, TranscriptionForm, validated
from ..pipeline.stages import Engines
from .audio import AudioReader, SampleBuffer
from .events import SessionEvent, error_event
from .items import ItemOptions
from .listener import Listener
from .messages import (
    LOGPROBS,
    AppendAudio,
    ClearAudio,
    CommitAudio,
    SessionConfig,
    UpdateSession,
    client_event,
    event_id_of,
    read_message,
)
from .settings import LiveSettings
from .transcriber import LiveRequest, LiveTranscriber, Send

Action = Callable[[Listener], Awaitable[None]]
"""What the listener is to do about one or more of the client's events."""

MAX_ACTIONS = 100
"""Actions that may wait, before the client's next message is read.

Audio is one action up to the next event, and its seconds are bounded; each other action has a
configuration of at most `MAX_SESSION` characters. So 100 are below 2 MB, and more than any client
is ahead by: the listener takes each as soon as it has heard the audio before it.
"""

LARGE_MESSAGE = 64 * 1024
"""Bytes from which on a message is decoded on another thread."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ends: a WebSocket close code (RFC 6455) and its reason."""

    code: int
    reason: str = ""


SHUT_DOWN = Ending(1012, "the server is shutting down: connect again")


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
        self._actions: asyncio.Queue[Action] = asyncio.Queue(MAX_ACTIONS)
        self._reader = AudioReader(config.audio.input.format)
        self._audio: list[Samples] | None = None  # of the last action, where that is audio
        self._received = 0
        self._options = self._item_options(config)
        self._buffer = SampleBuffer()
        self._transcriber = LiveTranscriber(
            context.id, context.client, engines=context.engines, buffer=self._buffer, send=send
        )

    @property
    def id(self) -> str:
        return self._context.id

    async def run(self, messages: AsyncIterator[str | bytes]) -> Ending:
        """Serve the session until the client leaves, is silent for too long, or the server ends."""
        await self._send_session("session.created", self._config)
        listening = asyncio.create_task(self._listen(self._config, self._options))
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
            await self._send(error_event(error, None))
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
            await self._send(error_event(error, event_id))
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
    ) -> Action:
        """What the listener does about an event that is not audio.

        Raises:
            ServiceError: the session cannot be configured so.
        """
        if isinstance(event, CommitAudio):
            return lambda listener: listener.commit(event_id)
        if isinstance(event, ClearAudio):
            return Listener.clear
        assert isinstance(event, UpdateSession)
        config = self._config.updated(event.change())
        options = self._item_options(config)
        if config.audio.input.format != self._config.audio.input.format:
            await self._queue_audio(self._reader.finish())
            self._reader = AudioReader(config.audio.input.format)
        self._config = config
        beta = event.type == "transcription_session.update"
        self._beta = self._beta or beta
        return partial(self._configure, config, options, self._beta, beta)

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
            self._context.engines(self._request(options)).check_request()
        except ServiceError as error:
            if error.param is not None and not error.param.startswith("include"):
                name = error.param.removesuffix("[]")
                error.param = f"session.audio.input.transcription.{name}"
            raise
        return options

    # -- the listener -------------------------------------------------------------------------

    async def _listen(self, config: SessionConfig, options: ItemOptions) -> None:
        async with self._context.engines(self._request(options)).voice_detector() as detector:
            listener = Listener(
                detector,
                self._buffer,
                self._transcriber,
                self._send,
                config,
                options,
                beta=self._beta,
            )
            while True:
                action = await self._actions.get()
                await action(listener)

    def _request(self, options: ItemOptions) -> LiveRequest:
        context = self._context
        return LiveRequest(
            id=context.id, client=context.client, model=options.model, decode=options.decode
        )

    async def _configure(
        self,
        config: SessionConfig,
        options: ItemOptions,
        beta: bool,
        beta_event: bool,
        listener: Listener,
    ) -> None:
        listener.configure(config, options, beta=beta)
        name = "transcription_session.updated" if beta_event else "session.updated"
        await self._send_session(name, config)

    async def _hear(self, audio: list[Samples], listener: Listener) -> None:
        if audio is self._audio:
            self._audio = None  # what comes now is another action's
        await listener.hear(np.concatenate(audio))

    async def _answer_all(self) -> None:
        """Commit the item that is open, and wait until all are answered."""
        done = asyncio.Event()

        async def finish(listener: Listener) -> None:
            await listener.finish()
            done.set()

        await self._actions.put(finish)
        await done.wait()
        await self._transcriber.until_answered()

    async def _send_session(self, name: str, config: SessionConfig) -> None:
        session = config.described(self._context.id)
        await self._send(SessionEvent.model_validate({"type": name, "session": session}))
