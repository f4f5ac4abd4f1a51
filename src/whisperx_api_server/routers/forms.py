"""The fields of both audio endpoints: what they may be, and what they mean together.

The models are the form's documentation too: their JSON schema is in the OpenAPI document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..domain import (
    AlignMode,
    DecodeOptions,
    DiarizeOptions,
    Granularity,
    KnownSpeaker,
    OutputFormat,
    OutputOptions,
    RemoteUrl,
    Source,
    Task,
    TranscriptionRequest,
    VadOptions,
)
from ..errors import InvalidRequest, MissingParameter, UnservableCombination
from ..languages import parse_language
from .multipart import Form

SUBTITLES = frozenset({"srt", "vtt", "vtt_json", "aud"})
WITH_SEGMENTS = frozenset({"verbose_json", "vtt_json"})
STREAMED = frozenset({"json", "text", "diarized_json"})

TranslationFormat = Literal["json", "text", "verbose_json", "vtt_json", "srt", "vtt", "aud"]
F = TypeVar("F", bound="AudioForm")


def _one_line(value: str) -> str:
    if re.search(r"[\r\n<>]", value):
        raise ValueError("must be one line without '<' and '>'")
    return value.strip()


Keyword = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FormDefaults:
    """What the settings say where a form says nothing."""

    model: str
    language: str | None = None
    response_format: OutputFormat = "json"
    beam_size: int = 5


class ServerVad(BaseModel):
    """`chunking_strategy` as an object: how speech is found."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None


