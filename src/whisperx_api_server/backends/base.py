"""The protocols that a backend implements, and the specification of a model.

A backend is one module. For each stage that it supports, it has a factory with this name:

    def load_transcriber(spec: ModelSpec) -> Transcriber
    def load_aligner(spec: ModelSpec) -> Aligner
    def load_diarizer(spec: ModelSpec) -> Diarizer
    def load_voice_detector(spec: ModelSpec) -> VoiceDetector
    def load_translator(spec: ModelSpec) -> Translator
    def load_language_model(spec: ModelSpec) -> LanguageModel

and optionally:

    def align_model(language: str) -> str | None   # the aligner's own table
    def aligner_problem(spec: ModelSpec) -> ServiceError | None   # why it cannot be loaded
    def published_model(name: str) -> str | None   # the model that a client's name selects
    def known_capabilities(spec: ModelSpec) -> Capabilities | None   # known before it is loaded
    DECLARATIONS: Mapping[Stage, Declaration]   # what each stage requires, takes and has
    def engine_info() -> Mapping[str, object]   # for /info; imports nothing heavy
    def import_vendors(stage: Stage, spec: ModelSpec) -> None   # imports the factory's packages
    def model_source(spec: ModelSpec) -> ModelSource   # for /info and `doctor`; loads nothing
    def model_advice(spec: ModelSpec) -> str   # for `doctor`: what to do if it cannot be had

Importing the module is cheap: vendor packages are imported inside the factories. Missing packages
raise `NotInstalled` with the install command (see `vendors.require`). Models load in parallel, but
`import_vendors` is called by one thread at a time, before the factory: packages with import cycles
break if two threads import them at once.

Objects are synchronous and are called only by their worker's thread, except methods marked as
thread-safe. They return one result per input, in order. They raise only
`whisperx_api_server.errors`, with the vendor's error as the cause; `InsufficientMemory` after an
out-of-memory error, so that the lane can retry with smaller batches. Factories need not translate
all errors: the model pool turns an out-of-memory error into `InsufficientMemory`, and any other
that is not ours into `ModelUnavailable`, with its traceback in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from ..domain import (
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Samples,
    Segment,
    SpeechRegion,
    Task,
    VadOptions,
    Window,
    WindowTranscript,
)

Stage = Literal["transcription", "alignment", "diarization", "vad", "translation", "generation"]

ModelSource = Literal["directory", "packages", "hub"]
"""A path of the settings, installed packages, or the hub (or its cache)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Which model to load and on which device, resolved from the settings.

    `name` is a published size ("large-v3") or a hub id. If a setting is a path, `path` is
    that path and `name` its last part, for messages: clients can select only names, so that
    their input is never used as a path. `device` is "cpu" or "cuda", already resolved. `threads`
    0 is the vendor's default. A batch has at most `max_batch` payloads. `short_contexts`:
    windows may be encoded in less than the model's context length.
    """

    name: str
    path: Path | None = None
    device: str = "cpu"
    device_index: int = 0
    compute_type: str = "default"
    threads: int = 0
    download_root: Path | None = None
    local_files_only: bool = False
    hf_token: str | None = field(default=None, repr=False)
    language: str | None = None
    max_batch: int = 1
    short_contexts: bool = False

    @property
    def source(self) -> str:
        """The argument of loaders that accept a path or a hub id."""
        return self.name if self.path is None else str(self.path)

    @property
    def torch_device(self) -> str:
        """The device as torch names it."""
        return self.device if self.device == "cpu" else f"{self.device}:{self.device_index}"


def _same(name: str) -> str | None:
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A backend's requirements, models and files for one stage.

    `packages` must be installed; `extra` installs them (`cpu` becomes `cuda` on a GPU). `probe` is
    a file that every model has, with `{name}` for the last part of the model's name; None without
    files. `repository` maps a model's name to its hub repository, or to None if the model is not
    on the hub. `only_model` is the name of the stage's only model, if no setting selects another.

    Transcription: `settings` is the section that configures it. `allows_hub_ids` is False if a
    model's files can run code, so that `MODELS__ALLOWED` does not apply. Voice activity detection:
    `on_device` is False if it always computes on the CPU.
    """

    packages: tuple[str, ...] = ()
    extra: str = "cpu"
    probe: str | None = None
    repository: Callable[[str], str | None] = _same
    only_model: str | None = None
    settings: str = "whisper"
    allows_hub_ids: bool = True
    on_device: bool = False

    def install_command(self, device: str) -> str:
        """The command that installs the packages for a device."""
        extra = "cuda" if (self.extra, device) == ("cpu", "cuda") else self.extra
        return f'pip install "whisperx-api-server[{extra}]"'


MIN_SPEECH_PROBABILITY = 0.35
"""Below this probability it is doubtful whether a window contains speech."""

