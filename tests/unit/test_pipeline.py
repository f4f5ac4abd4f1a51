"""What a request leaves behind, whenever and however it ends; and that it never shows in others."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whisperx_api_server import pipeline, runs, scheduler
from whisperx_api_server.audio import SAMPLE_RATE
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import AlignItem, ModelSpec
from whisperx_api_server.backends.fake import (
    FakeAligner,
    FakeDiarizer,
    FakeTranscriber,
    FakeVoiceDetector,
    say,
    silence,
)
from whisperx_api_server.backlog import Backlog
from whisperx_api_server.catalog import Catalog
from whisperx_api_server.domain import (
    AlignMode,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    KnownSpeaker,
    Samples,
    Segment,
    Source,
    SpeechRegion,
    TranscriptionRequest,
    UploadedFile,
    VadOptions,
    Window,
    WindowTranscript,
)
from whisperx_api_server.errors import (
    InvalidRequest,
    Overloaded,
    TranscriptionFailed,
    Unavailable,
)
from whisperx_api_server.model_pool import ModelPool, PoolPolicy
from whisperx_api_server.pipeline import Pipeline, PipelineDefaults
from whisperx_api_server.runs import Runs
from whisperx_api_server.sources import SourceOpener
from whisperx_api_server.stages import Checkpoint, Observer

POISON = "black"
"""A window in which this is said makes the transcriber fail."""


class Hold:
    """Stops the engines at one stage until it is let go."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.entered = threading.Event()
        self.go = threading.Event()
        self.calls: list[str] = []

    def __call__(self, stage: str) -> None:
        self.calls.append(stage)
        if stage == self.stage:
            self.entered.set()
            assert self.go.wait(20)


class Transcriber(FakeTranscriber):
    def __init__(self, hold: Hold) -> None:
        super().__init__()
        self._hold = hold

    def detect_language(self, windows: Sequence[Window]) -> list[Mapping[str, float]]:
        self._hold("detect")
        return super().detect_language(windows)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        self._hold("transcribe")
        answers = super().transcribe(windows, options, features)
        if any(POISON in segment.text for answer in answers for segment in answer.segments):
            raise ValueError("poison")
        return answers


class Aligner(FakeAligner):
    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def align(self, items: Sequence[AlignItem]) -> list[Segment]:
        self._hold("align")
        return super().align(items)


class Diarizer(FakeDiarizer):
    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def diarize(self, clip: AudioClip, options: DiarizeOptions) -> Diarization:
        self._hold("diarize")
        return super().diarize(clip, options)

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        self._hold("embed")
        return super().embed(clips)


class VoiceDetector(FakeVoiceDetector):
    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def detect(self, clip: AudioClip, options: VadOptions) -> Iterator[Sequence[SpeechRegion]]:
        for regions in super().detect(clip, options):
            self._hold("vad")
            yield regions


class Clips(SourceOpener):
    """Recordings by name, without files; `last` is what was opened last, if it is still there."""

    def __init__(self, recordings: Mapping[str, Samples], hold: Hold) -> None:
        self.recordings = recordings
        self.opened = 0
        self.open_now = 0
        self.last: weakref.ref[Samples] | None = None
        self._hold = hold

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        assert isinstance(source, UploadedFile)
        self.opened += 1
        self.open_now += 1
        try:
            await asyncio.to_thread(self._hold, "decode")
            samples = self.recordings[source.path.name.partition("-")[0]].copy()
            self.last = weakref.ref(samples)
            clip = AudioClip(samples=samples, sample_rate=SAMPLE_RATE)
            del samples
            yield clip
        finally:
            self.open_now -= 1


def sentences(*texts: str, language: str = "en", speaker: int = 0) -> Samples:
    pieces = [
        piece
        for text in texts
        for piece in (say(text, language=language, speaker=speaker), silence(1.5))
    ]
    return np.concatenate(pieces)


RECORDINGS: dict[str, Samples] = {
    "english": sentences(*["red door", "open tree", "find water", "bring bread"] * 3),
    "french": sentences(*["rouge porte", "ouvre arbre", "trouve eau"] * 2, language="fr"),
    "german": sentences("rot tür", language="de", speaker=2),
    "dialogue": np.concatenate([sentences("red door"), sentences("blue night", speaker=3)]),
    "poisoned": sentences("red door", "open tree", f"find {POISON}", "bring bread"),
    "reference": sentences(*["day night"] * 2, speaker=3),
    "silent": silence(3),
}


