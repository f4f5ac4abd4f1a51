"""Validates combinations of fields: every combination that is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..domain import Job, OutputOptions
from ..errors import InvalidRequest, UnservableCombination
from ..output_formats import FORMATS, OutputFormat

if TYPE_CHECKING:
    from .transcription import ResultForm, TranscriptionForm

Rule = tuple[bool, str, str]
"""Whether a combination is broken, the field at fault, and the message."""

TRANSLATED = frozenset(
    {
        *("audio_url", "model", "language", "prompt", "hotwords", "temperature"),
        *("batch_size", "chunk_size", "response_format"),
    }
)
"""The fields that a translation can honour."""

_ASKS_NOTHING: tuple[Any, ...] = (None, False, [], "auto", ["segment"])
"""Values of the other fields that a translation can ignore."""


def check(rules: Iterable[Rule], error: type[InvalidRequest] = UnservableCombination) -> None:
    """Refuse the first combination that is broken.

    Raises:
        InvalidRequest: of class `error`, naming the field at fault.
    """
    for broken, param, message in rules:
        if broken:
            raise error(message, param=param)


def of_speakers(form: TranscriptionForm) -> Iterator[Rule]:
    """Fields about speakers that contradict each other."""
    low, high, count = form.min_speakers, form.max_speakers, form.num_speakers
    names, references = form.known_speaker_names, form.known_speaker_references
    yield (
        low is not None and high is not None and low > high,
        "min_speakers",
        "min_speakers is greater than max_speakers",
    )
    yield (
        count is not None and not (low or count) <= count <= (high or count),
        "num_speakers",
        "num_speakers is not between min_speakers and max_speakers",
    )
    yield (
        len(names) != len(references),
        "known_speaker_references[]",
        "known_speaker_names[] and known_speaker_references[] must have the same number of values",
    )
    yield (
        len(set(names)) != len(names),
        "known_speaker_names[]",
        "known_speaker_names[] has the same name twice: send each name once",
    )


def of_presentation(
    form: ResultForm, output: OutputFormat, *, times_optional: bool = False
) -> Iterator[Rule]:
    """Fields that the format cannot show."""
    words = "word" in (form.timestamp_granularities or ())
    yield (
        words and not FORMATS[output].segments and not times_optional,
        "timestamp_granularities[]",
        "timestamp_granularities[]=word needs response_format verbose_json or vtt_json",
    )
    yield (
        form.highlight_words and not FORMATS[output].highlights,
        "highlight_words",
        "highlight_words needs response_format srt, vtt or vtt_json",
    )


def of_transcription(form: TranscriptionForm, output: OutputFormat) -> Iterator[Rule]:
    """Fields that a transcription cannot honour together."""
    # OpenAI's gpt-…transcribe models have no word times, and ignore the request for them.
    yield from of_presentation(form, output, times_optional=(form.model or "").startswith("gpt-"))
    shown, diarize, unaligned = FORMATS[output], form.diarizes(output), form.align is False
    yield (
        unaligned and shown.timed,
        "align",
        f"response_format {output} cannot be combined with align=false: leave align out",
    )
    yield (
        unaligned and diarize,
        "align",
        "speaker labels cannot be combined with align=false: leave align out",
    )
    yield (
        unaligned and "word" in form.shown_granularities(output),
        "align",
        "timestamp_granularities[]=word cannot be combined with align=false: leave align out",
    )
    yield (
        form.speaker_embeddings and not (diarize and shown.segments),
        "speaker_embeddings",
        "speaker_embeddings needs diarize=true and response_format verbose_json or vtt_json",
    )
    yield (
        bool(form.known_speaker_names) and not diarize,
        "known_speaker_names[]",
        "known_speaker_names[] needs diarize=true or response_format diarized_json",
    )
    for name in ("min_speakers", "max_speakers", "num_speakers"):
        unused = getattr(form, name) is not None and not diarize
        yield unused, name, f"{name} needs diarize=true or response_format diarized_json"
    yield (
        "logprobs" in form.include and not shown.logprobs,
        "include[]",
        "include[]=logprobs needs response_format json, verbose_json or vtt_json",
    )
    yield (
        # OpenAI ignores `stream` with whisper-1; the other names promise a stream.
        form.stream and not shown.streams and form.model != "whisper-1",
        "stream",
        "stream needs response_format json, text or diarized_json",
    )
    yield (
        form.asynchronous and form.stream,
        "async",
        "give either async or stream: a job's events are at its events_url",
    )
    yield (
        form.callback_url is not None and not form.asynchronous,
        "callback_url",
        "callback_url needs async=true",
    )
    yield (
        form.named_language is not None and not {form.named_language}.issuperset(form.languages),
        "languages[]",
        "give either language or languages[], not both",
    )


def of_translation(form: TranscriptionForm) -> Iterator[Rule]:
    """Fields that a translation cannot honour."""
    for name, info in type(form).model_fields.items():
        if name not in TRANSLATED:
            param = info.alias or name
            asked = name in form.model_fields_set and getattr(form, name) not in _ASKS_NOTHING
            yield asked, param, f"translations do not support {param}: leave it out"


def of_words(form: TranscriptionForm) -> Iterator[Rule]:
    """Fields that Reflector's answer, which has only words, cannot honour."""
    beyond = {
        "stream": form.stream,
        "async": form.asynchronous,
        "diarize": form.diarize,
        "align": form.align is False,
        "response_format": form.response_format not in (None, "json", "verbose_json"),
        "include[]": bool(form.include),
        "highlight_words": form.highlight_words,
    }
    for param, asked in beyond.items():
        yield (
            asked,
            param,
            f"Reflector's response format has only words and does not support {param}: send "
            "one file as `file`, without batch, to /v1/audio/transcriptions",
        )


def of_result(job: Job, output: OutputOptions) -> Iterator[Rule]:
    """Formats whose content the job did not compute; it is not run again."""
    no_word_times = "the job has no word times: submit it without align=false"
    yield (
        output.format == "diarized_json" and not job.diarize,
        "response_format",
        "the job has no speakers: submit it with diarize=true",
    )
    yield (
        FORMATS[output.format].segments and "word" in output.granularities and not job.words,
        "timestamp_granularities[]",
        no_word_times,
    )
    yield output.highlight_words and not job.words, "highlight_words", no_word_times
