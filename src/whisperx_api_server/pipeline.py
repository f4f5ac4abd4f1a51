"""The only place where the order of the stages exists.

A recording is opened, speech is found and cut into windows; each window is transcribed, then
aligned, side by side with the windows of all other requests; diarization runs beside that; the
results are stitched back in order. Nothing here computes: every stage runs on its model's lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .backends.base import AlignItem, Capabilities
from .backlog import Backlog, Reservation
from .catalog import Catalog
from .chunking import Splitter, finish_window, stitch
from .domain import (
    AlignMode,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    KnownSpeaker,
    Source,
    Transcript,
    TranscriptionRequest,
    Window,
    WindowTranscript,
)
from .errors import InvalidRequest, ServiceError, TranscriptionFailed, Unavailable
from .model_pool import ModelPool, until_loaded
from .scheduler import Lane, Work
from .sources import SourceOpener
from .speakers import label, match_known, rename
from .stages import (
    ALIGN,
    DETECT_LANGUAGE,
    DIARIZE,
    EMBED,
    NEXT_REGIONS,
    TRANSCRIBE,
    UNDETERMINED,
    Checkpoint,
    Decode,
    Observer,
    check_options,
)
from .word_times import keep_in_speech

R = TypeVar("R")

VOTERS = 3
"""How many of the first windows decide on the language of those that do not tell by themselves."""

REFERENCE_SECONDS = (2.0, 10.0)
"""How long the sample of a known voice may be, as OpenAI has it."""

REFERENCE_PARAM = "known_speaker_references[]"


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
        self._backlog = backlog
        self._defaults = defaults

    async def run(
        self,
        request: TranscriptionRequest,
        observer: Observer | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Transcript:
        """Transcribe one recording. Cancelling the call drops all that still waits for it.

        What `checkpoint` has of an earlier run of the same request is not computed again; what this
        run finds out is added to it.

        Raises:
            ServiceError: what is wrong with the request, or which stage failed.
        """
        run = _Run(self, request, observer or Observer(), checkpoint or Checkpoint())
        async with self._bounded(request.id):
            try:
                return await run.transcribe()
            except BaseExceptionGroup as group:
                error = _first_error(group)
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
                diarization, _ = await run.diarize(clip, DiarizeOptions())
                return diarization

    @asynccontextmanager
    async def _bounded(self, request_id: str) -> AsyncIterator[None]:
        """Bounds of admission and time; whatever happens, nothing of the request waits afterwards.

        Raises:
            Overloaded: there is no room, so nothing is fetched or decoded.
            Unavailable: time is up.
        """
        self._backlog.check()
        try:
            async with asyncio.timeout(self._defaults.timeout or None) as limit:
                yield
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
        self._pool = pipeline._pool
        self._catalog = pipeline._catalog
        self._opener = pipeline._opener
        self._backlog = pipeline._backlog
        self._chunk_size = request.chunk_size or pipeline._defaults.chunk_size
        self._request = request
        self._observer = observer
        self._checkpoint = checkpoint
        self._unlabelled: list[WindowTranscript] = []

    async def transcribe(self) -> Transcript:
        request, observer = self._request, self._observer
        observer.stage("open")
        async with self._opener.open(request.source) as clip:
            observer.opened(clip.duration)
            with self._backlog.reserve(clip.duration) as reservation:
                async with asyncio.TaskGroup() as group:
                    heard = group.create_task(self._hear(clip, reservation, group))
                    told_apart = (
                        group.create_task(self.diarize(clip, request.diarize))
                        if request.diarize
                        else None
                    )
                observer.stage("finish")
                return await asyncio.to_thread(
                    self._assemble,
                    heard.result(),
                    clip.duration,
                    told_apart.result() if told_apart else None,
                )

    def _assemble(
        self,
        windows: list[WindowTranscript],
        duration: float,
        told_apart: tuple[Diarization, Mapping[str, str]] | None,
    ) -> Transcript:
        decode = self._request.decode
        transcript = stitch(
            windows,
            task=decode.task,
            duration=duration,
            default_language=decode.language or UNDETERMINED,
        )
        if told_apart is None or self._request.diarize is None:
            return transcript
        diarization, names = told_apart
        transcript = replace(
            transcript,
            segments=label(transcript.segments, diarization.exclusive),
            speaker_embeddings=diarization.embeddings if self._request.diarize.embeddings else {},
        )
        return rename(transcript, names)

    # -- transcription ------------------------------------------------------------------------

    async def _hear(
        self, clip: AudioClip, reservation: Reservation, group: asyncio.TaskGroup
    ) -> list[WindowTranscript]:
        """Transcribe and align every window, each in a task of `group`; in order."""
        self._observer.stage("transcribe")
        transcripts: list[WindowTranscript] = []
        async with self._pool.lease(self._catalog.transcriber(self._request.model)) as lane:
            capabilities: Capabilities = lane.model.capabilities
            options = check_options(self._request, capabilities)
            ordered: asyncio.Queue[tuple[Window, asyncio.Task[WindowTranscript]] | None]
            ordered = asyncio.Queue()

            async def produce() -> None:
                async with aclosing(self._planned(clip, lane, options, capabilities)) as planned:
                    async for window, planned_options in planned:
                        work = self._window(window, planned_options, lane, capabilities)
                        ordered.put_nowait((window, group.create_task(work)))
                ordered.put_nowait(None)

            group.create_task(produce())
            reached = 0.0
            while (item := await ordered.get()) is not None:
                window, task = item
                transcript = await task
                transcripts.append(transcript)
                reservation.done(window.end - reached)
                reached = window.end
                self._observer.heard(transcript, reached)
                self._unlabelled.append(transcript)
                self._tell_speakers(clip.duration)
        return transcripts

    async def _planned(
        self,
        clip: AudioClip,
        lane: Lane[Any],
        options: DecodeOptions,
        capabilities: Capabilities,
    ) -> AsyncGenerator[tuple[Window, DecodeOptions], None]:
        """Windows as voice activity yields them, each with how to decode it.

        Where the language is open, the first windows vote on it before any is decoded; each is
        then decoded in its own language, and in the voted one where it does not tell.
        """
        undecided = options.language is None
        held: list[Window] = []
        limit = min(self._chunk_size, capabilities.max_window)
        async with aclosing(self._windows(clip, limit)) as windows:
            async for window in windows:
                if undecided:
                    held.append(window)
                    if len(held) < VOTERS:
                        continue
                    options = await self._vote(held, lane, options, capabilities)
                    undecided = False
                    for waiting in held:
                        yield waiting, options
                    held = []
                else:
                    yield window, options
        if len(held) > 1:
            options = await self._vote(held, lane, options, capabilities)
        for waiting in held:
            yield waiting, options

    async def _windows(self, clip: AudioClip, limit: float) -> AsyncGenerator[Window, None]:
        splitter = Splitter(clip, request_id=self._request.id, max_window=limit)
        async with self._pool.lease(self._catalog.voice_detector()) as lane:
            steps = lane.model.detect(clip, self._request.vad)
            while (regions := await self._submit(lane, NEXT_REGIONS, steps)) is not None:
                for window in splitter.push(regions):
                    yield window
        for window in splitter.finish():
            yield window

    async def _vote(
        self,
        windows: Sequence[Window],
        lane: Lane[Any],
        options: DecodeOptions,
        capabilities: Capabilities,
    ) -> DecodeOptions:
        """The language that the windows together most probably are in, as the fallback."""
        padded = capabilities.padded_to
        answers = await asyncio.gather(
            *(
                self._submit(
                    lane, DETECT_LANGUAGE, window, cost=padded or window.end - window.start
                )
                for window in windows
            )
        )
        votes: dict[str, float] = {}
        for probabilities in answers:
            for language, probability in probabilities.items():
                if not options.languages or language in options.languages:
                    votes[language] = votes.get(language, 0.0) + probability
        winner = max(votes, key=lambda language: votes[language]) if votes else None
        return replace(options, fallback_language=winner)

    async def _window(
        self,
        window: Window,
        options: DecodeOptions,
        lane: Lane[Any],
        capabilities: Capabilities,
    ) -> WindowTranscript:
        """One window, transcribed and, where words are asked for, with their times."""
        known = self._checkpoint.windows.get(window.index)
        if known is None:
            heard = await self._transcribe_window(window, options, lane, capabilities)
            known = finish_window(heard, window, options.task)
            self._checkpoint.windows[window.index] = known
        return known

    async def _transcribe_window(
        self,
        window: Window,
        options: DecodeOptions,
        lane: Lane[Any],
        capabilities: Capabilities,
    ) -> WindowTranscript:
        language = options.language or options.fallback_language
        mode = self._request.align
        if mode is AlignMode.OFF or capabilities.native_words:
            pass
        elif options.task == "translate" or (language and self._catalog.aligner(language) is None):
            options = replace(options, word_timestamps=capabilities.can_time_words)
        transcript = await self._decode(window, options, lane, capabilities)
        if mode is AlignMode.OFF or options.task == "translate":
            return transcript
        if mode is AlignMode.AUTO and capabilities.native_words:
            return transcript
        if self._catalog.aligner(transcript.language) is not None:
            return await self._align(window, transcript)
        if capabilities.can_time_words and not options.word_timestamps:
            # Only now is it known that the language has no align model.
            options = replace(options, language=transcript.language, word_timestamps=True)
            return await self._decode(window, options, lane, capabilities)
        return transcript

    async def _decode(
        self,
        window: Window,
        options: DecodeOptions,
        lane: Lane[Any],
        capabilities: Capabilities,
    ) -> WindowTranscript:
        await until_loaded(lane)  # it may be loaded again, its thread having died meanwhile
        return await self._submit(
            lane,
            TRANSCRIBE,
            Decode(window=window, options=options),
            key=lane.model.batch_key(options),
            cost=capabilities.padded_to or window.end - window.start,
        )

    async def _align(self, window: Window, transcript: WindowTranscript) -> WindowTranscript:
        key = self._catalog.aligner(transcript.language)
        if key is None or not transcript.segments:
            return transcript
        async with self._pool.lease(key) as lane:
            aligned = await asyncio.gather(
                *(
                    self._submit(
                        lane,
                        ALIGN,
                        AlignItem(
                            segment=segment,
                            samples=window.samples,
                            offset=window.start,
                            language=transcript.language,
                        ),
                        cost=segment.end - segment.start,
                    )
                    for segment in transcript.segments
                )
            )
        segments = tuple(
            replace(
                segment,
                words=segment.words and keep_in_speech(segment.words, window.regions, anchor=0),
            )
            for segment in aligned
        )
        return replace(transcript, segments=segments)

    # -- diarization --------------------------------------------------------------------------

    async def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> tuple[Diarization, Mapping[str, str]]:
        """Who spoke when, and the names of those whose voice is known."""
        if self._checkpoint.told_apart is None:
            self._checkpoint.told_apart = await self._tell_apart(clip, options)
            self._tell_speakers(clip.duration)
        return self._checkpoint.told_apart

    def _tell_speakers(self, duration: float) -> None:
        """Show the segments that are final, once the speakers are known."""
        if self._request.diarize is None or self._checkpoint.told_apart is None:
            return
        for transcript in self._unlabelled:
            part = self._assemble([transcript], duration, self._checkpoint.told_apart)
            self._observer.spoken(part.segments)
        self._unlabelled.clear()

    async def _tell_apart(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> tuple[Diarization, Mapping[str, str]]:
        self._observer.stage("diarize")
        async with self._pool.lease(self._catalog.diarizer()) as lane:
            threshold = lane.model.match_threshold
            diarization = await self._submit(lane, DIARIZE, (clip, options), cost=clip.duration)
            if not options.known_speakers:
                return diarization, {}
            references = {
                known.name: await self._voice(known, lane) for known in options.known_speakers
            }
            return diarization, match_known(diarization.embeddings, references, threshold)

    async def _voice(self, known: KnownSpeaker, lane: Lane[Any]) -> tuple[float, ...]:
        shortest, longest = REFERENCE_SECONDS
        try:
            async with self._opener.open(known.reference) as clip:
                if not shortest <= clip.duration <= longest:
                    raise InvalidRequest(f"it must last {shortest:g} to {longest:g} s")
                vector = await self._submit(lane, EMBED, clip, cost=clip.duration)
            if vector is None:
                raise InvalidRequest("there is no speech in it")
        except InvalidRequest as error:
            raise InvalidRequest(
                f"the reference of {known.name!r}: {error.message}", param=REFERENCE_PARAM
            ) from error
        return vector

    async def _submit(
        self,
        lane: Lane[Any],
        work: Work[Any, Any, R],
        payload: object,
        *,
        key: Hashable = None,
        cost: float = 1.0,
    ) -> R:
        return await asyncio.wrap_future(
            lane.submit(
                work,
                payload,
                client=self._request.client,
                request_id=self._request.id,
                key=key,
                cost=cost,
                max_batch=self._request.batch_size or 1_000_000,
            )
        )


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, of what went wrong together: a refusal before a failure."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    for error in leaves:
        if isinstance(error, ServiceError) and error.status < 500:
            return error
    for error in leaves:
        if isinstance(error, ServiceError):
            return error
    failure = TranscriptionFailed("the recording could not be transcribed")
    failure.__cause__ = leaves[0]
    return failure
