"""One live session on engines that a test holds: what is decoded when, and what failures cost."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest

from live import until
from pipeline_world import Transcriber, World
from realtime import pcm
from support import PATIENCE
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.domain import DecodeOptions, Samples, Window, WindowTranscript
from whisperx_api_server.errors import InsufficientMemory, NotInstalled
from whisperx_api_server.fields.transcription import FormDefaults
from whisperx_api_server.live.events import (
    Cleared,
    Committed,
    Completed,
    Delta,
    ErrorEvent,
    Failed,
    ServerEvent,
)
from whisperx_api_server.live.messages import SessionConfig
from whisperx_api_server.live.registry import LiveSessions
from whisperx_api_server.live.session import MAX_ACTIONS, Ending, Session
from whisperx_api_server.live.settings import LiveSettings
from whisperx_api_server.pipeline.stages import Transcribing
from whisperx_api_server.scheduling.batch_policy import BatchPolicy
from whisperx_api_server.scheduling.lane import Lane
from whisperx_api_server.scheduling.work import AnyEntry, Entry, Work

E = TypeVar("E", bound=ServerEvent)

SPEECH = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
PAUSE = silence(1)


class Talk:
    """A session under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.active = ActiveRequests()
        self.events: list[ServerEvent] = []
        self._messages: asyncio.Queue[str | None] = asyncio.Queue()
        self._sessions = LiveSessions(
            LiveSettings(),
            enabled=True,
            active=self.active,
            pool=world.pool,
            catalog=world.catalog,
            defaults=FormDefaults(model="small"),
        )

    @asynccontextmanager
    async def session(self, **audio: object) -> AsyncGenerator[asyncio.Task[Ending], None]:
        session = {"audio": {"input": SPEECH | audio}}
        config = SessionConfig().updated(session)
        with self._sessions.open("client", config, self._send, beta=False) as opened:
            running = asyncio.create_task(self._run(opened))
            try:
                yield running
            finally:
                self._messages.put_nowait(None)
                await running

    async def _run(self, session: Session) -> Ending:
        async def messages() -> AsyncGenerator[str | bytes, None]:
            while (message := await self._messages.get()) is not None:
                yield message

        return await session.run(messages())

    async def _send(self, event: ServerEvent) -> None:
        self.events.append(event)

    def say(self, *pieces: Samples) -> None:
        audio = base64.b64encode(pcm(np.concatenate(pieces))).decode()
        self.send("input_audio_buffer.append", audio=audio)

    def send(self, name: str, **fields: object) -> None:
        self._messages.put_nowait(json.dumps({"type": name, **fields}))

    def commit(self) -> None:
        self.send("input_audio_buffer.commit")

    @property
    def unread(self) -> int:
        """Messages that the session has not taken."""
        return self._messages.qsize()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def completed(self, count: int = 1) -> list[str]:
        await until(lambda: len(self.of(Completed)) == count)
        return [event.transcript for event in self.of(Completed)]


def scene(test: Callable[[Talk], Awaitable[None]], world: World | None = None) -> World:
    """Run a test of a session, after which nothing may wait or be leased."""
    world = world or World()

    async def run() -> None:
        talk = Talk(world)
        await test(talk)
        assert talk.active.count == 0
        assert all(each.waiting == each.leases == 0 for each in world.pool.statuses())
        await world.pool.close()

    asyncio.run(run())
    return world


@asynccontextmanager
async def busy_lane(talk: Talk) -> AsyncGenerator[tuple[Lane[Any], list[AnyEntry]], None]:
    """The transcriber's lane, which computes something else, and what is submitted meanwhile."""
    go = threading.Event()
    block: Work[object, None, bool] = Work(
        run=lambda _model, _batch, _features: [go.wait(PATIENCE)]
    )
    submitted: list[AnyEntry] = []
    await until(lambda: [each.state for each in talk.world.pool.statuses()] == ["ready"] * 2)
    lane = talk.world.pool.statuses()[-1].lane
    lane.submit(Entry(work=block, payload=None, client="other", request_id="other"))
    await until(lambda: lane.in_flight == 1)
    submit = lane.submit

    def counted(entry: Entry[Any, Any, Any]) -> Any:
        submitted.append(entry)
        return submit(entry)

    lane.submit = counted  # type: ignore[method-assign]
    try:
        yield lane, submitted
    finally:
        go.set()


def test_a_window_that_closes_takes_its_stale_decoding_off_the_lane() -> None:
    """So the last decoding of a turn does not wait for another one."""

    async def test(talk: Talk) -> None:
        async with talk.session():
            async with busy_lane(talk) as (lane, submitted):
                talk.say(say("red house door"))
                await until(lambda: bool(submitted))
                talk.commit()
                await until(lambda: submitted[-1].urgent and len(lane) == 1)
            assert await talk.completed() == ["red house door."]

    world = scene(test)
    assert world.hold.calls.count("transcribe") == 1


