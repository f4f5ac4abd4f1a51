"""Leases each stage's model for one request."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Hashable,
    Sequence,
)
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from ..backends.base import (
    Aligner,
    AlignItem,
    Capabilities,
    Detection,
    Diarizer,
    Transcriber,
    VoiceDetector,
)
from ..catalog import Catalog
from ..domain import (
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Samples,
    Segment,
    SpeechRegion,
    VadOptions,
    Window,
    WindowTranscript,
)
from ..scheduling.lane import Lane
from ..scheduling.lane_worker import LaneWorker
from ..scheduling.model_pool import ModelPool, until_loaded
from ..scheduling.work import Entry, Work
from ..transcript.numerals import spell_segment
from ..transcript.word_times import keep_in_speech
from .supported import check_options

M = TypeVar("M")
P = TypeVar("P")
R = TypeVar("R")

BLOCK_SECONDS = 30
"""Length of the blocks for voice activity detection, between which other recordings run."""


class EngineRequest(Protocol):
    """The fields that the stages read, of a recording's request or of a live session's."""

    @property
    def id(self) -> str: ...

    @property
    def client(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def decode(self) -> DecodeOptions: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def watched(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Decode:
    """A window, and how to decode it."""

    window: Window
    options: DecodeOptions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Block:
    """The next samples of a recording for voice activity detection."""

    detection: Detection
    samples: Samples
    last: bool

    def regions(self) -> Sequence[SpeechRegion]:
        """Push the samples, and return the regions that became final."""
        regions = self.detection.push(self.samples)
        return [*regions, *self.detection.finish()] if self.last else regions


_TRANSCRIBE: Work[Transcriber, _Decode, WindowTranscript] = Work(
    run=lambda model, batch, features: model.transcribe(
        [each.window for each in batch], [each.options for each in batch], features
    ),
    prepare=lambda model, each: model.features(each.window),
)
_ALIGN: Work[Aligner, AlignItem, Segment] = Work(run=lambda model, batch, _: model.align(batch))
_DIARIZE: Work[Diarizer, Generator[float, None, Diarization], float | Diarization] = Work(
    run=lambda _model, batch, _: [_next_step(steps) for steps in batch]
)
_EMBED: Work[Diarizer, AudioClip, tuple[float, ...] | None] = Work(
    run=lambda model, batch, _: model.embed(batch)
)
_DETECT_SPEECH: Work[VoiceDetector, _Block, Sequence[SpeechRegion]] = Work(
    run=lambda _model, batch, _: [block.regions() for block in batch]
)


def _next_step(steps: Generator[float, None, Diarization]) -> float | Diarization:
    """Compute one step of `Diarizer.diarize`: the part that is done, or the result."""
    try:
        return next(steps)
    except StopIteration as end:
        result: Diarization = end.value
        return result


@dataclass(frozen=True, slots=True)
class _Leased(Generic[M]):
    """A leased model, used for one request."""

    lane: Lane[M]
    request: EngineRequest

    async def model(self) -> M:
        """Return the model once it is loaded, also again after the threads of its lane died."""
        await until_loaded(self.lane)
        return self.lane.model

    def queue(
        self,
        work: Work[M, P, R],
        payload: P,
        *,
        key: Hashable = None,
        padded_seconds: float = 1.0,
        seconds: float = 0.0,
        repeated: bool = False,
        draft: bool = False,
        urgent: bool = False,
        worker: LaneWorker[M] | None = None,
    ) -> Future[R]:
        """Queue one payload on the lane; with a worker, for that one only."""
        entry = Entry(
            work=work,
            payload=payload,
            client=self.request.client,
            request_id=self.request.id,
            key=key,
            padded_seconds=padded_seconds,
            seconds=seconds,
            max_batch=self.request.batch_size,
            watched=self.request.watched,
            repeated=repeated,
            draft=draft,
            urgent=urgent,
            worker=worker,
        )
        return self.lane.submit(entry)


@dataclass(frozen=True, slots=True)
class Transcribing(_Leased[Transcriber]):
    """A leased transcriber, and its capabilities."""

    capabilities: Capabilities

    @property
    def waits(self) -> bool:
        """Whether a window of the request is in the queue, and is not being decoded."""
        return self.lane.waits(self.request.client, self.request.id)

    async def transcribe(
        self,
        window: Window,
        options: DecodeOptions,
        *,
        repeated: bool = False,
        urgent: bool = False,
    ) -> WindowTranscript:
        """Decode one window; `repeated`: it was decoded before, so it goes first.

        `urgent`: a speaker waits for it, so drafts wait for it too.
        """
        model = await self.model()
        transcript = await asyncio.wrap_future(
            self.queue(
                _TRANSCRIBE,
                _Decode(window=window, options=options),
                key=model.batch_key(options),
                padded_seconds=self._padded_seconds(window),
                seconds=window.end - window.start,
                repeated=repeated,
                draft=options.draft,
                urgent=urgent,
            )
        )
        if options.suppress_numerals and not self.capabilities.spells_numerals:
            return await asyncio.to_thread(_spelled, transcript)
        return transcript

    def _padded_seconds(self, window: Window) -> float:
        return self.capabilities.padded_to or window.end - window.start


def _spelled(transcript: WindowTranscript) -> WindowTranscript:
    """Spell out the numerals if the language is known."""
    if not transcript.language_probability:
        return transcript
    return replace(
        transcript,
        segments=tuple(
            spell_segment(segment, segment.language or transcript.language)
            for segment in transcript.segments
        ),
    )


class VoiceDetecting(_Leased[VoiceDetector]):
    """A leased voice activity detector."""

    async def regions(
        self, clip: AudioClip, options: VadOptions
    ) -> AsyncGenerator[Sequence[SpeechRegion], None]:
        """Yield speech regions in order, as they become final."""
        detection = await self.start(options)
        count, size = len(clip.samples), BLOCK_SECONDS * clip.sample_rate
        for first in range(0, count, size):
            block = clip.samples[first : first + size]
            yield await self.push(detection, block, last=first + size >= count)

    async def start(self, options: VadOptions) -> Detection:
        """Start on a recording, whose samples come with `push`."""
        return (await self.model()).start(options)

    async def push(
        self, detection: Detection, samples: Samples, *, last: bool = False
    ) -> Sequence[SpeechRegion]:
        """The regions that become final with the next samples of a recording."""
        return await asyncio.wrap_future(
            self.queue(_DETECT_SPEECH, _Block(detection=detection, samples=samples, last=last))
        )


class Aligning(_Leased[Aligner]):
    """A leased aligner."""

    async def align(self, segment: Segment, window: Window, language: str) -> Segment:
        """Return a segment with words, whose times are inside the window's speech."""
        item = AlignItem(
            segment=segment, samples=window.samples, offset=window.start, language=language
        )
        aligned = await asyncio.wrap_future(
            self.queue(_ALIGN, item, padded_seconds=segment.end - segment.start)
        )
        words = aligned.words and keep_in_speech(aligned.words, window.regions, anchor=0)
        return replace(aligned, words=words)


