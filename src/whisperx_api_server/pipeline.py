"""The only place where the order of the stages exists.

A recording is opened, speech is found and cut into windows; each window is transcribed, then
aligned, side by side with the windows of all other requests; diarization runs beside that; the
results are stitched back in order. Nothing here computes: every stage runs on its model's lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

from .backends.base import Capabilities
from .backlog import Backlog, Reservation
from .catalog import Catalog
from .chunking import Splitter, finish_window, loudest_window, stitch, without_words
from .domain import (
    AlignMode,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Source,
    Transcript,
    TranscriptionRequest,
    Window,
    WindowTranscript,
)
from .errors import InvalidRequest, Unavailable, error_to_tell
from .known_voices import embed_samples, open_samples
from .language_vote import VOTERS, language_probabilities, with_options
from .model_pool import ModelPool
from .sources import SourceOpener
from .speakers import Labeller, match_known, rename
from .stages import (
    UNDETERMINED,
    Checkpoint,
    Engines,
    Observer,
    Transcribing,
    check_options,
)
from .word_timing import Aligners, WordTiming


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineDefaults:
    """What a request leaves open: window length in seconds, time limit in seconds (0 is none)."""

    chunk_size: float = 30.0
    timeout: float = 0.0


class Pipeline:
    """Runs requests; any number at a time, on one event loop."""

    def __init__(
        self,
        *,
        opener: SourceOpener,
        pool: ModelPool,
        catalog: Catalog,
        backlog: Backlog,
        defaults: PipelineDefaults,
    ) -> None:
        self._opener = opener
        self._pool = pool
        self._catalog = catalog
        self._aligners = Aligners(catalog, pool)
        self._backlog = backlog
        self._defaults = defaults

    async def run(
        self,
        request: TranscriptionRequest,
        observer: Observer | None = None,
        checkpoint: Checkpoint | None = None,
        *,
        waits: bool = False,
    ) -> Transcript:
        """Transcribe one recording. Cancelling the call drops all that still waits for it.

        What `checkpoint` has of an earlier run of the same request is not computed again; what this
        run finds out is added to it. Where there is no room for it, a run that `waits` does so.

        Raises:
            Overloaded: there is no room, and it does not wait.
            ServiceError: what is wrong with the request, or which stage failed.
        """
        run = _Run(self, request, observer or Observer(), checkpoint or Checkpoint())
        async with self._bounded(request.id, waits=waits) as limit:
            try:
                return await run.transcribe(limit if waits else None)
            except BaseExceptionGroup as group:
                error = error_to_tell(group)
                # The vendor's own words are the cause, and are for the log.
                raise error from error.__cause__ or group

    async def diarize(self, request_id: str, client: str, source: Source) -> Diarization:
        """Tell the speakers of a recording apart, without a transcript."""
        request = TranscriptionRequest(
            id=request_id, client=client, source=source, model="", diarize=DiarizeOptions()
        )
        run = _Run(self, request, Observer(), Checkpoint())
        async with self._bounded(request_id), self._opener.open(source) as clip:
            with self._backlog.reserve(clip.duration):
                return await run.diarize(clip, DiarizeOptions(), {})

    async def detect_language(self, request: TranscriptionRequest) -> Mapping[str, float]:
        """The probability of each language in the first windows of speech; empty for silence.

        Raises:
            InvalidRequest: the model does not detect languages.
        """
        run = _Run(self, request, Observer(), Checkpoint())
        async with self._bounded(request.id), self._opener.open(request.source) as clip:
            with self._backlog.reserve(min(clip.duration, VOTERS * self._defaults.chunk_size)):
                return await run.detect_language(clip)

    @asynccontextmanager
    async def _bounded(
        self, request_id: str, *, waits: bool = False
    ) -> AsyncIterator[asyncio.Timeout]:
        """Bounds of admission and time; whatever happens, nothing of the request waits afterwards.

        Raises:
            Overloaded: there is no room, so nothing is fetched or decoded.
            Unavailable: time is up.
        """
        if not waits:
            self._backlog.check()
        try:
            async with asyncio.timeout(self._defaults.timeout or None) as limit:
                yield limit
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable(
                f"the request took longer than the {self._defaults.timeout:g} s that are allowed"
            ) from error
        finally:
            self._pool.cancel(request_id)


class _Run:
    """One request on its way."""

    def __init__(
        self,
        pipeline: Pipeline,
        request: TranscriptionRequest,
        observer: Observer,
        checkpoint: Checkpoint,
    ) -> None:
        self._engines = Engines(pipeline._pool, pipeline._catalog, request)
        self._aligners = pipeline._aligners
        self._opener = pipeline._opener
        self._backlog = pipeline._backlog
        self._chunk_size = request.chunk_size or pipeline._defaults.chunk_size
        self._request = request
        self._observer = observer
        self._checkpoint = checkpoint

    async def transcribe(self, suspended: asyncio.Timeout | None) -> Transcript:
        request, observer = self._request, self._observer
        self._engines.check_request()
        decode, diarize = request.decode, request.diarize
        if request.align is AlignMode.FORCED and decode.task == "transcribe":
            await self._aligners.require(decode.language)
        observer.stage("open")
        known = diarize.known_speakers if diarize and not self._checkpoint.diarization else ()
        async with (
            open_samples(known, self._opener) as samples,
            self._opener.open(request.source) as clip,
        ):
            observer.opened(clip.duration)
            with await self._admitted(clip.duration, suspended) as reservation:
                heard: asyncio.Queue[WindowTranscript | None] = asyncio.Queue()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._transcribe(clip, reservation, group, heard))
                    windows = group.create_task(self._windows_with_speakers(heard, clip, samples))
                observer.stage("finish")
                return await asyncio.to_thread(self._stitched, windows.result(), clip.duration)

    async def _admitted(self, seconds: float, suspended: asyncio.Timeout | None) -> Reservation:
        """Admit the recording; with a time limit to suspend, a run may wait for room meanwhile."""
        if suspended is None:
            return self._backlog.reserve(seconds)
        begun, end = asyncio.get_running_loop().time(), suspended.when()
        if self._backlog.must_wait(seconds):
            self._observer.stage("wait")
            suspended.reschedule(None)
        reservation = await self._backlog.wait(seconds)
        if end is not None:
            suspended.reschedule(end + asyncio.get_running_loop().time() - begun)
        return reservation

    def _stitched(self, windows: Sequence[WindowTranscript], duration: float) -> Transcript:
        decode, diarize = self._request.decode, self._request.diarize
        transcript = stitch(
            windows,
            task=decode.task,
            duration=duration,
            default_language=decode.language or UNDETERMINED,
        )
        diarization = self._checkpoint.diarization
        if diarization is None or diarize is None or not diarize.embeddings:
            return transcript
        return replace(transcript, speaker_embeddings=diarization.embeddings)

    # -- transcription ------------------------------------------------------------------------

    async def _transcribe(
        self,
        clip: AudioClip,
        reservation: Reservation,
        group: asyncio.TaskGroup,
        heard: asyncio.Queue[WindowTranscript | None],
    ) -> None:
        """Transcribe and time every window, each in a task of `group`; in order, then None."""
        self._observer.stage("transcribe")
        async with self._engines.transcriber() as engine:
            options = check_options(self._request, engine.capabilities)
            ordered: asyncio.Queue[tuple[Window, asyncio.Task[WindowTranscript]] | None]
            ordered = asyncio.Queue()

            async def produce() -> None:
                async with (
                    aclosing(self._windows(clip, engine.capabilities)) as windows,
                    aclosing(with_options(windows, engine, options)) as planned,
                ):
                    async for window, planned_options in planned:
                        work = self._window(window, planned_options, engine)
                        ordered.put_nowait((window, group.create_task(work)))
                ordered.put_nowait(None)

            resumed = frozenset(self._checkpoint.windows)
            group.create_task(produce())
            reached = 0.0
            while (item := await ordered.get()) is not None:
                window, task = item
                transcript = await task
                reservation.advance(window.end - reached, computed=window.index not in resumed)
                reached = window.end
                self._observer.heard(transcript, reached)
                heard.put_nowait(transcript)
        heard.put_nowait(None)

    async def _windows(
        self, clip: AudioClip, capabilities: Capabilities
    ) -> AsyncGenerator[Window, None]:
        """Windows in which somebody speaks, as far as voice activity and the transcriber can tell.

        A transcriber that tells silence by itself also gets those with doubtful speech, and where
        there are none the loudest part of the recording.
        """
        limit = min(self._chunk_size, capabilities.max_window)
        found = False
        async with aclosing(self._windows_with_speech(clip, limit)) as windows:
            async for window in windows:
                if capabilities.may_hear(window):
                    found = True
                    yield window
        if capabilities.tells_silence and not found:
            loudest = await asyncio.to_thread(
                loudest_window, clip, request_id=self._request.id, max_window=limit
            )
            if loudest is not None:
                yield loudest

    async def _windows_with_speech(
        self, clip: AudioClip, limit: float
    ) -> AsyncGenerator[Window, None]:
        splitter = Splitter(clip, request_id=self._request.id, max_window=limit)
        async with (
            self._engines.voice_detector() as detector,
            aclosing(detector.regions(clip, self._request.vad)) as blocks,
        ):
            async for regions in blocks:
                for window in splitter.push(regions):
                    yield window
        for window in splitter.finish():
            yield window

    async def detect_language(self, clip: AudioClip) -> Mapping[str, float]:
        """See `Pipeline.detect_language`."""
        async with self._engines.transcriber() as engine:
            if not engine.capabilities.detects_language:
                raise InvalidRequest(
                    f"the model {self._request.model} does not detect languages", param="model"
                )
            async with aclosing(self._windows(clip, engine.capabilities)) as windows:
                return await language_probabilities(windows, engine)

    async def _window(
        self, window: Window, options: DecodeOptions, engine: Transcribing
    ) -> WindowTranscript:
        """One window, transcribed and, where words are asked for, with their times."""
        known = self._checkpoint.windows.get(window.index)
        if known is None:
            timing = WordTiming(self._request, self._engines, self._aligners)
            heard = await timing.transcribe(window, options, engine)
            known = finish_window(heard, window, options.task)
            if self._request.align is AlignMode.SEGMENTS:
                known = without_words(known)
            self._checkpoint.windows[window.index] = known
        return known

    # -- diarization --------------------------------------------------------------------------

    async def _windows_with_speakers(
        self,
        heard: asyncio.Queue[WindowTranscript | None],
        clip: AudioClip,
        samples: Mapping[str, AudioClip],
    ) -> list[WindowTranscript]:
        """All windows, in order; each with its speakers where those are asked for."""
        labeller = None
        if self._request.diarize is not None:
            diarization = await self.diarize(clip, self._request.diarize, samples)
            labeller = Labeller(diarization.exclusive)
        finished: list[WindowTranscript] = []
        while batch := await _all_waiting(heard):
            if labeller is not None:
                batch = await asyncio.to_thread(_labelled, batch, labeller)
                for transcript in batch:
                    self._observer.spoken(transcript.segments)
            finished += batch
        return finished

    async def diarize(
        self, clip: AudioClip, options: DiarizeOptions, samples: Mapping[str, AudioClip]
    ) -> Diarization:
        """Who spoke when; speakers whose voice sample is known have their name."""
        if self._checkpoint.diarization is None:
            self._observer.stage("diarize")
            async with self._engines.diarizer() as engine:
                voices = await embed_samples(samples, engine)
                diarization = await engine.diarize(clip, options)
                names = match_known(diarization.embeddings, voices, engine.match_threshold)
            self._checkpoint.diarization = rename(diarization, names)
        return self._checkpoint.diarization


async def _all_waiting(
    queue: asyncio.Queue[WindowTranscript | None],
) -> list[WindowTranscript]:
    """The next window and all that wait behind it; none when the last has come."""
    batch = [await queue.get()]
    while batch[-1] is not None and not queue.empty():
        batch.append(queue.get_nowait())
    if batch[-1] is None and len(batch) > 1:
        queue.put_nowait(None)  # for the next call
    return [window for window in batch if window is not None]


def _labelled(windows: Sequence[WindowTranscript], labeller: Labeller) -> list[WindowTranscript]:
    return [replace(each, segments=labeller.label(each.segments)) for each in windows]
