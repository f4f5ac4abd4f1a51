"""Runs: which requests share one, what is remembered of it, and how long it holds its uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from whisperx_api_server.audio.uploads import BlobStore, DiskBlobStore
from whisperx_api_server.domain import (
    DecodeOptions,
    DiarizeOptions,
    KnownSpeaker,
    RemoteUrl,
    Transcript,
    TranscriptionRequest,
    Upload,
    WindowTranscript,
)
from whisperx_api_server.errors import TranscriptionFailed
from whisperx_api_server.jobs import run_registry
from whisperx_api_server.jobs.run_registry import Run, RunRegistry
from whisperx_api_server.pipeline.events import (
    Emit,
    Finished,
    Opened,
    Stage,
    StageBegan,
    WindowDone,
)
from whisperx_api_server.pipeline.runner import Checkpoint, Runner

Work = Callable[[TranscriptionRequest, Emit, Checkpoint], Awaitable[None]]


class ScriptedRunner:
    """Does what the test says for each run."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.begun = 0

    async def run(
        self,
        request: TranscriptionRequest,
        emit: Emit,
        checkpoint: Checkpoint,
    ) -> Transcript:
        self.begun += 1
        await self.work(request, emit, checkpoint)
        return Transcript(
            task="transcribe", language="en", languages=("en",), duration=1.0, segments=()
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def at_once(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
    await emit(Opened(duration=3600.0))
    await emit(WindowDone(transcript=window(0), until=3600.0))


def window(index: int) -> WindowTranscript:
    return WindowTranscript(
        window_index=index, language="en", language_probability=1.0, segments=()
    )


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def make(
    work: Work,
    *,
    clock: Clock | None = None,
    window: float = 600,
    blobs: BlobStore | None = None,
) -> tuple[RunRegistry, ScriptedRunner]:
    runner = ScriptedRunner(work)
    made = RunRegistry(
        cast("Runner", runner),
        blobs or DiskBlobStore(workdir=Path("nowhere"), max_bytes=1),
        retry_window=window,
        clock=clock or Clock(),
    )
    return made, runner


@pytest.fixture
def request_() -> TranscriptionRequest:
    return TranscriptionRequest(
        id="one",
        source=Upload(id=32 * "0", digest="sound"),
        model="tiny",
        client="ann",
    )


async def finish(made: RunRegistry, request: TranscriptionRequest, *, retry: bool = False) -> Run:
    async with made.join(request, retry=retry) as run:
        await run.result()
        return run


def test_identity_is_content_parameters_and_client(request_: TranscriptionRequest) -> None:
    copy = Upload(id="copy", digest="sound")
    other = Upload(id="other", digest="other sound")
    voice = Upload(id="voice", digest="ann's voice")
    same_voice = replace(voice, id="same")

    def known(name: str, reference: Upload) -> TranscriptionRequest:
        speaker = KnownSpeaker(name=name, reference=reference)
        return replace(request_, diarize=DiarizeOptions(known_speakers=(speaker,)))

    made, _ = make(at_once)
    first, again, *others = (
        made.identity(each)
        for each in (
            request_,
            replace(request_, id="two", source=copy),
            replace(request_, source=other),
            replace(request_, client="bob"),
            replace(request_, model="base"),
            replace(request_, decode=DecodeOptions(temperature=0.1)),
            replace(request_, chunk_size=8.0),
            replace(request_, diarize=DiarizeOptions()),
            known("Ann", voice),
            known("Bob", voice),
            known("Ann", other),
        )
    )
    assert first == again
    assert len({first, *others}) == 1 + len(others)
    assert made.identity(known("Ann", voice)) == made.identity(known("Ann", same_voice))


def test_urls_unknown_content_and_a_window_of_zero_share_nothing(
    request_: TranscriptionRequest,
) -> None:
    made, _ = make(at_once)
    url = replace(request_, source=RemoteUrl(url="http://a.example/b.wav"))
    assert made.identity(url) is None
    unknown = Upload(id="upload")
    assert made.identity(replace(request_, source=unknown)) is None
    made, _ = make(at_once, window=0)
    assert made.identity(request_) is None


def test_an_end_is_remembered_for_the_window_and_no_longer(
    request_: TranscriptionRequest,
) -> None:
    clock = Clock()
    made, runner = make(at_once, clock=clock, window=600)

    async def scenario() -> None:
        await finish(made, request_)
        clock.now = 599
        await finish(made, request_, retry=True)
        assert runner.begun == 1
        clock.now = 599 + 601
        await finish(made, request_, retry=True)
        assert runner.begun == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "bound"), [("MAX_REMEMBERED", 2), ("MAX_REMEMBERED_SECONDS", 7200)]
)
def test_only_so_much_is_remembered(
    request_: TranscriptionRequest, monkeypatch: pytest.MonkeyPatch, name: str, bound: int
) -> None:
    monkeypatch.setattr(run_registry, name, bound)
    made, runner = make(at_once)

    async def scenario() -> None:
        first, second, third = (replace(request_, model=name) for name in "abc")
        for request in (first, second, third):
            await finish(made, request)
        await finish(made, third, retry=True)
        await finish(made, second, retry=True)
        assert runner.begun == 3
        await finish(made, first, retry=True)
        assert runner.begun == 4

    asyncio.run(scenario())