class World:
    """A pipeline on the fake engines, every one of which can be held."""

    def __init__(self, *, limit: float = 1e9, timeout: float = 0.0) -> None:
        self.hold = Hold()
        self.clips = Clips(RECORDINGS, self.hold)
        self.backlog = Backlog(limit)
        self.pool = ModelPool(PoolPolicy(), load=self._load)
        spec = ModelSpec(name="small")
        catalog = Catalog(
            transcription="fake",
            alignment="fake",
            diarization="fake",
            voice_detection="fake",
            whisper=spec,
            parakeet=ModelSpec(name="parakeet"),
            diarizer_spec=spec,
        )
        self.pipeline = Pipeline(
            opener=self.clips,
            pool=self.pool,
            catalog=catalog,
            backlog=self.backlog,
            defaults=PipelineDefaults(chunk_size=2.5, timeout=timeout),
        )
        self._count = 0

    def _load(self, key: ModelKey) -> object:
        self.hold(f"load {key.stage}")
        engines: dict[str, Callable[[Hold], object]] = {
            "transcription": Transcriber,
            "alignment": Aligner,
            "diarization": Diarizer,
            "vad": VoiceDetector,
        }
        return engines[key.stage](self.hold)

    def request(self, name: str, **changes: Any) -> TranscriptionRequest:
        self._count += 1
        source = UploadedFile(path=Path(name), filename=name)
        request = TranscriptionRequest(id=f"r{self._count}", source=source, model="small")
        return replace(request, **changes)

    async def text(self, name: str, **changes: Any) -> str:
        transcript = await self.pipeline.run(self.request(name, **changes))
        return transcript.text

    def assert_nothing_left(self) -> None:
        for status in self.pool.statuses():
            assert (status.waiting, status.leases) == (0, 0), status
        assert self.backlog.seconds == 0
        assert self.clips.open_now == 0

    async def let_go(self) -> None:
        """The last recording is in nobody's memory."""
        last = self.clips.last
        assert last is not None
        deadline = time.monotonic() + 10
        while last() is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """All lanes idle."""
        deadline = time.monotonic() + 10
        while any(status.lane.in_flight for status in self.pool.statuses()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)


def play(scene: Callable[[World], Coroutine[Any, Any, None]], **settings: float) -> None:
    async def run() -> None:
        world = World(**settings)
        try:
            async with asyncio.timeout(60):
                await scene(world)
        finally:
            world.hold.go.set()
            await world.pool.close()

    asyncio.run(run())


def known_as(name: str, recording: str) -> KnownSpeaker:
    return KnownSpeaker(name=name, reference=UploadedFile(path=Path(recording), filename=name))


SPEAKERS = DiarizeOptions(known_speakers=(known_as("Ann", "reference"),))


def test_every_transcript_is_the_one_it_gets_alone() -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("english", {}),
        ("french", {}),
        ("french", {"decode": DecodeOptions(task="translate")}),
        ("english", {"decode": DecodeOptions(language="en", prompt="Red Door")}),
        ("german", {"align": AlignMode.OFF}),
        ("dialogue", {"diarize": SPEAKERS}),
        ("english", {"decode": DecodeOptions(temperature=0.5), "batch_size": 1}),
        ("silent", {}),
    ]

    async def scene(world: World) -> None:
        run = world.pipeline.run
        alone = [await run(world.request(name, **changes)) for name, changes in asked]
        assert alone[0].text.startswith("red door. open tree. find water.")
        assert {word.speaker for word in alone[5].words} == {"SPEAKER_00", "Ann"}
        together = await asyncio.gather(
            *(run(world.request(name, **changes)) for name, changes in asked * 5)
        )
        assert together == alone * 5
        world.assert_nothing_left()

    play(scene)


