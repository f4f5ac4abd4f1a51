"""The vocabulary: what a request, a window, a word and a transcript are.

Frozen, keyword-only dataclasses over the standard library and numpy, imported by all modules. Times
are seconds on the recording's own clock; audio is mono float32 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import Failure
from .output_formats import OutputFormat as OutputFormat

SAMPLE_RATE = 16_000
"""Hz; the sample rate of Whisper, wav2vec2, Parakeet, pyannote and Silero."""

Samples = NDArray[np.float32]
"""Mono audio, shape (N,), in [-1, 1]; may be a read-only memory map."""

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AudioClip:
    """A decoded recording, or a part of one."""

    samples: Samples
    sample_rate: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechRegion:
    """A stretch in which somebody speaks, and the detector's mean probability of that."""

    start: float
    end: float
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VadOptions:
    """How eagerly voice activity is found. The names are those of OpenAI's `server_vad`.

    `threshold` is the speech probability in (0, 1) above which a frame counts as speech;
    `prefix_padding_ms` is kept before and after each region; a pause shorter than
    `silence_duration_ms` does not end one. None is the detector's own default.
    """

    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Window:
    """What a transcriber hears at once: at most 30 s of one request, with its own offset.

    `samples` is a view of the recording between `start` and `end`; `regions` are the speech
    regions inside, on the recording's clock.
    """

    request_id: str
    index: int
    start: float
    end: float
    samples: Samples
    regions: tuple[SpeechRegion, ...] = ()

    @property
    def speech_seconds(self) -> float:
        """How much speech is in it: all of it where no regions are given."""
        if not self.regions:
            return self.end - self.start
        return sum(region.end - region.start for region in self.regions)

    @property
    def speech_probability(self) -> float:
        """The mean probability that somebody speaks in its regions; 1 where none are given."""
        if not self.regions:
            return 1.0
        total = sum(each.probability * (each.end - each.start) for each in self.regions)
        return total / self.speech_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """How one window is decoded; hashable, so that equal options can share a batch.

    `language` None lets the transcriber detect it in each window, among `languages` when any are
    given.
    `temperature` 0 starts openai/whisper's fallback ladder; another value is sampled at once.
    `word_timestamps` asks for the decoder's own word times (`Segment.words`), `logprobs` for
    `Segment.logprobs`.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    task: Task = "transcribe"
    prompt: str | None = None
    hotwords: str | None = None
    temperature: float = 0.0
    suppress_numerals: bool = False
    beam_size: int = 5
    word_timestamps: bool = False
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A recording in a `BlobStore`; two are equal when their digests are.

    `id` is the store's name for it, `filename` the client's, used for echoing only. `digest` is
    BLAKE2b of the content in hexadecimal, empty where it was not computed: nothing may be shared by
    such a recording. `size` is in bytes.
    """

    id: str = field(compare=False)
    filename: str = field(default="", compare=False)
    size: int = field(default=0, compare=False)
    digest: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSpeaker:
    """A name and a recording (any audio format) of a 2-10 s sample of that voice."""

    name: str
    reference: Upload


@dataclass(frozen=True, kw_only=True, slots=True)
class DiarizeOptions:
    """How speakers are told apart. `embeddings` asks for one vector a speaker."""

    min_speakers: int | None = None
    max_speakers: int | None = None
    num_speakers: int | None = None
    embeddings: bool = False
    known_speakers: tuple[KnownSpeaker, ...] = ()


class AlignMode(StrEnum):
    """Where word times come from.

    OFF: nothing is timed. SEGMENTS: the decoder times words, only to cut segments. AUTO: the
    engine's own when it gives them for nothing, else forced alignment, else the decoder's. FORCED:
    forced alignment wherever there is an aligner for the language, an error where it cannot be had.
    """

    OFF = "off"
    SEGMENTS = "segments"
    AUTO = "auto"
    FORCED = "forced"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteUrl:
    """A recording to be fetched under the URL policy; `param` is the field that named it."""

    url: str
    param: str = "audio_url"


