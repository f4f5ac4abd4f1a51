"""What a request leaves behind, whenever and however it ends; and that it never shows in others."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest

from live import until
from pipeline_world import (
    RECORDINGS,
    Diarizer,
    HeldDetection,
    Hold,
    Transcriber,
    VoiceDetector,
    World,
    known_as,
    play,
    sentences,
    unwatched,
)
from support import PATIENCE
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.backends.base import Capabilities, Detection
from whisperx_api_server.backends.fake import FakeVoiceDetector, say
from whisperx_api_server.domain import (
    AlignMode,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Samples,
    Segment,
    SpeakerTurn,
    SpeechRegion,
    Upload,
    VadOptions,
    Window,
    WindowTranscript,
    Word,
)
from whisperx_api_server.errors import (
    InvalidRequest,
    Overloaded,
    TranscriptionFailed,
    Unavailable,
)
from whisperx_api_server.jobs import run_registry
from whisperx_api_server.jobs.run_registry import RunRegistry
from whisperx_api_server.pipeline import chunking, pipeline
from whisperx_api_server.pipeline.events import (
    Emit,
    Event,
    PartDiarized,
    SegmentsLabelled,
    StageBegan,
    WindowDone,
)
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.scheduling import lane_worker
from whisperx_api_server.transcript.speakers import Labeller


def into(stages: list[str], reached: list[float] | None = None) -> Emit:
    """Note the stages that begin, and the seconds up to which all is transcribed."""

    async def emit(event: Event) -> None:
        if isinstance(event, StageBegan):
            stages.append(event.stage)
        elif isinstance(event, WindowDone) and reached is not None:
            reached.append(event.until)

    return emit


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
        run = world.run
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
    *("vad", "transcribe", "align", "diarize", "embed"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_cancelled_request_is_dropped_at_once(stage: str) -> None:
    """Cancelled while an engine is held inside that stage: nothing waits for the engine's end."""

    async def scene(world: World) -> None:
        world.hold.stage = stage
        leaving = [
            asyncio.create_task(world.text("english", diarize=SPEAKERS, client=f"c{n}"))
            for n in range(3)
        ]
        assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
        for _ in range(20):  # so that more of each gets queued behind it
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        done, pending = await asyncio.wait(leaving, timeout=PATIENCE)
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
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk space is freed with the last reference, not when the garbage collector runs."""
    monkeypatch.setattr(lane_worker.logger, "disabled", True)  # pytest keeps what is logged
    monkeypatch.setattr(run_registry.logger, "disabled", True)
    name = "poisoned" if ending == "fails" else "english"

    async def scene(world: World) -> None:
        blobs = create_autospec(DiskBlobStore, instance=True)
        remembering = RunRegistry(world.runner, blobs, retry_window=600)
        request = world.request(name, source=Upload(id=name, digest=name))

        async def watch() -> None:
            async with remembering.join(request) as run:
                await run.result()

        gc.disable()
        try:
            world.hold.stage = "transcribe"
            watching = asyncio.create_task(watch())
            assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
            if ending == "is withdrawn":
                watching.cancel()
                await asyncio.wait([watching])
            world.hold.go.set()
            await asyncio.wait([watching])
            await world.let_go()
        finally:
            gc.enable()

    play(scene)


@pytest.mark.parametrize("place", ["stitch", "Labeller"])
def test_a_failure_is_logged_with_the_line_where_it_happened(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(pipeline, place, broken)

    async def scene(world: World) -> None:
        request = world.request("german", diarize=DiarizeOptions())
        blobs = create_autospec(DiskBlobStore, instance=True)
        async with RunRegistry(world.runner, blobs, retry_window=600).join(request) as run:
            with pytest.raises((KeyError, TranscriptionFailed)):
                await run.result()

    play(scene)
    line = broken.__code__.co_firstlineno + 1
    assert f'{__file__}", line {line}, in broken' in caplog.text


def test_short_recordings_are_diarized_between_the_steps_of_long_ones() -> None:
    closed = threading.Event()

    class Endless(Diarizer):
        def diarize(
            self, clip: AudioClip, options: DiarizeOptions
        ) -> Generator[float, None, Diarization]:
            if options.num_speakers != 2:
                return (yield from super().diarize(clip, options))
            try:
                while True:
                    yield 0.25
            finally:
                closed.set()

    async def scene(world: World) -> None:
        world.engines |= {"diarization": Endless}
        parts: asyncio.Queue[float] = asyncio.Queue()

        async def emit(event: Event) -> None:
            if isinstance(event, PartDiarized):
                parts.put_nowait(event.part)

        request = world.request("dialogue", diarize=DiarizeOptions(num_speakers=2))
        long = asyncio.create_task(world.runner.diarize(request, emit))
        assert await parts.get() == 0.25
        short = await world.runner.diarize(world.request("dialogue"), unwatched)
        assert {turn.speaker for turn in short.turns} == {"SPEAKER_00", "SPEAKER_01"}
        assert not long.done()
        long.cancel()
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        world.assert_nothing_left()

    play(scene)


def test_the_time_limit_withdraws_the_run() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        with pytest.raises(Unavailable, match=r"longer than 0\.3 s"):
            await world.text("english")
        world.assert_nothing_left()
        request = world.request("dialogue", diarize=DiarizeOptions())
        world.hold.stage = "diarize"
        with pytest.raises(Unavailable, match=r"longer than 0\.3 s"):
            await world.runner.diarize(request, unwatched)
        world.assert_nothing_left()

    play(scene, timeout=0.3)


def test_a_poisoned_window_fails_its_own_request_only() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        names = ["english", "poisoned", "french"] * 3
        tasks = [asyncio.create_task(world.text(name)) for name in names]
        assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
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


def test_windows_of_a_checkpoint_are_not_computed_again() -> None:
    async def scene(world: World) -> None:
        checkpoint = Checkpoint()
        one_by_one = {"batch_size": 1, "align": AlignMode.OFF}
        with pytest.raises(TranscriptionFailed):
            await world.run(world.request("poisoned", **one_by_one), checkpoint=checkpoint)
        await world.settled()  # the window in flight when the run failed is still computed
        known = len(checkpoint.windows)
        assert known > 0
        replaced = sentences("red door", "open tree", "find white", "bring bread")
        world.clips.recordings = {"poisoned": replaced}
        world.hold.calls.clear()
        request = world.request("poisoned", **one_by_one)
        transcript = await world.run(request, checkpoint=checkpoint)
        assert transcript.text == "red door. open tree. find white. bring bread."
        assert world.hold.calls.count("transcribe") == len(checkpoint.windows) - known

    play(scene)


def test_beyond_the_bound_nothing_is_even_decoded() -> None:
    async def scene(world: World) -> None:
        world.hold.stage = "transcribe"
        first = asyncio.create_task(world.text("english"))
        assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
        with pytest.raises(Overloaded) as refused:
            await world.text("german")
        assert refused.value.retry_after is not None
        assert world.clips.opened == 1
        world.hold.go.set()
        await first
        assert await world.text("german") == "rot tür."

    play(scene, limit=5)


def test_a_run_that_waits_for_room_is_decoded_once_and_in_turn() -> None:
    done: list[str] = []
    watching: list[list[str]] = []

    async def scene(world: World) -> None:
        async def waits(name: str) -> None:
            stages: list[str] = []
            watching.append(stages)
            await world.run(world.request(name, waits=True), into(stages))
            assert stages == ["open", "wait", "transcribe", "finish"]
            done.append(name)

        world.hold.stage = "transcribe"
        first = asyncio.create_task(world.text("english"))
        assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
        waiting = []
        for name in ("french", "german"):
            waiting.append(asyncio.create_task(waits(name)))
            await until(lambda: len(watching) == len(waiting) and watching[-1][-1:] == ["wait"])
        world.hold.go.set()
        await asyncio.gather(first, *waiting)
        assert done == ["french", "german"]
        assert world.clips.opened == 3
        world.assert_nothing_left()

    play(scene, limit=5, timeout=30)


def test_few_jobs_of_a_client_wait_with_their_audio_on_disk() -> None:
    async def scene(world: World) -> None:
        async def job(client: str) -> None:
            await world.run(world.request("german", waits=True, client=client))

        world.hold.stage = "transcribe"
        first = asyncio.create_task(world.text("english"))
        assert await asyncio.to_thread(world.hold.entered.wait, PATIENCE)
        jobs = [asyncio.create_task(job(client)) for client in ("ann", "ann", "ann", "bob")]
        await until(lambda: world.clips.opened == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.clips.opened == 3  # english, one of Ann's, and Bob's
        jobs[0].cancel()
        await until(lambda: world.clips.opened == 4)
        world.hold.go.set()
        await asyncio.gather(first, *jobs[1:])
        assert world.clips.opened == 5
        world.assert_nothing_left()

    play(scene, limit=5, opening=1)


@pytest.mark.parametrize(
    ("recording", "fault"),
    [("blip", "it must last 2 to 10 s"), ("silent", "it contains no speech")],
)
def test_a_bad_voice_sample_is_refused_before_the_long_work(recording: str, fault: str) -> None:
    async def scene(world: World) -> None:
        world.clips.recordings = {**RECORDINGS, "blip": say("rot", language="de")}
        speakers = (known_as("Ann", "reference"), known_as("Bo", recording))
        with pytest.raises(InvalidRequest, match=f"'Bo': {fault}") as refused:
            await world.text("english", diarize=DiarizeOptions(known_speakers=speakers))
        assert refused.value.param == "known_speaker_references[]"
        assert "diarize" not in world.hold.calls
        if recording == "blip":  # its length is known before the recording is even opened
            assert world.clips.opened == 2
        world.assert_nothing_left()

    play(scene)


@pytest.mark.parametrize(
    ("suppress", "certainty", "said"),
    [
        (True, 1.0, "red forty-two door."),
        (False, 1.0, "red 42 door."),
        (True, 0.0, "red 42 door."),  # in no language that the engine could tell
    ],
)
def test_numbers_are_spelled_for_engines_that_write_digits(
    suppress: bool, certainty: float, said: str
) -> None:
    class Digits(Transcriber):
        def transcribe(
            self,
            windows: Sequence[Window],
            options: Sequence[DecodeOptions],
            features: Sequence[object | None],
        ) -> list[WindowTranscript]:
            return [
                replace(
                    answer,
                    language_probability=certainty,
                    segments=tuple(
                        replace(segment, text=segment.text.replace("tree", "42"))
                        for segment in answer.segments
                    ),
                )
                for answer in super().transcribe(windows, options, features)
            ]

    async def scene(world: World) -> None:
        world.clips.recordings = {"number": sentences("red tree door")}
        world.engines["transcription"] = Digits
        decode = DecodeOptions(language="en", suppress_numerals=suppress)
        assert await world.text("number", decode=decode, align=AlignMode.OFF) == said

    play(scene)


HOURS = 12
WINDOWS = 1728
TURNS = 9132


def twelve_hours() -> tuple[Checkpoint, Diarization]:
    """What was heard in 12 h of talk between four people: 60 words in each window of 25 s."""
    windows = {}
    for index in range(WINDOWS):
        start = 25.0 * index
        words = tuple(
            Word(
                text="word" if k % 20 else "Word.", start=start + 0.4 * k, end=start + 0.4 * k + 0.3
            )
            for k in range(60)
        )
        text = " ".join(word.text for word in words)
        segment = Segment(start=start, end=start + 24, text=text, language="en", words=words)
        windows[index] = WindowTranscript(
            window_index=index, language="en", language_probability=1.0, segments=(segment,)
        )
    step = HOURS * 3600 / TURNS
    turns = tuple(
        SpeakerTurn(start=step * k, end=step * (k + 1), speaker=f"SPEAKER_{k % 4:02d}")
        for k in range(TURNS)
    )
    return Checkpoint(windows=windows), Diarization(turns=turns, exclusive=turns)


@pytest.mark.usefixtures("without_collector")
def test_speakers_of_twelve_hours_are_labelled_once_and_not_on_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The speakers become known last, when every window waits for them."""
    checkpoint, diarization = twelve_hours()
    labellers: list[Labeller] = []
    labelled: list[Segment] = []

    class Counted(Labeller):
        def __init__(self, turns: Iterable[SpeakerTurn]) -> None:
            super().__init__(turns)
            labellers.append(self)

        def label(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
            labelled.extend(segments := tuple(segments))
            return super().label(segments)

    class Regions(VoiceDetector):
        under_way = None

        def start(self, options: VadOptions) -> Detection:
            return self

        def push(self, samples: Samples) -> Sequence[SpeechRegion]:
            return []

        def finish(self) -> Sequence[SpeechRegion]:
            return [SpeechRegion(start=25.0 * k, end=25.0 * k + 24.9) for k in range(WINDOWS)]

    class Turns(Diarizer):
        def diarize(
            self, clip: AudioClip, options: DiarizeOptions
        ) -> Generator[float, None, Diarization]:
            self._hold("diarize")
            yield 0.5
            return diarization

    async def longest_callback(longest: list[float]) -> None:
        """CPU seconds of the loop's thread between two turns of this task, which asks for one
        every 10 ms: what other processes use of the machine does not count."""
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.01)
            longest[0] = max(longest[0], time.thread_time() - before)

    async def scene(world: World) -> None:
        world.clips.recordings = {"long": np.zeros(HOURS * 36000, np.float32)}
        world.clips.sample_rate = 10
        world.engines |= {"vad": Regions, "diarization": Turns}
        world.hold.stage = "diarize"
        monkeypatch.setattr(pipeline, "Labeller", Counted)
        windows_done = 0
        segments: list[Segment] = []

        async def emit(event: Event) -> None:
            nonlocal windows_done
            if isinstance(event, WindowDone):
                windows_done += 1
                if windows_done == WINDOWS:
                    world.hold.go.set()
            elif isinstance(event, SegmentsLabelled):
                assert windows_done == WINDOWS
                segments.extend(event.segments)

        longest = [0.0]
        watching = asyncio.create_task(longest_callback(longest))
        request = world.request(
            "long", decode=DecodeOptions(language="en"), diarize=DiarizeOptions(), chunk_size=25
        )
        transcript = await world.run(request, emit, checkpoint)
        watching.cancel()
        assert longest[0] < 0.2
        assert len(labellers) == 1
        assert len(labelled) == WINDOWS
        assert tuple(segments) == transcript.segments
        assert len(transcript.words) == 60 * WINDOWS
        assert {word.speaker for word in transcript.words} == {f"SPEAKER_{k:02d}" for k in range(4)}

    play(scene)