STAGES = [
    *("decode", "load vad", "load transcription", "load alignment", "load diarization"),
    *("vad", "detect", "transcribe", "align", "diarize", "embed"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_who_leaves_is_dropped_at_once(stage: str) -> None:
    """Cancelled while an engine is held inside that stage: nothing waits for the engine's end."""

    async def scene(world: World) -> None:
        world.hold.stage = stage
        leaving = [
            asyncio.create_task(world.text("english", diarize=SPEAKERS, client=f"c{n}"))
            for n in range(3)
        ]
        assert await asyncio.to_thread(world.hold.entered.wait, 10)
        await asyncio.sleep(0.05)  # so that more of each gets queued behind it
        for task in leaving:
            task.cancel()
        done, pending = await asyncio.wait(leaving, timeout=10)
        assert not pending
        assert all(task.cancelled() for task in done)
        world.assert_nothing_left()

        world.hold.stage = None
        world.hold.go.set()
        await world.settled()
        world.hold.calls.clear()
        assert await world.text("german") == "rot tür."
        world.assert_nothing_left()
        assert world.hold.calls.count("transcribe") == 1

    play(scene)


@pytest.mark.parametrize("ending", ["succeeds", "fails", "is withdrawn"])
def test_a_remembered_run_does_not_keep_its_recording(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk space is freed with the last reference, not when the garbage collector runs."""
    monkeypatch.setattr(scheduler.logger, "disabled", True)  # pytest keeps what is logged
    monkeypatch.setattr(runs.logger, "disabled", True)
    name = "poisoned" if ending == "fails" else "english"

    async def scene(world: World) -> None:
        (tmp_path / name).write_bytes(b"")
        source = UploadedFile(path=tmp_path / name, filename=name)
        remembering = Runs(world.pipeline, retry_window=600)

        async def watch() -> None:
            async with remembering.join(world.request(name, source=source), "it") as run:
                await run.result()

        gc.disable()
        try:
            world.hold.stage = "transcribe"
            watching = asyncio.create_task(watch())
            assert await asyncio.to_thread(world.hold.entered.wait, 10)
            if ending == "is withdrawn":
                watching.cancel()
                await asyncio.wait([watching])
            world.hold.go.set()
            await asyncio.wait([watching])
            await world.let_go()
        finally:
            gc.enable()

    play(scene)


@pytest.mark.parametrize("place", ["stitch", "label"])
def test_a_failure_is_logged_with_the_line_where_it_happened(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(pipeline, place, broken)

    async def scene(world: World) -> None:
        (tmp_path / "german").write_bytes(b"")
        source = UploadedFile(path=tmp_path / "german", filename="")
        request = world.request("german", source=source, diarize=DiarizeOptions())
        async with Runs(world.pipeline, retry_window=600).join(request, "it") as run:
            with pytest.raises((KeyError, TranscriptionFailed)):
                await run.result()

    play(scene)
    line = broken.__code__.co_firstlineno + 1
    assert f'{__file__}", line {line}, in broken' in caplog.text


def test_time_is_up() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        with pytest.raises(Unavailable, match=r"longer than the 0\.3 s"):
            await world.text("english")
        world.assert_nothing_left()
        source = UploadedFile(path=Path("dialogue"), filename="")
        world.hold.stage = "diarize"
        with pytest.raises(Unavailable, match=r"longer than the 0\.3 s"):
            await world.pipeline.diarize("d", "client", source)
        world.assert_nothing_left()

    play(scene, timeout=0.3)


def test_a_poisoned_window_fails_its_own_request_only() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        names = ["english", "poisoned", "french"] * 3
        tasks = [asyncio.create_task(world.text(name)) for name in names]
        assert await asyncio.to_thread(world.hold.entered.wait, 10)
        world.hold.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for name, answer in zip(names, answers, strict=True):
            if name == "poisoned":
                assert isinstance(answer, TranscriptionFailed)
            else:
                assert isinstance(answer, str)
                assert answer.startswith("red door." if name == "english" else "rouge porte.")
        world.assert_nothing_left()

    play(scene)


def test_what_memory_has_is_not_computed_again() -> None:
    async def scene(world: World) -> None:
        checkpoint = Checkpoint()
        one_by_one = {"batch_size": 1, "align": AlignMode.OFF}
        with pytest.raises(TranscriptionFailed):
            await world.pipeline.run(world.request("poisoned", **one_by_one), checkpoint=checkpoint)
        await world.settled()  # the window in flight when the run failed is still computed
        known = len(checkpoint.windows)
        assert known > 0
        replaced = sentences("red door", "open tree", "find white", "bring bread")
        world.clips.recordings = {"poisoned": replaced}
        world.hold.calls.clear()
        request = world.request("poisoned", **one_by_one)
        transcript = await world.pipeline.run(request, checkpoint=checkpoint)
        assert transcript.text == "red door. open tree. find white. bring bread."
        assert world.hold.calls.count("transcribe") == len(checkpoint.windows) - known

    play(scene)


def test_beyond_the_bound_nothing_is_even_decoded() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        first = asyncio.create_task(world.text("english"))
        assert await asyncio.to_thread(world.hold.entered.wait, 10)
        with pytest.raises(Overloaded) as refused:
            await world.text("german")
        assert refused.value.retry_after is not None
        assert world.clips.opened == 1
        world.hold.go.set()
        await first
        assert await world.text("german") == "rot tür."

    play(scene, limit=5)


def test_a_reference_that_is_too_short_is_named() -> None:
    async def scene(world: World) -> None:
        too_short = known_as("Bo", "german")
        world.clips.recordings = {**RECORDINGS, "german": say("rot", language="de")}
        with pytest.raises(InvalidRequest, match="'Bo': it must last 2 to 10 s"):
            await world.text("english", diarize=DiarizeOptions(known_speakers=(too_short,)))
        world.assert_nothing_left()

    play(scene)


def test_windows_are_heard_in_order_as_they_are_done() -> None:
    class Heard(Observer):
        def __init__(self) -> None:
            self.until: list[float] = []
            self.stages: list[str] = []

        def stage(self, name: str) -> None:
            self.stages.append(name)

        def heard(self, transcript: WindowTranscript, until: float) -> None:
            self.until.append(until)

    async def scene(world: World) -> None:
        heard = Heard()
        await world.pipeline.run(world.request("english", diarize=SPEAKERS), heard)
        assert len(heard.until) > 5
        assert heard.until == sorted(heard.until)
        assert heard.stages == ["open", "transcribe", "diarize", "finish"]

    play(scene)


def test_a_long_recording_costs_per_minute_what_a_short_one_does() -> None:
    script = Path(__file__).with_name("long_audio.py")
    measured = subprocess.run(
        [sys.executable, str(script), "6", "120"], capture_output=True, text=True, timeout=250
    )
    assert measured.returncode == 0, measured.stderr
    short, long = (json.loads(line) for line in measured.stdout.splitlines())
    for count in ("windows", "vad_steps", "aligned", "calls"):
        assert long[count] / 120 <= 1.1 * short[count] / 6, count
    assert long["windows"] >= 240
    assert long["grown"] < 50e6  # bytes; the recording itself has 460 MB
