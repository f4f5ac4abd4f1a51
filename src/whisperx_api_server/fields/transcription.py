"""Form fields of transcriptions and translations, and the requests that they stand for.

Without HTTP: routers read the fields from forms and queries, the command line from its options.
Their JSON schema is in the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..domain import (
    AlignMode,
    DecodeOptions,
    DiarizeOptions,
    Granularity,
    Job,
    KnownSpeaker,
    OutputOptions,
    Source,
    Task,
    TranscriptionRequest,
    VadOptions,
)
from ..errors import InvalidRequest, MissingParameter
from ..languages import parse_language
from ..output_formats import FORMATS, OutputFormat
from . import rules

AUTO = "auto"
"""The `language` that means detection, whatever the configured default is."""

M = TypeVar("M", bound=BaseModel)


def _one_line(value: str) -> str:
    """Strip a text that is one line and cannot pass for a special token."""
    if re.search(r"[\r\n<>]", value):
        raise ValueError("must be one line without '<' and '>'")
    return value.strip()


def _language(value: str) -> str:
    return AUTO if value.strip().lower() == AUTO else parse_language(value)


def _candidate(value: str) -> str:
    return parse_language(value, "languages[]")


OneLine = Annotated[str, AfterValidator(_one_line)]

SpeakerCount = Annotated[int, Field(ge=1, le=50)]
"""Clustering does not work with more speakers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FormDefaults:
    """Defaults for fields that the client did not send."""

    model: str
    language: str | None = None
    response_format: OutputFormat = "json"
    beam_size: int = 5


class ResultForm(BaseModel):
    """How a transcript is written; also the query of a job's result."""

    model_config = ConfigDict(populate_by_name=True)

    response_format: OutputFormat | None = Field(
        None,
        description="`json` unless the server is set otherwise; `diarized_json` implies `diarize`, "
        "and is not for translations.",
    )
    timestamp_granularities: list[Granularity] | None = Field(
        None,
        alias="timestamp_granularities[]",
        description="`segment` and `word` decide whether verbose_json has `segments` and `words`; "
        "`segment` if absent.",
    )
    highlight_words: bool = Field(
        False, description="Underline each word as it is spoken, in srt, vtt and vtt_json."
    )

    def result(self, job: Job) -> OutputOptions:
        """Options of the answer with a job's result; absent fields are as submitted.

        Raises:
            UnservableCombination: the format cannot show the fields, or needs results that the job
                did not compute.
        """
        submitted = job.output
        output = self.response_format or submitted.format
        rules.check(rules.of_presentation(self, output))
        given = "highlight_words" in self.model_fields_set
        written = replace(
            submitted,
            format=output,
            granularities=self.shown_granularities(output) or submitted.granularities,
            highlight_words=self.highlight_words if given else submitted.highlight_words,
        )
        rules.check(rules.of_result(job, written))
        return written

    def shown_granularities(self, output: OutputFormat) -> frozenset[Granularity]:
        """Those that were sent, where the format has such parts; none elsewhere."""
        sent = self.timestamp_granularities if FORMATS[output].segments else None
        return frozenset(sent or ())