def test_a_draft_that_waits_is_replaced_by_one_of_the_newest_audio() -> None:
    async def test(talk: Talk) -> None:
        async with talk.session():
            async with busy_lane(talk) as (lane, submitted):
                talk.say(say("red house door"))
                await until(lambda: bool(submitted))
                talk.say(say("blue tree water night"))
                first = submitted[0]
                await until(lambda: first.future.cancelled() and len(lane) == 1)
                assert all(each.draft for each in submitted)
            talk.commit()
            assert await talk.completed() == ["red house door blue tree water night."]
            decoded = [each for each in submitted if not each.future.cancelled()]
            assert all(each.payload.window.end > first.payload.window.end for each in decoded)

    scene(test)


def test_a_draft_that_is_being_computed_is_not_replaced() -> None:
    async def test(talk: Talk) -> None:
        hold = talk.world.hold
        hold.stage = "transcribe"
        async with talk.session():
            talk.say(say("red house door"))
            await until(hold.entered.is_set)
            heard = hold.calls.count("vad")
            talk.say(say("blue tree"))
            await until(lambda: hold.calls.count("vad") > heard + 1)
            lane = talk.world.pool.statuses()[-1].lane
            assert (lane.in_flight, len(lane)) == (1, 0)
            hold.go.set()
            talk.commit()
            assert await talk.completed() == ["red house door blue tree."]

    scene(test)


def test_a_closed_window_keeps_its_place_when_the_next_one_closes() -> None:
    async def test(talk: Talk) -> None:
        async with talk.session():
            async with busy_lane(talk) as (_, submitted):
                talk.say(say("red house door"))
                await until(lambda: bool(submitted))
                talk.say(silence(4))
                await until(lambda: submitted[-1].urgent)
                talk.say(say("blue tree"))
                talk.commit()
                await until(lambda: bool(talk.of(Committed)))
            await talk.completed()
            assert sum(each.urgent for each in submitted) == 2  # each window, whole

    scene(test)