class Diarizing(_Leased[Diarizer]):
    """A leased diarizer."""

    @property
    def match_threshold(self) -> float:
        """Cosine similarity above which two voices are the same."""
        return self.lane.model.match_threshold

    async def diarize(
        self,
        clip: AudioClip,
        options: DiarizeOptions,
        report: Callable[[float], Awaitable[None]],
    ) -> Diarization:
        """Return who spoke when in a clip; reports the part in [0, 1] that is done after each step.

        The steps of several recordings take turns on the lane.
        """
        await until_loaded(self.lane)
        worker, model = self.lane.next_worker()
        steps = model.diarize(clip, options)
        step = self.queue(_DIARIZE, steps, worker=worker)
        try:
            while isinstance(done := await asyncio.wrap_future(step), float):
                await report(done)
                step = self.queue(_DIARIZE, steps, worker=worker)
        finally:
            step.add_done_callback(lambda _: steps.close())  # once the lane does not compute it
        await report(1.0)
        return done

    async def embed(self, clip: AudioClip) -> tuple[float, ...] | None:
        """Return the embedding of the voice in a clip; None without speech."""
        return await asyncio.wrap_future(self.queue(_EMBED, clip, padded_seconds=clip.duration))


class Engines:
    """Leases the models that one request needs.

    Each method raises ServiceError if its model cannot be loaded.
    """

    def __init__(self, pool: ModelPool, catalog: Catalog, request: EngineRequest) -> None:
        self._pool = pool
        self._catalog = catalog
        self._request = request

    def check_request(self) -> None:
        """Check the options against the capabilities that are known without loading the model.

        Raises:
            ModelNotFound: there is no such model.
            InvalidRequest: the model does not support an option; names the field.
        """
        capabilities = self._known_capabilities()
        if capabilities is not None:
            check_options(self._request.model, self._request.decode, capabilities)

    def foreseen_language(self) -> str | None:
        """Return the language of all windows, as far as known without loading the model."""
        options, capabilities = self._request.decode, self._known_capabilities()
        candidates = {*options.languages} or (capabilities and capabilities.languages) or ()
        return options.language or (next(iter(candidates)) if len(candidates) == 1 else None)

    def _known_capabilities(self) -> Capabilities | None:
        return self._catalog.known_capabilities(self._catalog.transcriber(self._request.model))

    @asynccontextmanager
    async def transcriber(self) -> AsyncIterator[Transcribing]:
        """Lease the model that the request names."""
        async with self._pool.lease(self._catalog.transcriber(self._request.model)) as lane:
            yield Transcribing(lane, self._request, lane.model.capabilities)

    @asynccontextmanager
    async def voice_detector(self) -> AsyncIterator[VoiceDetecting]:
        """Lease the configured voice activity detector."""
        async with self._pool.lease(self._catalog.voice_detector()) as lane:
            yield VoiceDetecting(lane, self._request)

    @asynccontextmanager
    async def aligner(self, language: str) -> AsyncIterator[Aligning]:
        """Lease the aligner of a language that has one."""
        key = self._catalog.aligner(language)
        assert key is not None
        async with self._pool.lease(key) as lane:
            yield Aligning(lane, self._request)

    @asynccontextmanager
    async def diarizer(self) -> AsyncIterator[Diarizing]:
        """Lease the configured diarizer."""
        async with self._pool.lease(self._catalog.diarizer()) as lane:
            yield Diarizing(lane, self._request)
