"""Runs the stages of a transcription in order: decode, detect speech, transcribe, align, diarize.

A recording is opened; its speech is found and cut into windows; each window is transcribed, then
aligned, in batches with windows of other requests; diarization runs in parallel; the results are
stitched in order. Nothing is computed here: every stage runs on its model's lane.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from ..audio.sources import SourceOpener
from ..backends.base import Capabilities
from ..catalog import Catalog
from ..domain import (
    AlignMode,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Transcript,
    TranscriptionRequest,
    Window,
    WindowTranscript,
)
from ..errors import InvalidRequest, error_for_client
from ..scheduling.model_pool import ModelPool
from ..transcript.speakers import Labeller, match_known, rename
from .chunking import (
    MOST_UNDETECTED,
    Splitter,
    finish_window,
    stitch,
    undetected_windows,
    without_words,
)
from .events import Emit, Opened, PartDiarized, SegmentsLabelled, Stage, StageBegan, WindowDone
from .language_vote import VotingTranscriber, language_probabilities
from .runner import Checkpoint
from .speaker_samples import embed_samples, open_samples
from .stages import Engines
from .supported import SILENCE_LANGUAGE, check_options
from .word_timing import Aligners, transcribe_timed

LITTLE_SPEECH = 10.0
"""Seconds of detected speech that are little in a long recording."""

LITTLE_SHARE = 1 / 30
"""Share of detected speech that is little."""

LEFT_OUT = (
    "little speech was detected: of the other sound, only the loudest "
    f"{MOST_UNDETECTED:g} s were transcribed"
)


class Pipeline:
    """The runner that computes in this process, on one event loop.

    `chunk_size` is the default maximum window in seconds.
    """

    def __init__(
        self, *, opener: SourceOpener, pool: ModelPool, catalog: Catalog, chunk_size: float
    ) -> None:
        self._opener = opener
        self._pool = pool
        self._catalog = catalog
        self._aligners = Aligners(catalog, pool)
        self._chunk_size = chunk_size

    async def run(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Transcript:
        with self._transcription(request, emit, checkpoint) as transcription:
            try:
                return await transcription.run()
            except BaseExceptionGroup as group:
                error = error_for_client(group)
                # The cause is the vendor's error, for the log.
                raise error from error.__cause__ or group

    async def diarize(self, request: TranscriptionRequest, emit: Emit) -> Diarization:
        with self._transcription(request, emit, Checkpoint()) as transcription:
            async with transcription.opened() as clip:
                return await transcription.diarize(clip, request.diarize or DiarizeOptions(), {})

    async def detect_language(
        self, request: TranscriptionRequest, emit: Emit
    ) -> Mapping[str, float]:
        """See `Runner.detect_language`.

        Raises:
            InvalidRequest: the model does not detect languages.
        """
        with self._transcription(request, emit, Checkpoint()) as transcription:
            async with transcription.opened() as clip:
                return await transcription.detect_language(clip)

    @contextmanager
    def _transcription(
        self, request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
    ) -> Iterator[_Transcription]:
        """Yield a request's transcription; nothing of it waits on a lane afterwards."""
        try:
            yield _Transcription(
                request=request,
                emit=emit,
                checkpoint=checkpoint,
                engines=Engines(self._pool, self._catalog, request),
                aligners=self._aligners,
                opener=self._opener,
                chunk_size=request.chunk_size or self._chunk_size,
            )
        finally:
            self._pool.cancel(request.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Transcription:
    """One request under way."""

    request: TranscriptionRequest
    emit: Emit
    checkpoint: Checkpoint
    engines: Engines
    aligners: Aligners
    opener: SourceOpener
    chunk_size: float
    warnings: list[str] = field(default_factory=list)

    async def run(self) -> Transcript:
        self.engines.check_request()
        decode, diarize = self.request.decode, self.request.diarize
        if self.request.align is AlignMode.FORCED and decode.task == "transcribe":
            await self.aligners.require(self.engines.foreseen_language())
        known = diarize.known_speakers if diarize and not self.checkpoint.diarization else ()
        async with open_samples(known, self.opener) as samples, self.opened() as clip:
            done: asyncio.Queue[WindowTranscript | None] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._transcribe(clip, group, done))
                windows = group.create_task(self._windows_with_speakers(done, clip, samples))
            await self._begin("finish")
            return await asyncio.to_thread(self._stitched, windows.result(), clip.duration)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AudioClip]:
        """Decode the recording."""
        await self._begin("open")
        async with self.opener.open(self.request.source) as clip:
            await self.emit(Opened(duration=clip.duration))
            yield clip

    async def _begin(self, stage: Stage) -> None:
        await self.emit(StageBegan(stage=stage, at=time.time()))

    def _stitched(self, windows: Sequence[WindowTranscript], duration: float) -> Transcript:
        decode, diarize = self.request.decode, self.request.diarize
        transcript = stitch(
            windows,
            task=decode.task,
            duration=duration,
            default_language=decode.language or SILENCE_LANGUAGE,
        )
        transcript = replace(transcript, warnings=(*transcript.warnings, *self.warnings))
        diarization = self.checkpoint.diarization
        if diarization is None or diarize is None or not diarize.embeddings:
            return transcript
        return replace(transcript, speaker_embeddings=diarization.embeddings)

    # -- transcription ------------------------------------------------------------------------

    async def _transcribe(
        self,
        clip: AudioClip,
        group: asyncio.TaskGroup,
        done: asyncio.Queue[WindowTranscript | None],
    ) -> None:
        """Transcribe each window in a task of `group`; put the results in order, then None."""
        await self._begin("transcribe")
        async with self.engines.transcriber() as engine:
            options = check_options(self.request.model, self.request.decode, engine.capabilities)
            transcriber = VotingTranscriber(engine)
            ordered: asyncio.Queue[tuple[Window, asyncio.Task[WindowTranscript]] | None]
            ordered = asyncio.Queue()

            async def produce() -> None:
                count = 0
                little = min(LITTLE_SPEECH, LITTLE_SHARE * clip.duration)
                async with aclosing(self._windows(clip, engine.capabilities, little)) as windows:
                    async for window in windows:
                        count += 1
                        work = self._window(window, options, transcriber)
                        ordered.put_nowait((window, group.create_task(work)))
                await transcriber.close(count)
                ordered.put_nowait(None)

            group.create_task(produce())
            while (item := await ordered.get()) is not None:
                window, task = item
                transcript = await task
                await self.emit(WindowDone(transcript=transcript, until=window.end))
                done.put_nowait(transcript)
        done.put_nowait(None)

    async def _windows(
        self, clip: AudioClip, capabilities: Capabilities, little: float = 0.0
    ) -> AsyncGenerator[Window, None]:
        """Yield the windows for the transcriber.

        A transcriber that recognises silence also gets windows with doubtful speech, and, where
        less than `little` seconds of speech are detected, the loudest windows of the rest.
        """
        limit = min(self.chunk_size, capabilities.max_window)
        little = little if capabilities.tells_silence else 0.0
        count, speech = 0, 0.0
        held: list[Window] = []
        async with aclosing(self._windows_with_speech(clip, limit)) as windows:
            async for window in windows:
                if not capabilities.accepts(window):
                    continue
                held.append(window)
                speech += window.speech_seconds
                if speech >= little:
                    for each in held:
                        yield replace(each, index=count)
                        count += 1
                    held.clear()
        if capabilities.tells_silence and not count:
            undetected, more = await asyncio.to_thread(
                undetected_windows, clip, held, request_id=self.request.id, max_window=limit
            )
            if more:
                self.warnings.append(LEFT_OUT)
            held = sorted([*held, *undetected], key=lambda window: window.start)
        for each in held:
            yield replace(each, index=count)
            count += 1

    async def _windows_with_speech(
        self, clip: AudioClip, limit: float
    ) -> AsyncGenerator[Window, None]:
        splitter = Splitter(clip, request_id=self.request.id, max_window=limit)
        async with (
            self.engines.voice_detector() as detector,
            aclosing(detector.regions(clip, self.request.vad)) as blocks,
        ):
            async for regions in blocks:
                for window in splitter.push(regions):
                    yield window
        for window in splitter.flush():
            yield window

    async def detect_language(self, clip: AudioClip) -> Mapping[str, float]:
        async with self.engines.transcriber() as engine:
            if not engine.capabilities.detects_language:
                raise InvalidRequest(
                    f"the model {self.request.model} does not detect languages", param="model"
                )
            async with aclosing(self._windows(clip, engine.capabilities)) as windows:
                return await language_probabilities(windows, engine)

    async def _window(
        self, window: Window, options: DecodeOptions, transcriber: VotingTranscriber
    ) -> WindowTranscript:
        """Transcribe a window, with word times if requested."""
        known = self.checkpoint.windows.get(window.index)
        if known is not None:
            await transcriber.vote(known)
            return known
        transcript = await transcribe_timed(
            window,
            options,
            transcriber,
            mode=self.request.align,
            engines=self.engines,
            aligners=self.aligners,
        )
        finished = finish_window(transcript, window, options.task)
        if self.request.align is AlignMode.SEGMENTS:
            finished = without_words(finished)
        self.checkpoint.windows[window.index] = finished
        return finished

    # -- diarization --------------------------------------------------------------------------

    async def _windows_with_speakers(
        self,
        done: asyncio.Queue[WindowTranscript | None],
        clip: AudioClip,
        samples: Mapping[str, AudioClip],
    ) -> list[WindowTranscript]:
        """Return all windows in order, with speakers if requested."""
        labeller = None
        if self.request.diarize is not None:
            diarization = await self.diarize(clip, self.request.diarize, samples)
            labeller = Labeller(diarization.exclusive)
        finished: list[WindowTranscript] = []
        while batch := await _all_waiting(done):
            if labeller is not None:
                batch = await asyncio.to_thread(_labelled, batch, labeller)
                for transcript in batch:
                    await self.emit(SegmentsLabelled(segments=transcript.segments))
            finished += batch
        return finished

    async def diarize(
        self, clip: AudioClip, options: DiarizeOptions, samples: Mapping[str, AudioClip]
    ) -> Diarization:
        """Return who spoke when; speakers with a voice sample get their name."""
        if self.checkpoint.diarization is None:
            await self._begin("diarize")
            async with self.engines.diarizer() as engine:
                voices = await embed_samples(samples, engine)
                diarization = await engine.diarize(clip, options, self._report_diarized)
                names = match_known(diarization.embeddings, voices, engine.match_threshold)
            self.checkpoint.diarization = rename(diarization, names)
        return self.checkpoint.diarization

    async def _report_diarized(self, part: float) -> None:
        await self.emit(PartDiarized(part=part))


async def _all_waiting(
    queue: asyncio.Queue[WindowTranscript | None],
) -> list[WindowTranscript]:
    """Return the next window and all others in the queue; empty after the last window."""
    batch = [await queue.get()]
    while batch[-1] is not None and not queue.empty():
        batch.append(queue.get_nowait())
    if batch[-1] is None and len(batch) > 1:
        queue.put_nowait(None)  # for the next call
    return [window for window in batch if window is not None]


def _labelled(windows: Sequence[WindowTranscript], labeller: Labeller) -> list[WindowTranscript]:
    return [replace(each, segments=labeller.label(each.segments)) for each in windows]
