"""The domain types: requests, windows, words and transcripts.

Frozen, keyword-only dataclasses over the standard library and numpy, imported by all modules. Times
are seconds on the recording's own clock; audio is mono float32 in [-1, 1].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from .errors import Failure
from .output_formats import OutputFormat

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
    """A region of speech, and the detector's mean probability for it."""

    start: float
    end: float
    probability: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VadOptions:
    """Options of voice activity detection, named as in OpenAI's `server_vad`.

    `threshold` is the speech probability in (0, 1) above which a frame counts as speech;
    `prefix_padding_ms` is kept before and after each region; a pause shorter than
    `silence_duration_ms` does not end one. None is the detector's own default.
    """

    threshold: float | None = None
    prefix_padding_ms: int | None = None
    silence_duration_ms: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Window:
    """The input of a transcriber: at most 30 s of one request.

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
        """Seconds of speech in it; without regions, all of it is speech."""
        if not self.regions:
            return self.end - self.start
        return sum(region.end - region.start for region in self.regions)

    @property
    def speech_probability(self) -> float:
        """Mean speech probability of its regions; 1 without regions."""
        if not self.regions:
            return 1.0
        total = sum(each.probability * (each.end - each.start) for each in self.regions)
        return total / self.speech_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """How one window is decoded; hashable, so that equal options can share a batch.

    `language` None lets the transcriber detect it in each window, among `languages` unless that is
    empty. `temperature` 0: beam search, repeated with restrictions for doubtful windows; above 0, a
    hypothesis of the beam is drawn by its probability. `word_timestamps` asks for the decoder's own
    word times (`Segment.words`), `logprobs` for `Segment.logprobs`. `draft`: speech goes on after
    the window, which will be decoded again: a quick answer matters most, and a doubtful text may be
    left out.
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
    draft: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A recording in a `BlobStore`; two are equal when their digests are.

    `id` is the store's name for it; `filename` is the client's and never used as a path; `size` is
    in bytes. `digest` is the content's BLAKE2b in hexadecimal; without it, no results are shared.
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
    """Options of diarization. `embeddings` requests one vector per speaker."""

    min_speakers: int | None = None
    max_speakers: int | None = None
    num_speakers: int | None = None
    embeddings: bool = False
    known_speakers: tuple[KnownSpeaker, ...] = ()


class AlignMode(StrEnum):
    """Where word times come from.

    OFF: no word times. SEGMENTS: the decoder's, only to cut segments. AUTO: the engine's if they
    cost nothing, else forced alignment, else the decoder's. FORCED: forced alignment for each
    language with an aligner, an error if the aligner is not available.
    """

    OFF = "off"
    SEGMENTS = "segments"
    AUTO = "auto"
    FORCED = "forced"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteUrl:
    """A recording to fetch; `param` is the form field with the URL, for errors."""

    url: str
    param: str = "audio_url"

    @property
    def filename(self) -> str:
        """The last part of the URL's path, as `Upload.filename`; of any URL, valid or not."""
        location = re.split(r"[?#]", self.url, maxsplit=1)[0].partition("://")[2]
        return unquote(location.partition("/")[2].rpartition("/")[2])


Source = Upload | RemoteUrl


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptionRequest:
    """A recording and all parameters that affect its transcript.

    `client` is the name behind the API key: the scheduler is fair over clients, then requests.
    `batch_size` limits the batches that its windows may join; `chunk_size` is the maximum window in
    seconds. None is the configured value. The last two affect only when results come: `watched`, a
    client streams each window; `waits`, it waits while the queue is full, and is not refused.
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
        """The recordings in a `BlobStore` that it needs: its source and the voice samples."""
        source = (self.source,) if isinstance(self.source, Upload) else ()
        known = self.diarize.known_speakers if self.diarize is not None else ()
        return (*source, *(speaker.reference for speaker in known))


Granularity = Literal["segment", "word"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """How an answer is rendered; the pipeline does not see it.

    `known_speakers` are the client's names, which unknown speakers must not get.
    """

    format: OutputFormat = "json"
    granularities: frozenset[Granularity] = frozenset({"segment"})
    highlight_words: bool = False
    logprobs: bool = False
    known_speakers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A spoken word; `score` in [0, 1] is the aligner's or the decoder's.

    `tokens` are the decoder's, if the decoder timed the word.
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
    """A part of a transcript: a window's text, or one sentence of it if words are timed.

    The last fields are openai/whisper's, per decoded window; sentences of one window repeat
    its values. `words` is None without word times, and empty without words.
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
    `embeddings` has one vector per speaker, as the model returns it (not unit norm).
    """

    turns: tuple[SpeakerTurn, ...]
    exclusive: tuple[SpeakerTurn, ...]
    embeddings: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowTranscript:
    """The transcript of one window; segment times are on the recording's clock.

    `warnings` are sentences for the client about fallbacks.
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
    """A transcription that runs without an open connection; times in seconds since the epoch.

    `progress` is the transcribed and diarized part of the recording in [0, 1], `eta` the estimated
    seconds left, `queue_position` the number of earlier requests under way. `diarize` and `words`:
    whether the client requested speakers and word times. `callback_url` receives an event at the
    end; `notified`: whether it was delivered. `filename` is the recording's, "" if it has none.
    """

    id: str
    client: str
    state: JobState
    submitted_at: float
    filename: str = ""
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
        """Whether the state is final."""
        return self.state in ("completed", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """The transcript of a recording of `duration` seconds.

    `language` is the language of most speech; `languages` are all, that one first. `warnings` are
    sentences for the client about fallbacks.
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
        """The text of all segments, joined by a space if their language has spaces."""
        return join_texts((segment.text, segment.language) for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order."""
        return tuple(word for segment in self.segments for word in segment.words or ())


SPACELESS_LANGUAGES = frozenset({"ja", "zh", "yue", "th", "lo", "my", "km", "bo"})
"""Languages without spaces between words, and hence between joined sentences."""


def join_texts(parts: Iterable[tuple[str, str | None]]) -> str:
    """Join (text, language) parts with spaces if the language has them; drop blank parts."""
    joined = ""
    for text, language in parts:
        if text := text.strip():
            gap = "" if not joined or language in SPACELESS_LANGUAGES else " "
            joined += gap + text
    return joined