class AudioForm(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    audio_url: str | None = Field(
        None, description="Instead of `file`: an http(s) URL that the server fetches."
    )
    model: str | None = Field(
        None,
        description="A Whisper size, a Parakeet name or a Hugging Face id. `whisper-1` and "
        "OpenAI's other names mean the configured default.",
    )
    prompt: str | None = Field(None, description="Context for the decoder, such as spellings.")
    hotwords: str | None = Field(None, description="Comma-separated words to listen for.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="0 is greedy search with openai/whisper's fallback ladder; above, sampled.",
    )
    batch_size: int | None = Field(
        None, ge=1, le=1024, description="The largest batch that this recording's windows join."
    )
    chunk_size: float | None = Field(
        None, ge=1, le=30, allow_inf_nan=False, description="Longest window in seconds."
    )

    def _hotwords(self, keywords: Iterable[str] = ()) -> str | None:
        listed = (self.hotwords or "").split(",") + list(keywords)
        words = [_checked_keyword(word) for word in listed if word.strip()]
        return ", ".join(words) or None


class TranslationForm(AudioForm):
    """`POST /v1/audio/translations`."""

    response_format: TranslationFormat | None = Field(
        None, description="`json` unless the server is set otherwise."
    )

    def request(
        self, request_id: str, client: str, source: Source, defaults: FormDefaults
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        """What to do, and how to answer."""
        fallback = defaults.response_format
        output: OutputFormat = self.response_format or (
            fallback if fallback != "diarized_json" else "json"
        )
        return (
            TranscriptionRequest(
                id=request_id,
                client=client,
                source=source,
                model=self.model or defaults.model,
                decode=DecodeOptions(
                    task="translate",
                    prompt=self.prompt,
                    hotwords=self._hotwords(),
                    temperature=self.temperature,
                    beam_size=defaults.beam_size,
                ),
                align=AlignMode.OFF if output in ("json", "text") else AlignMode.AUTO,
                batch_size=self.batch_size,
                chunk_size=self.chunk_size,
            ),
            OutputOptions(format=output),
        )


class TranscriptionForm(AudioForm):
    """`POST /v1/audio/transcriptions`."""

    language: str | None = Field(None, description="ISO-639-1 code; detected if absent.")
    languages: list[str] = Field(
        default_factory=list,
        alias="languages[]",
        max_length=20,
        description="Candidates: the language is detected among these.",
    )
    keywords: list[Keyword] = Field(
        default_factory=list,
        alias="keywords[]",
        max_length=200,
        description="Words to listen for, one line each.",
    )
    response_format: OutputFormat | None = Field(
        None,
        description="`json` unless the server is set otherwise; `diarized_json` implies `diarize`.",
    )
    timestamp_granularities: list[Granularity] | None = Field(
        None,
        alias="timestamp_granularities[]",
        description="`segment` and `word` decide whether verbose_json has `segments` and `words`; "
        "`segment` if absent.",
    )
    stream: bool = Field(False, description="Answer with server-sent events as windows are done.")
    include: list[Literal["logprobs"]] = Field(
        default_factory=list, alias="include[]", description="`logprobs`, with json only."
    )
    chunking_strategy: Literal["auto"] | ServerVad | None = Field(
        None, description="`auto`, or a `server_vad` object that says how speech is found."
    )
    known_speaker_names: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default_factory=list,
        alias="known_speaker_names[]",
        max_length=4,
        description="Who is known, where speakers are told apart.",
    )
    known_speaker_references: list[str] = Field(
        default_factory=list,
        alias="known_speaker_references[]",
        max_length=4,
        description="For each name, a data URL with 2 to 10 s of that voice.",
    )
    align: bool | None = Field(None, description="Word times by forced alignment; true if absent.")
    diarize: bool = Field(False, description="Speaker labels; needs `align`.")
    min_speakers: int | None = Field(None, ge=1, le=50, description="With `diarize`.")
    max_speakers: int | None = Field(None, ge=1, le=50, description="With `diarize`.")
    num_speakers: int | None = Field(
        None, ge=1, le=50, description="With `diarize`: exactly so many."
    )
    speaker_embeddings: bool = Field(False, description="One vector a speaker in verbose_json.")
    highlight_words: bool = Field(False, description="Underline each word in srt and vtt.")
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
    def _bounds(self) -> Self:
        low, high = self.min_speakers, self.max_speakers
        if low is not None and high is not None and low > high:
            raise InvalidRequest("min_speakers is greater than max_speakers", param="min_speakers")
        count = self.num_speakers
        if count is not None and not (low or count) <= count <= (high or count):
            raise InvalidRequest(
                "num_speakers is not between min_speakers and max_speakers", param="num_speakers"
            )
        if len(self.known_speaker_names) != len(self.known_speaker_references):
            raise InvalidRequest(
                "known_speaker_names[] and known_speaker_references[] must be equally many",
                param="known_speaker_references[]",
            )
        if len(set(self.known_speaker_names)) != len(self.known_speaker_names):
            raise InvalidRequest("a speaker is named twice", param="known_speaker_names[]")
        return self

    def output(self, defaults: FormDefaults) -> OutputOptions:
        """How to answer.

        Raises:
            UnservableCombination: fields that cannot be honoured together.
        """
        output: OutputFormat = self.response_format or defaults.response_format
        diarize = self.diarize or output == "diarized_json"
        aligned = self.align is not False
        words = "word" in (self.timestamp_granularities or ())
        logprobs = "logprobs" in self.include
        rules: list[tuple[bool, str, str]] = [
            (
                output in SUBTITLES and not aligned,
                "align",
                f"response_format {output} needs align=true",
            ),
            (diarize and not aligned, "align", "speaker labels need align=true"),
            (
                words and not aligned,
                "align",
                "timestamp_granularities[]=word needs align=true",
            ),
            (
                self.timestamp_granularities is not None and output not in WITH_SEGMENTS,
                "timestamp_granularities[]",
                "timestamp_granularities[] needs response_format verbose_json or vtt_json",
            ),
            (
                logprobs and output != "json",
                "include[]",
                "include[]=logprobs needs response_format json",
            ),
            (
                self.highlight_words and output not in ("srt", "vtt", "vtt_json"),
                "highlight_words",
                "highlight_words needs response_format srt or vtt",
            ),
            (
                self.stream and output not in STREAMED,
                "stream",
                "stream needs response_format json, text or diarized_json",
            ),
            (
                self.speaker_embeddings and not (diarize and output in WITH_SEGMENTS),
                "speaker_embeddings",
                "speaker_embeddings needs diarize=true and response_format verbose_json",
            ),
            (
                bool(self.known_speaker_names) and not diarize,
                "known_speaker_names[]",
                "known_speaker_names[] needs diarize=true or response_format diarized_json",
            ),
            (
                self.asynchronous and self.stream,
                "async",
                "give either async or stream: a job's events are at its events_url",
            ),
            (
                self.callback_url is not None and not self.asynchronous,
                "callback_url",
                "callback_url needs async=true",
            ),
            (
                bool(self.language and self.languages),
                "languages[]",
                "give either language or languages[], not both",
            ),
        ]
        for name in ("min_speakers", "max_speakers", "num_speakers"):
            given = getattr(self, name) is not None
            rules.append((given and not diarize, name, f"{name} needs diarize=true"))
        for broken, param, message in rules:
            if broken:
                raise UnservableCombination(message, param=param)
        return OutputOptions(
            format=output,
            granularities=frozenset(self.timestamp_granularities or ("segment",)),
            highlight_words=self.highlight_words,
            logprobs=logprobs,
        )

    def request(
        self,
        request_id: str,
        client: str,
        source: Source,
        defaults: FormDefaults,
        known_speakers: tuple[KnownSpeaker, ...] = (),
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        """What to do, and how to answer.

        Raises:
            InvalidRequest: a field has a value it cannot have, or not beside another.
        """
        output = self.output(defaults)
        diarize = self.diarize or output.format == "diarized_json"
        vad = self.chunking_strategy if isinstance(self.chunking_strategy, ServerVad) else None
        return (
            TranscriptionRequest(
                id=request_id,
                client=client,
                source=source,
                model=self.model or defaults.model,
                decode=self._decode(defaults),
                align=self._align_mode(output, diarize=diarize),
                diarize=DiarizeOptions(
                    min_speakers=self.min_speakers,
                    max_speakers=self.max_speakers,
                    num_speakers=self.num_speakers,
                    embeddings=self.speaker_embeddings,
                    known_speakers=known_speakers,
                )
                if diarize
                else None,
                vad=VadOptions(
                    threshold=vad.threshold,
                    prefix_padding_ms=vad.prefix_padding_ms,
                    silence_duration_ms=vad.silence_duration_ms,
                )
                if vad
                else VadOptions(),
                batch_size=self.batch_size,
                chunk_size=self.chunk_size,
            ),
            output,
        )

    def _decode(self, defaults: FormDefaults) -> DecodeOptions:
        task: Task = "transcribe"
        candidates = tuple(dict.fromkeys(_language(each, "languages[]") for each in self.languages))
        language = _language(self.language, "language") if self.language else None
        if language is None and not candidates:
            language = defaults.language
        elif len(candidates) == 1:
            language = candidates[0]
        return DecodeOptions(
            task=task,
            language=language,
            languages=candidates if language is None else (),
            prompt=self.prompt,
            hotwords=self._hotwords(self.keywords),
            temperature=self.temperature,
            suppress_numerals=self.suppress_numerals,
            beam_size=defaults.beam_size,
            logprobs="logprobs" in self.include,
        )

    def _align_mode(self, output: OutputOptions, *, diarize: bool) -> AlignMode:
        """Words are timed when somebody may read them: bare text is the same without."""
        bare = output.format in ("json", "text") and not diarize and not self.asynchronous
        if bare:
            return AlignMode.OFF
        if self.align is False:
            return AlignMode.SEGMENTS
        return AlignMode.FORCED if self.align else AlignMode.AUTO


def parse_form(model: type[F], form: Form) -> F:
    """The form's fields as `model`.

    Raises:
        InvalidRequest: a value that a field cannot have.
    """
    values: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        if _takes(info.annotation, list):
            found: Any = _list_value(form, name)
        elif _takes(info.annotation, BaseModel):
            found = _object_value(form, name)
        else:
            wanted = info.alias or name
            sent = [value for key, value in form.fields if key == wanted and value.strip()]
            found = sent[-1] if sent else None
        if found is not None:
            values[info.alias or name] = found
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error


def choose_source(form: Form, audio_url: str | None) -> Source:
    """The one upload of the form, or the URL.

    Raises:
        MissingParameter: neither is there.
        InvalidRequest: more than one.
    """
    uploads = form.uploads("file")
    if len(uploads) > 1 or (uploads and audio_url):
        raise InvalidRequest("send exactly one of file and audio_url", param="file")
    if uploads:
        return uploads[0]
    if audio_url:
        return RemoteUrl(url=audio_url)
    if any(name == "file" for name, _ in form.fields):
        raise InvalidRequest(
            "file is not a file: send the form as multipart/form-data", param="file"
        )
    raise MissingParameter("file is missing: send a recording, or audio_url", param="file")


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a field's annotation is, or has among its alternatives, that kind of type."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return any(_takes(each, kind) for each in get_args(annotation))
    plain = get_origin(annotation) or annotation
    return isinstance(plain, type) and issubclass(plain, kind)


def _list_value(form: Form, name: str) -> list[Any] | None:
    values = [value for value in form.values(name) if value.strip()]
    if len(values) == 1 and values[0].lstrip().startswith("["):
        parsed = _json(values[0], f"{name}[]")
        return parsed if isinstance(parsed, list) else [parsed]
    return values or None


def _object_value(form: Form, name: str) -> Any:
    parts = {
        key[len(name) + 1 : -1]: value
        for key, value in form.fields
        if key.startswith(f"{name}[") and key.endswith("]") and value.strip()
    }
    if parts:
        return parts
    sent = [value for key, value in form.fields if key == name and value.strip()]
    if not sent:
        return None
    return _json(sent[-1], name) if sent[-1].lstrip().startswith("{") else sent[-1]


def _json(text: str, param: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{param} is not valid JSON", param=param) from error


def _language(value: str, param: str) -> str:
    try:
        return parse_language(value)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, param=param) from error


def _checked_keyword(word: str) -> str:
    try:
        return _one_line(word)
    except ValueError as error:
        raise InvalidRequest(f"hotwords {error}", param="hotwords") from error


def _invalid(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    given = first["input"]
    shown = f", got {given[:80]!r}" if isinstance(given, str) else ""
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}{shown}", param=param)