Source = Upload | RemoteUrl


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionRequest:
    """One recording and all that decides what is said about it.

    `client` is the name behind the API key: the scheduler is fair over clients, then requests.
    `batch_size` bounds the batches that this request's windows may join; `chunk_size` is the
    longest window in seconds. None is the configured value. The last two change when results come,
    not which: `watched`, each window is shown as soon as it is done; `waits`, the request waits
    while the queue is full instead of being refused.
    """

    id: str
    source: Source
    model: str
    client: str = "anonymous"
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    align: AlignMode = AlignMode.AUTO
    diarize: DiarizeOptions | None = None
    vad: VadOptions = field(default_factory=VadOptions)
    batch_size: int | None = None
    chunk_size: float | None = None
    watched: bool = field(default=False, compare=False)
    waits: bool = field(default=False, compare=False)

    @property
    def uploads(self) -> tuple[Upload, ...]:
        """The recordings in a `BlobStore` that it reads: its source and the voice samples."""
        source = (self.source,) if isinstance(self.source, Upload) else ()
        known = self.diarize.known_speakers if self.diarize is not None else ()
        return (*source, *(speaker.reference for speaker in known))


Granularity = Literal["segment", "word"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """What the client wants to read; the routers' alone, never seen by the pipeline.

    `known_speakers` are the names that the client gave: no unknown speaker is called by one.
    """

    format: OutputFormat = "json"
    granularities: frozenset[Granularity] = frozenset({"segment"})
    highlight_words: bool = False
    logprobs: bool = False
    known_speakers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A spoken word. `start`/`end` in seconds; `score` in [0, 1] is the aligner's or decoder's.

    `tokens` are the decoder's, where the decoder timed the word.
    """

    text: str
    start: float
    end: float
    score: float | None = None
    speaker: str | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprob:
    """One decoded token as OpenAI's `logprobs` lists it: text, natural log probability, bytes."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of transcript: a window's text, or one sentence of it where words are timed.

    The last five fields are openai/whisper's, per decoded window; sentences of one window repeat
    its values. `words` is None when no word times were made, which is not the same as no words.
    """

    start: float
    end: float
    text: str
    language: str | None = None
    words: tuple[Word, ...] | None = None
    speaker: str | None = None
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakerTurn:
    """One speaker, from `start` to `end`."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Diarization:
    """Who spoke when.

    `turns` may overlap; `exclusive` has at most one speaker at a time and labels words.
    `embeddings` has one vector a speaker, as the model gives it (not unit norm).
    """

    turns: tuple[SpeakerTurn, ...]
    exclusive: tuple[SpeakerTurn, ...]
    embeddings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowTranscript:
    """What was heard in one window; segment times are on the recording's clock.

    `warnings` are sentences about what could not be done as usual.
    """

    window_index: int
    language: str
    language_probability: float
    segments: tuple[Segment, ...]
    warnings: tuple[str, ...] = ()


JobState = Literal["queued", "running", "completed", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """When a stage of a run began and ended, in seconds since the epoch."""

    name: str
    started_at: float
    finished_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A transcription that one can watch and leave; all times in seconds since the epoch.

    `progress` is the part in [0, 1] of the recording that is transcribed, `eta` the seconds it
    should still take, `queue_position` how many requests that came before it are not done yet.
    `diarize` and `words` tell what it was asked to find out. `callback_url` is told of the end;
    `notified` whether that has happened.
    """

    id: str
    client: str
    state: JobState
    submitted_at: float
    finished_at: float | None = None
    duration: float | None = None
    progress: float = 0.0
    eta: float | None = None
    queue_position: int = 0
    stages: tuple[StageTimes, ...] = ()
    error: Failure | None = None
    output: OutputOptions = OutputOptions()
    diarize: bool = False
    words: bool = True
    callback_url: str | None = None
    notified: bool = False

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in ("completed", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """What was said in a recording of `duration` seconds.

    `language` is the one that most speech is in; `languages` all that occur, that one first.
    `warnings` are sentences about what could not be done as usual.
    """

    task: Task
    language: str
    languages: tuple[str, ...]
    duration: float
    segments: tuple[Segment, ...]
    speaker_embeddings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text: the segments', joined by one space (none where the script has none)."""
        return join_texts((segment.text, segment.language) for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """Every word of every segment, in order."""
        return tuple(word for segment in self.segments for word in segment.words or ())


SPACELESS_LANGUAGES = frozenset({"ja", "zh", "yue", "th", "lo", "my", "km", "bo"})
"""Written without spaces between words; joining sentences with one would be an error."""


def join_texts(parts: Iterable[tuple[str, str | None]]) -> str:
    """Join (text, language) parts as their languages are written; blank parts are dropped."""
    joined = ""
    for text, language in parts:
        text = text.strip()
        if text:
            gap = "" if not joined or language in SPACELESS_LANGUAGES else " "
            joined += gap + text
    return joined