def test_a_run_holds_its_uploads_until_it_ends(
    request_: TranscriptionRequest, tmp_path: Path
) -> None:
    read: list[bytes] = []
    released = asyncio.Event()
    blobs = DiskBlobStore(workdir=tmp_path, max_bytes=9)

    async def content(sound: bytes) -> AsyncIterator[bytes]:
        yield sound

    async def work(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
        await released.wait()
        for upload in request.uploads:
            async with blobs.open(upload) as path:
                read.append(path.read_bytes())

    async def scenario() -> None:
        sound = await blobs.put(content(b"sound"), filename="a.wav")
        voice = await blobs.put(content(b"voice"), filename="Ann")
        speaker = KnownSpeaker(name="Ann", reference=voice)
        diarize = DiarizeOptions(known_speakers=(speaker,))
        request = replace(request_, source=sound, diarize=diarize)
        made, _ = make(work, blobs=blobs)
        async with made.join(request) as run:
            await blobs.release(sound)
            await blobs.release(voice)
            released.set()
            await run.result()
            assert is_empty(tmp_path)

    asyncio.run(scenario())
    assert read == [b"sound", b"voice"]


def test_a_run_that_is_withdrawn_before_it_begins_releases_its_upload(
    request_: TranscriptionRequest, tmp_path: Path
) -> None:
    blobs = DiskBlobStore(workdir=tmp_path, max_bytes=9)

    async def content() -> AsyncIterator[bytes]:
        yield b"sound"

    async def scenario() -> None:
        sound = await blobs.put(content(), filename="a.wav")
        made, runner = make(at_once, blobs=blobs)
        async with made.join(replace(request_, source=sound)):
            pass
        assert runner.begun == 0
        await blobs.release(sound)

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_is_not_joined_but_its_windows_are_kept(
    request_: TranscriptionRequest,
) -> None:
    memories: list[set[int]] = []

    async def work(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
        memories.append(set(checkpoint.windows))
        checkpoint.windows[len(memories)] = window(len(memories))
        if len(memories) == 1:
            raise TranscriptionFailed("no")

    async def scenario() -> None:
        made, _ = make(work)
        async with made.join(request_) as run:
            with pytest.raises(TranscriptionFailed):
                await run.result()
            # Its watcher is still there, as a slow client may be.
            assert await finish(made, request_) is not run
        await finish(made, request_)

    asyncio.run(scenario())
    # The third asks anew for what succeeded, and does not say that it is a retry.
    assert memories == [set(), {1}, set()]


def test_a_late_watcher_gets_every_event(request_: TranscriptionRequest) -> None:
    heard, done = asyncio.Event(), asyncio.Event()

    async def work(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
        await emit(WindowDone(transcript=window(0), until=1.0))
        await emit(WindowDone(transcript=window(1), until=2.0))
        heard.set()
        await done.wait()
        await emit(WindowDone(transcript=window(2), until=3.0))

    async def listen(made: RunRegistry) -> list[object]:
        async with made.join(request_) as run:
            return [event async for event in run.events()]

    async def scenario() -> None:
        made, runner = make(work)
        first = asyncio.create_task(listen(made))
        await heard.wait()
        second = asyncio.create_task(listen(made))
        await asyncio.sleep(0)
        done.set()
        events = await first
        assert events == await second
        assert [event.until for event in events if isinstance(event, WindowDone)] == [1.0, 2.0, 3.0]
        assert isinstance(events[-1], Finished)
        assert runner.begun == 1

    asyncio.run(scenario())


def test_stages_run_in_turn_but_for_transcription_and_diarization(
    request_: TranscriptionRequest,
) -> None:
    made: list[Run] = []
    unfinished: list[list[str]] = []

    def note() -> None:
        stages = made[0].progress.stages
        unfinished.append([each.name for each in stages if each.finished_at is None])

    async def work(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
        await asyncio.sleep(0)
        stages: tuple[Stage, ...] = ("open", "transcribe", "diarize", "finish")
        for stage in stages:
            await emit(StageBegan(stage=stage, at=0.0))
            note()

    async def scenario() -> None:
        shared, _ = make(work)
        async with shared.join(request_) as run:
            made.append(run)
            await run.result()

    asyncio.run(scenario())
    assert unfinished == [["open"], ["transcribe"], ["transcribe", "diarize"], ["finish"]]


def test_the_position_is_how_many_began_before(request_: TranscriptionRequest) -> None:
    release = [asyncio.Event() for _ in range(3)]

    async def work(request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint) -> None:
        await release[int(request.id)].wait()

    async def scenario() -> None:
        made, _ = make(work)
        async with (
            made.join(replace(request_, id="0", model="a")) as first,
            made.join(replace(request_, id="1", model="b")),
            made.join(replace(request_, id="2", model="c")) as third,
        ):
            assert (made.position(first), made.position(third)) == (0, 2)
            changes = third.changes()
            await anext(changes)
            release[0].set()
            await anext(changes)  # woken although nothing of its own has changed
            assert made.position(third) == 1
            for event in release:
                event.set()
            await third.result()

    asyncio.run(scenario())


def test_a_request_that_comes_while_a_run_is_cancelled_begins_its_own(
    request_: TranscriptionRequest,
) -> None:
    async def scenario() -> None:
        begun, cancelled, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def work(*_: object) -> None:
            if cancelled.is_set():
                return
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:  # as a lane takes its time to drop what waits
                cancelled.set()
                await go.wait()

        made, runner = make(work)
        leaving = asyncio.create_task(finish(made, request_))
        await begun.wait()
        leaving.cancel()
        await cancelled.wait()
        coming = asyncio.create_task(finish(made, request_))
        await asyncio.sleep(0)
        go.set()

        assert (await coming).transcript is not None
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert runner.begun == 2

    asyncio.run(scenario())
