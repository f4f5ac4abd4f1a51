"""The fields of `POST /v1/audio/transcriptions`: what they may be, and what they mean together."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..domain import (
    AlignMode,
    DecodeOptions,
    DiarizeOptions,
    KnownSpeaker,
    OutputFormat,
    OutputOptions,
    Source,
    TranscriptionRequest,
    VadOptions,
)
from ..errors import InvalidRequest
from .common import (
    SUBTITLES,
    WITH_SEGMENTS,
    AudioForm,
    FormDefaults,
    ResultForm,
    Rule,
    SpeakerCount,
    check_rules,
    language_code,
    one_line,
)

WITH_LOGPROBS = frozenset({"json", "verbose_json", "vtt_json"})
STREAMED = frozenset({"json", "text", "diarized_json"})

Keyword = Annotated[str, Field(max_length=200), AfterValidator(one_line)]


class ServerVad(BaseModel):
    """`chunking_strategy` as an object: how speech is found."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["server_vad"]
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None


class TranscriptionForm(ResultForm, AudioForm):
    """`POST /v1/audio/transcriptions`."""

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
    diarize: bool = Field(False, description="Speaker labels; needs `align`.")
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
            InvalidRequest: a language that is not known.
            UnservableCombination: fields that cannot be honoured together.
        """
        output: OutputFormat = self.response_format or defaults.response_format
        # OpenAI's gpt-…transcribe models have no word times, and ignore the request for them.
        times_optional = (self.model or "").startswith("gpt-")
        check_rules(self.presentation_rules(output, times_optional=times_optional))
        check_rules(self._timing_rules(output))
        check_rules(self._speaker_rules(output))
        check_rules(self._delivery_rules(output))
        return OutputOptions(
            format=output,
            granularities=self.shown_granularities(output) or frozenset({"segment"}),
            highlight_words=self.highlight_words,
            logprobs="logprobs" in self.include,
            known_speakers=tuple(self.known_speaker_names),
        )

    def streams(self, output: OutputOptions) -> bool:
        """Whether to answer with events."""
        return self.stream and output.format in STREAMED

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
        diarize = self._diarizes(output.format)
        vad = self.chunking_strategy if isinstance(self.chunking_strategy, ServerVad) else None
        return (
            TranscriptionRequest(
                id=request_id,
                client=client,
                source=source,
                model=self.model or defaults.model,
                decode=self._decode(defaults),
                align=self._align_mode(output),
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

    def _timing_rules(self, output: OutputFormat) -> list[Rule]:
        unaligned = self.align is False
        return [
            (
                unaligned and output in SUBTITLES,
                "align",
                f"response_format {output} needs align=true",
            ),
            (unaligned and self._diarizes(output), "align", "speaker labels need align=true"),
            (
                unaligned and "word" in self.shown_granularities(output),
                "align",
                "timestamp_granularities[]=word needs align=true",
            ),
        ]

    def _speaker_rules(self, output: OutputFormat) -> list[Rule]:
        diarize = self._diarizes(output)
        return [
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
            *(
                (
                    getattr(self, name) is not None and not diarize,
                    name,
                    f"{name} needs diarize=true",
                )
                for name in ("min_speakers", "max_speakers", "num_speakers")
            ),
        ]

    def _delivery_rules(self, output: OutputFormat) -> list[Rule]:
        language = self.named_language()
        return [
            (
                "logprobs" in self.include and output not in WITH_LOGPROBS,
                "include[]",
                "include[]=logprobs needs response_format json or verbose_json",
            ),
            (
                # OpenAI ignores `stream` with whisper-1; the other names promise a stream.
                self.stream and output not in STREAMED and self.model != "whisper-1",
                "stream",
                "stream needs response_format json, text or diarized_json",
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
                language is not None and not {language}.issuperset(self._candidates()),
                "languages[]",
                "give either language or languages[], not both",
            ),
        ]

    def _candidates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(language_code(each, "languages[]") for each in self.languages))

    def _diarizes(self, output: OutputFormat) -> bool:
        return self.diarize or output == "diarized_json"

    def _decode(self, defaults: FormDefaults) -> DecodeOptions:
        candidates = self._candidates()
        language = self.named_language()
        if len(candidates) == 1:
            language = candidates[0]
        elif self.language is None and not candidates:
            language = defaults.language
        return DecodeOptions(
            task="transcribe",
            language=language,
            languages=candidates if language is None else (),
            prompt=self.prompt,
            hotwords=self.all_hotwords(self.keywords),
            temperature=self.temperature,
            suppress_numerals=self.suppress_numerals,
            beam_size=defaults.beam_size,
            logprobs="logprobs" in self.include,
        )

    def _align_mode(self, output: OutputOptions) -> AlignMode:
        """Unless the client decides, words are timed when somebody may read their times."""
        if self.align:
            return AlignMode.FORCED
        bare = output.format in ("json", "text") and not self.asynchronous
        if bare and not self._diarizes(output.format):
            return AlignMode.OFF
        return AlignMode.AUTO if self.align is None else AlignMode.SEGMENTS