def test_other_requests_have_short_batches_only_while_a_session_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while nobody speaks."""
    take = BatchPolicy.take
    short: list[bool] = []
    work: Work[object, None, None] = Work(run=lambda _model, batch, _features: batch)

    def observed(policy: BatchPolicy, most: int | None = None, *, live: bool) -> list[AnyEntry]:
        batch = take(policy, most, live=live)
        short.extend(live for entry in batch if entry.client == "other")
        return batch

    monkeypatch.setattr(BatchPolicy, "take", observed)

    async def test(talk: Talk) -> None:
        async def other() -> None:
            entry = Entry(work=work, payload=None, client="other", request_id="other")
            await asyncio.wrap_future(lane.submit(entry))

        async with talk.world.pool.lease(talk.world.catalog.transcriber("small")) as lane:
            async with talk.session():
                await until(lambda: [each.leases for each in talk.world.pool.statuses()] == [2, 1])
                await other()
            await other()

    scene(test)
    assert short == [True, False]


def test_a_turn_whose_pause_was_decoded_is_complete_at_its_end() -> None:
    async def test(talk: Talk) -> None:
        detection = {"type": "server_vad", "threshold": 0.05, "silence_duration_ms": 2000}
        async with talk.session(turn_detection=detection):
            talk.say(say("red house"), silence(1.5))
            await until(lambda: bool(talk.of(Delta)) or "transcribe" in talk.world.hold.calls)
            await until(lambda: talk.world.pool.statuses()[-1].lane.in_flight == 0)
            decoded = talk.world.hold.calls.count("transcribe")
            talk.say(silence(1))
            assert await talk.completed() == ["red house."]
            assert talk.world.hold.calls.count("transcribe") == decoded

    scene(test)


class Failing(Transcriber):
    """Fails on windows of which a word is the poison."""

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        answers = super().transcribe(windows, options, features)
        if any("night" in each.text for answer in answers for each in answer.segments):
            raise InsufficientMemory("too large")
        return answers


def test_an_item_that_fails_says_so_and_the_next_is_answered() -> None:
    world = World()
    world.engines["transcription"] = Failing

    async def test(talk: Talk) -> None:
        async with talk.session():
            talk.say(say("red night"), PAUSE)
            talk.commit()
            talk.say(say("blue door"), PAUSE)
            talk.commit()
            assert await talk.completed() == ["blue door."]
        (failed,) = talk.of(Failed)
        assert failed.error["code"] == "insufficient_memory"

    scene(test, world)


def test_a_model_that_cannot_be_loaded_fails_its_items_only() -> None:
    world = World()
    world.failures["transcription"] = NotInstalled("install it")

    async def test(talk: Talk) -> None:
        async with talk.session() as running:
            talk.say(say("red door"), PAUSE)
            talk.commit()
            await until(lambda: bool(talk.of(Failed)))
            assert not running.done()

    scene(test, world)


def test_a_session_without_a_voice_detector_ends_with_its_error() -> None:
    world = World()
    world.failures["vad"] = NotInstalled("install it")

    async def test(talk: Talk) -> None:
        async with talk.session() as running:
            assert (await running).code == 1011
        (error,) = talk.of(ErrorEvent)
        assert error.error["message"] == "install it"

    scene(test, world)


def test_a_turn_whose_draft_fails_as_it_ends_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    transcribe = Transcribing.transcribe

    async def test(talk: Talk) -> None:
        async def failing(
            self: Transcribing, window: Window, options: DecodeOptions, *, urgent: bool
        ) -> WindowTranscript:
            if not options.draft:
                return await transcribe(self, window, options, urgent=urgent)
            talk.commit()
            cancelled: asyncio.Future[WindowTranscript] = asyncio.Future()
            try:
                return await cancelled
            except asyncio.CancelledError:
                raise InsufficientMemory("too large") from None

        monkeypatch.setattr(Transcribing, "transcribe", failing)
        async with talk.session():
            talk.say(say("red house door"))
            assert await talk.completed() == ["red house door."]

    scene(test)


class Unsure(Transcriber):
    """Is not sure of the language of what is short."""

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        return [
            replace(answer, language_probability=0.3)
            if option.language is None and window.end - window.start < 1.5
            else answer
            for window, option, answer in zip(
                windows, options, super().transcribe(windows, options, features), strict=True
            )
        ]


def test_an_unclear_item_is_in_the_language_of_the_one_before() -> None:
    world = World()
    world.engines["transcription"] = Unsure

    async def test(talk: Talk) -> None:
        async with talk.session():
            talk.say(say("rot haus tür blau baum wasser brot", language="de"), PAUSE)
            talk.commit()
            talk.say(say("red house"))
            talk.commit()
            assert await talk.completed(2) == ["rot haus tür blau baum wasser brot.", "rot haus."]
            assert [event.languages[0]["code"] for event in talk.of(Completed)] == ["de", "de"]

    scene(test, world)


def test_the_number_of_waiting_actions_is_bounded() -> None:
    """While the listener is busy, no more messages are read than may wait."""

    async def test(talk: Talk) -> None:
        talk.world.hold.stage = "vad"
        async with talk.session():
            talk.say(say("red house"))
            await until(talk.world.hold.entered.is_set)
            for _ in range(3 * MAX_ACTIONS):
                talk.send("input_audio_buffer.clear")
            await until(lambda: talk.unread == 2 * MAX_ACTIONS - 1)  # one is read, and waits
            talk.world.hold.go.set()
            await until(lambda: len(talk.of(Cleared)) == 3 * MAX_ACTIONS)

    scene(test)


def test_a_client_that_leaves_takes_its_windows_with_it() -> None:
    async def test(talk: Talk) -> None:
        hold = talk.world.hold
        hold.stage = "transcribe"
        async with talk.session():
            talk.say(say("red house door blue"), PAUSE)
            talk.commit()
            await until(hold.entered.is_set)
        hold.go.set()
        await until(lambda: talk.world.pool.statuses()[-1].lane.in_flight == 0)
        assert talk.of(Completed) == []

    scene(test)


def test_a_shutdown_answers_the_turn_that_is_open() -> None:
    async def test(talk: Talk) -> None:
        async with talk.session() as running:
            talk.say(say("red house"))
            await until(lambda: "vad" in talk.world.hold.calls)
            drained = asyncio.create_task(talk.active.drain(20))
            assert (await running).code == 1012
        assert await drained
        assert [event.transcript for event in talk.of(Completed)] == ["red house."]

    scene(test)


def test_a_new_threshold_holds_once_no_turn_is_open() -> None:
    async def test(talk: Talk) -> None:
        loud, quiet = ({"type": "server_vad", "threshold": threshold} for threshold in (0.05, 0.9))
        async with talk.session(turn_detection=quiet):
            talk.say(say("red house"), PAUSE)
            session = {"audio": {"input": {"turn_detection": loud}}}
            talk.send("session.update", session=session)
            talk.say(say("blue door"), PAUSE)
            assert await talk.completed() == ["blue door."]

    scene(test)