CLEAR_LANGUAGE = 0.5
"""A window whose language is less probable has no clear language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """The features that a transcriber supports.

    `languages` None means all of Whisper's. `native_words`: every answer has word times at no
    cost. `can_time_words`: word times on request (`DecodeOptions.word_timestamps`).
    `detects_language`: `DecodeOptions.language` may be None. `can_sample`: a temperature above 0
    is honoured. `spells_numerals`: `DecodeOptions.suppress_numerals` is honoured; for other
    engines the server spells numerals. `tells_silence`: it recognises windows without speech.
    `max_batch` is the engine's own limit, if any. `padded_to` is the length in seconds to which
    each window is padded, 0 without padding.
    """

    languages: frozenset[str] | None = None
    tasks: frozenset[Task] = frozenset({"transcribe"})
    detects_language: bool = False
    native_words: bool = False
    can_time_words: bool = False
    can_prompt: bool = False
    can_logprobs: bool = False
    can_sample: bool = False
    spells_numerals: bool = False
    max_window: float = 30.0
    max_batch: int | None = None
    tells_silence: bool = False
    padded_to: float = 0.0

    def accepts(self, window: Window) -> bool:
        """Whether a window surely contains speech, or the engine recognises silence."""
        return self.tells_silence or window.speech_probability >= MIN_SPEECH_PROBABILITY


class GenerationOptions(BaseModel, frozen=True, strict=True, extra="forbid", allow_inf_nan=False):
    """Options of text generation, named as in transformers' GenerationConfig.

    `max_new_tokens` None is the default or what fits into the model's context. `temperature` None
    or 0 takes the most probable token. `do_sample` None samples if there is a temperature and only
    one beam.
    """

    max_new_tokens: int | None = Field(None, ge=1, le=32_768)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1, le=1_000_000)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    num_beams: int = Field(1, ge=1, le=16)
    do_sample: bool | None = None
    use_cache: bool = True


class Detection(Protocol):
    """Finds the speech in one recording, whose samples are pushed in blocks.

    The regions of all calls are in order, do not overlap, and do not depend on how the samples
    are divided. Both methods are called on a worker's thread, which processes other recordings
    between calls.
    """

    @property
    def under_way(self) -> SpeechRegion | None:
        """Speech that may continue, up to its last sample so far that is not in a pause.

        Read by live sessions, between two calls.
        """
        ...

    def push(self, samples: Samples) -> Sequence[SpeechRegion]:
        """Process the next samples, any number, and return the regions that became final.

        Memory and time of one call grow with the number of samples.
        """

    def finish(self) -> Sequence[SpeechRegion]:
        """Return the remaining regions; nothing may be pushed afterwards."""


class VoiceDetector(Protocol):
    """Finds speech in 16 kHz mono audio."""

    def start(self, options: VadOptions) -> Detection:
        """Start on a recording; several may be processed at a time. Thread-safe, cheap."""


class Transcriber(Protocol):
    """Transcribes windows."""

    @property
    def capabilities(self) -> Capabilities: ...

    def batch_key(self, options: DecodeOptions) -> Hashable:
        """Windows whose options give equal keys may share one `transcribe`. Thread-safe, cheap."""

    def features(self, window: Window) -> object:
        """Precompute the input of `transcribe` for one window. Thread-safe."""

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode one batch; `options` and `features` have one entry per window.

        A feature that is None was not precomputed: compute it now.
        """


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AlignItem:
    """A segment to align, and its audio.

    `samples` begin at `offset` seconds of the recording; the segment's own times lie inside.
    """

    segment: Segment
    samples: Samples
    offset: float
    language: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextStats:
    """How a transcriber uses short contexts: features of less than its model's context length.

    `short` is whether new windows get one; of the `windows` that got one, `repeated` were decoded
    again in the full context.
    """

    short: bool
    windows: int
    repeated: int


@runtime_checkable
class ShortContexts(Protocol):
    """A transcriber that uses short contexts."""

    @property
    def context_stats(self) -> ContextStats:
        """Its counters since it was loaded. Thread-safe."""


class Aligner(Protocol):
    """Aligns words with audio."""

    def align(self, items: Sequence[AlignItem]) -> list[Segment]:
        """Return each item's segment with `words`, in seconds of the recording.

        Items may come from many requests. Text that cannot be aligned keeps the item's
        times, with `words` spread evenly; it is never dropped.
        """


class Diarizer(Protocol):
    """Diarizes recordings: who spoke when."""

    @property
    def match_threshold(self) -> float:
        """Cosine similarity above which two embeddings are the same voice."""

    def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> Generator[float, None, Diarization]:
        """Diarize in steps: yield the part in [0, 1] that is done after each, return the result.

        Turns are labelled SPEAKER_00, SPEAKER_01… in order of appearance; silence gives none.
        Each step is computed on a worker's thread, which processes other recordings between steps;
        a step should take a few seconds at most. The generator of a cancelled request is closed.
        """

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """One embedding per clip, comparable with `Diarization.embeddings`; None without speech."""


class Translator(Protocol):
    """Translates texts."""

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """Translate sentences of any length, one by one; languages are ISO-639 codes."""


class LanguageModel(Protocol):
    """Answers prompts."""

    def generate(
        self,
        prompt: str,
        *,
        options: GenerationOptions,
        schema: Mapping[str, object] | None = None,
    ) -> str:
        """Return the answer without the prompt; with a JSON schema, JSON text that satisfies it."""