def test_windows_are_heard_in_order_as_they_are_done() -> None:
    async def scene(world: World) -> None:
        stages: list[str] = []
        reached: list[float] = []
        await world.run(world.request("english", diarize=SPEAKERS), into(stages, reached))
        assert len(reached) > 5
        assert reached == sorted(reached)
        assert stages == ["open", "transcribe", "diarize", "finish"]

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


class TellsSilence(Transcriber):
    """Finds out by itself that nobody speaks."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, tells_silence=True)


@pytest.mark.parametrize("found", ["nothing", "doubtful speech"])
def test_doubtful_speech_is_for_transcribers_that_tell_silence(found: str) -> None:
    class Doubts(HeldDetection):
        def push(self, samples: Samples) -> Sequence[SpeechRegion]:
            regions = super().push(samples) if found == "doubtful speech" else []
            return [replace(region, probability=0.1) for region in regions]

        def finish(self) -> Sequence[SpeechRegion]:
            return []

    class Detector(FakeVoiceDetector):
        def __init__(self, hold: Hold) -> None:
            self._hold = hold

        def start(self, options: VadOptions) -> Detection:
            return Doubts(super().start(options), self._hold)

    async def scene(world: World) -> None:
        world.engines["vad"] = Detector
        assert await world.text("english") == ""

    async def telling(world: World) -> None:
        world.engines["vad"] = Detector
        world.engines["transcription"] = TellsSilence
        assert "red door" in await world.text("english")
        assert await world.text("silent") == ""

    play(scene)
    play(telling)


def deaf_after(count: int) -> type[FakeVoiceDetector]:
    """A voice detector that finds the first regions of a recording only."""

    class Deaf(HeldDetection):
        def __init__(self, detection: Detection, hold: Hold) -> None:
            super().__init__(detection, hold)
            self._left = count

        def push(self, samples: Samples) -> Sequence[SpeechRegion]:
            found = super().push(samples)[: self._left]
            self._left -= len(found)
            return found

        def finish(self) -> Sequence[SpeechRegion]:
            return []

    class Detector(FakeVoiceDetector):
        def __init__(self, hold: Hold) -> None:
            self._hold = hold

        def start(self, options: VadOptions) -> Detection:
            return Deaf(super().start(options), self._hold)

    return Detector


@pytest.mark.parametrize(("detected", "words"), [(0, 24), (1, 24), (4, 8)])
def test_where_little_speech_is_detected_the_rest_is_transcribed_too(
    detected: int, words: int
) -> None:
    """The recording has twelve sentences of two words; one of them is less than a thirtieth."""

    async def scene(world: World) -> None:
        world.engines["vad"] = deaf_after(detected)
        world.engines["transcription"] = TellsSilence
        transcript = await world.run(world.request("english"))
        said = "red door. open tree. find water. bring bread. " * 3
        assert transcript.text.split() == said.split()[:words]
        assert transcript.warnings == ()

    play(scene)


def test_an_answer_says_that_undetected_sound_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "MOST_UNDETECTED", 5.0)

    async def scene(world: World) -> None:
        world.engines["transcription"] = TellsSilence
        world.engines["vad"] = deaf_after(1)
        transcript = await world.run(world.request("english"))
        assert transcript.text.startswith("red door.")
        assert 2 < len(transcript.text.split()) < 12
        assert transcript.warnings == (pipeline.LEFT_OUT,)

    play(scene)
