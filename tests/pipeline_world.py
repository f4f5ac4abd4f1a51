"""A pipeline on the fake engines, every one of which can be held."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from support import PATIENCE
from whisperx_api_server.audio.sources import SourceOpener
from whisperx_api_server.backends import ModelKey
from whisperx_api_server.backends.base import AlignItem, Detection, ModelSpec
from whisperx_api_server.backends.fake import (
    FakeAligner,
    FakeDiarizer,
    FakeTranscriber,
    FakeVoiceDetector,
    say,
    silence,
)
from whisperx_api_server.catalog import Catalog
from whisperx_api_server.domain import (
    SAMPLE_RATE,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    KnownSpeaker,
    Samples,
    Segment,
    Source,
    SpeechRegion,
    Transcript,
    TranscriptionRequest,
    Upload,
    VadOptions,
    Window,
    WindowTranscript,
)
from whisperx_api_server.errors import ServiceError
from whisperx_api_server.jobs.admission import AdmissionControl, AdmittedRunner
from whisperx_api_server.pipeline.events import Emit, Event
from whisperx_api_server.pipeline.pipeline import Pipeline
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.scheduling.model_pool import ModelPool, PoolSettings, SchedulerSettings

POISON = "black"
"""A window in which this is said makes the transcriber fail."""


class Hold:
    """Stops the engines at one stage until it is let go."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.entered = threading.Event()
        self.go = threading.Event()
        self.calls: list[str] = []
        self.decoded: list[DecodeOptions] = []
        """How each window was decoded."""

    def __call__(self, stage: str) -> None:
        self.calls.append(stage)
        if stage == self.stage:
            self.entered.set()
            assert self.go.wait(PATIENCE)


class Transcriber(FakeTranscriber):
    def __init__(self, hold: Hold) -> None:
        super().__init__()
        self._hold = hold

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        self._hold("transcribe")
        self._hold.decoded += options
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

    def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> Generator[float, None, Diarization]:
        self._hold("diarize")
        return (yield from super().diarize(clip, options))

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        self._hold("embed")
        return super().embed(clips)


class VoiceDetector(FakeVoiceDetector):
    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def start(self, options: VadOptions) -> Detection:
        return HeldDetection(super().start(options), self._hold)


class HeldDetection:
    def __init__(self, detection: Detection, hold: Hold) -> None:
        self._detection = detection
        self._hold = hold

    @property
    def under_way(self) -> SpeechRegion | None:
        return self._detection.under_way

    def push(self, samples: Samples) -> Sequence[SpeechRegion]:
        self._hold("vad")
        return self._detection.push(samples)

    def finish(self) -> Sequence[SpeechRegion]:
        return self._detection.finish()


class Clips(SourceOpener):
    """Recordings by name, without files; `last` is what was opened last, if it is still there."""

    def __init__(self, recordings: Mapping[str, Samples], hold: Hold) -> None:
        self.recordings = recordings
        self.sample_rate = SAMPLE_RATE
        self.opened = 0
        self.open_now = 0
        self.last: weakref.ref[Samples] | None = None
        self._hold = hold

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        assert isinstance(source, Upload)
        self.opened += 1
        self.open_now += 1
        try:
            await asyncio.to_thread(self._hold, "decode")
            samples = self.recordings[source.id].copy()
            self.last = weakref.ref(samples)
            clip = AudioClip(samples=samples, sample_rate=self.sample_rate)
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


async def unwatched(event: Event) -> None:
    """Take an event that nothing looks at."""


class World:
    """A pipeline on the fake engines, every one of which can be held."""

    clips_type: type[Clips] = Clips

    def __init__(
        self,
        *,
        limit: float = 1e9,
        timeout: float = 0.0,
        opening: int = 100,
        gpus: Sequence[int] = (),
    ) -> None:
        self.hold = Hold()
        self.engines: dict[str, Callable[[Hold], object]] = {
            "transcription": Transcriber,
            "alignment": Aligner,
            "diarization": Diarizer,
            "vad": VoiceDetector,
        }
        self.failures: dict[str, ServiceError] = {}
        """Why the models of a stage cannot be loaded."""
        self.clips = self.clips_type(RECORDINGS, self.hold)
        self.admission = AdmissionControl(limit)
        self.loads: list[tuple[str, str]] = []
        """The stage and the device of each model that was loaded."""
        self.pool = ModelPool(
            PoolSettings(),
            SchedulerSettings(),
            gpus=gpus,
            load=self._load,
            import_vendors=lambda _: None,
        )
        spec = ModelSpec(name="small", device="cuda" if gpus else "cpu")
        self.catalog = Catalog(
            transcription="fake",
            alignment="fake",
            diarization="fake",
            voice_detection="fake",
            transcribers={"fake": spec},
            shared=spec,
            diarizer_spec=spec,
        )
        pipeline = Pipeline(opener=self.clips, pool=self.pool, catalog=self.catalog, chunk_size=2.5)
        self.runner = AdmittedRunner(pipeline, self.admission, timeout=timeout, opening=opening)
        self._count = 0

    def _load(self, key: ModelKey) -> object:
        self.loads.append((key.stage, key.spec.torch_device))
        self.hold(f"load {key.stage}")
        if key.stage in self.failures:
            raise self.failures[key.stage]
        return self.engines[key.stage](self.hold)

    def request(self, name: str, **changes: Any) -> TranscriptionRequest:
        self._count += 1
        source = Upload(id=name)
        request = TranscriptionRequest(id=f"r{self._count}", source=source, model="small")
        return replace(request, **changes)

    async def run(
        self,
        request: TranscriptionRequest,
        emit: Emit = unwatched,
        checkpoint: Checkpoint | None = None,
    ) -> Transcript:
        return await self.runner.run(request, emit, checkpoint or Checkpoint())

    async def text(self, name: str, **changes: Any) -> str:
        transcript = await self.run(self.request(name, **changes))
        return transcript.text

    def assert_nothing_left(self) -> None:
        for status in self.pool.statuses():
            assert (status.waiting, status.leases) == (0, 0), status
        assert self.admission.seconds == 0
        assert self.clips.open_now == 0

    async def let_go(self) -> None:
        """The last recording is in nobody's memory."""
        last = self.clips.last
        assert last is not None
        deadline = time.monotonic() + PATIENCE
        while last() is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """All lanes idle."""
        deadline = time.monotonic() + PATIENCE
        while any(status.lane.in_flight for status in self.pool.statuses()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)


def play(scene: Callable[[World], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def run() -> None:
        world = World(**settings)
        try:
            async with asyncio.timeout(PATIENCE):
                await scene(world)
        finally:
            world.hold.go.set()
            await world.pool.close()

    asyncio.run(run())


def known_as(name: str, recording: str) -> KnownSpeaker:
    return KnownSpeaker(name=name, reference=Upload(id=recording))