class ServerVad(BaseModel):
    """`chunking_strategy` as an object: how speech is found."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None


class TranscriptionForm(ResultForm):
    """`POST /v1/audio/transcriptions`, and, of the fields in `TRANSLATED`, translations."""

    audio_url: str | None = Field(
        None, description="Instead of `file`: an http(s) URL that the server fetches."
    )
    model: str | None = Field(
        None,
        description="A published Whisper size or Parakeet, or one that the settings name. "
        "`whisper-1` and OpenAI's other names mean the configured default.",
    )
    language: Annotated[str, AfterValidator(_language)] | None = Field(
        None, description="ISO-639-1 code of the speech; detected if absent or `auto`."
    )
    prompt: str | None = Field(None, description="Context for the decoder, such as spellings.")
    hotwords: OneLine | None = Field(None, description="Comma-separated words to listen for.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="0 is beam search; above, the text is drawn among the beam's hypotheses.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=1024, description="The largest batch that this recording's windows join."
    )
    chunk_size: float | None = Field(
        None, ge=1, le=30, allow_inf_nan=False, description="Longest window in seconds."
    )

    languages: list[Annotated[str, AfterValidator(_candidate)]] = Field(
        default_factory=list,
        alias="languages[]",
        max_length=20,
        description="Candidates: the language is detected among these.",
    )
    keywords: list[Annotated[OneLine, Field(max_length=200)]] = Field(
        default_factory=list,
        alias="keywords[]",
        max_length=200,
        description="Words to listen for, one line each.",
    )
    stream: bool = Field(False, description="Answer with server-sent events as windows are done.")
    include: list[Literal["logprobs"]] = Field(
        default_factory=list, alias="include[]", description="`logprobs`, with json formats only."
    )
    chunking_strategy: Literal["auto"] | ServerVad | None = Field(
        None, description="`auto`, or a `server_vad` object that says how speech is found."
    )
    known_speaker_names: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list,
        alias="known_speaker_names[]",
        max_length=4,
        description="Names of known voices, with `diarize`.",
    )
    known_speaker_references: list[str] = Field(
        default_factory=list,
        alias="known_speaker_references[]",
        max_length=4,
        description="For each name, a data URL with 2 to 10 s of that voice.",
    )
    align: bool | None = Field(
        None,
        description="true: time words by forced alignment, in every format. false: time no words. "
        "Absent: words are timed where the answer shows their times or speakers.",
    )
    diarize: bool = Field(False, description="Label the speakers; not with `align=false`.")
    min_speakers: SpeakerCount | None = Field(None, description="With `diarize`.")
    max_speakers: SpeakerCount | None = Field(None, description="With `diarize`.")
    num_speakers: SpeakerCount | None = Field(None, description="With `diarize`: the exact number.")
    speaker_embeddings: bool = Field(
        False, description="One vector per speaker, in verbose_json and vtt_json."
    )
    suppress_numerals: bool = Field(True, description="Numbers are spelled out.")
    asynchronous: bool = Field(
        False,
        alias="async",
        description="Answer 202 at once; the transcript is fetched from `result_url` later.",
    )
    callback_url: str | None = Field(
        None, description="With `async`: a URL that is posted to when the job has ended."
    )

    @model_validator(mode="after")
    def _check_speakers(self) -> Self:
        rules.check(rules.of_speakers(self), InvalidRequest)
        return self

    @property
    def named_language(self) -> str | None:
        """The code of the language that the client names; None leaves it to detection."""
        return None if self.language == AUTO else self.language

    def diarizes(self, output: OutputFormat) -> bool:
        """Whether to diarize."""
        return self.diarize or output == "diarized_json"

    def streams(self, output: OutputOptions) -> bool:
        """Whether to answer with events."""
        return self.stream and FORMATS[output.format].streams

    def request(
        self,
        request_id: str,
        client: str,
        source: Source,
        defaults: FormDefaults,
        known_speakers: tuple[KnownSpeaker, ...] = (),
        *,
        task: Task = "transcribe",
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        """Convert the fields to a request and the options of its answer.

        Raises:
            UnservableCombination: fields that cannot be honoured together, or by a translation.
        """
        if task == "translate":
            form, output = self._for_translation(), defaults.response_format
            output = form.response_format or ("json" if output == "diarized_json" else output)
        else:
            form, output = self, self.response_format or defaults.response_format
        rules.check(rules.of_transcription(form, output))
        request = TranscriptionRequest(
            id=request_id,
            client=client,
            source=source,
            model=form.model or defaults.model,
            decode=form.decode_options(task, defaults),
            align=form.align_mode(output),
            diarize=form.diarize_options(known_speakers) if form.diarizes(output) else None,
            vad=form.vad_options(),
            batch_size=form.batch_size,
            chunk_size=form.chunk_size,
        )
        return request, OutputOptions(
            format=output,
            granularities=form.shown_granularities(output) or frozenset({"segment"}),
            highlight_words=form.highlight_words,
            logprobs="logprobs" in form.include,
            known_speakers=tuple(form.known_speaker_names),
        )

    def _for_translation(self) -> TranscriptionForm:
        """The fields that a translation has; its language is detected unless it is named."""
        if self.response_format == "diarized_json":
            raise InvalidRequest(
                "response_format: a translation has no diarized_json", param="response_format"
            )
        rules.check(rules.of_translation(self))
        sent = {name: getattr(self, name) for name in self.model_fields_set & rules.TRANSLATED}
        language = self.language or AUTO
        return TranscriptionForm(**sent | {"language": language, "suppress_numerals": False})

    def decode_options(self, task: Task, defaults: FormDefaults) -> DecodeOptions:
        """How each window is decoded."""
        candidates = tuple(dict.fromkeys(self.languages))
        language = self.named_language
        if len(candidates) == 1:
            language = candidates[0]
        elif self.language is None and not candidates:
            language = defaults.language
        words = [word.strip() for word in (*(self.hotwords or "").split(","), *self.keywords)]
        return DecodeOptions(
            task=task,
            language=language,
            languages=candidates if language is None else (),
            prompt=self.prompt,
            hotwords=", ".join(filter(None, words)) or None,
            temperature=self.temperature,
            suppress_numerals=self.suppress_numerals,
            beam_size=defaults.beam_size,
            logprobs="logprobs" in self.include,
        )

    def align_mode(self, output: OutputFormat) -> AlignMode:
        """Unless the client decides, words are timed if the answer may show their times."""
        if self.align:
            return AlignMode.FORCED
        if output in ("json", "text") and not self.asynchronous and not self.diarize:
            return AlignMode.OFF
        return AlignMode.AUTO if self.align is None else AlignMode.SEGMENTS

    def diarize_options(self, known_speakers: tuple[KnownSpeaker, ...]) -> DiarizeOptions:
        return DiarizeOptions(
            min_speakers=self.min_speakers,
            max_speakers=self.max_speakers,
            num_speakers=self.num_speakers,
            embeddings=self.speaker_embeddings,
            known_speakers=known_speakers,
        )

    def vad_options(self) -> VadOptions:
        vad = self.chunking_strategy
        if not isinstance(vad, ServerVad):
            return VadOptions()
        return VadOptions(**vad.model_dump(exclude={"type"}))


class FilesForm(BaseModel):
    """Reflector's field beside those of OpenAI's API; it selects Reflector's answer."""

    batch: bool = Field(True, description="Reflector's: whether the files run side by side.")


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The fields as `model`.

    Raises:
        MissingParameter: a field is absent that must be there.
        InvalidRequest: a value that a field cannot have, or not beside another.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "missing":
            raise MissingParameter(f"{param} is missing", param=param) from error
        given = first["input"]
        shown = f", got {given[:80]!r}" if isinstance(given, str) else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{param}: {message}{shown}", param=param) from error
