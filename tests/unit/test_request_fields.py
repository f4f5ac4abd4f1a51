"""What form fields mean together, without HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from whisperx_api_server.domain import (
    AlignMode,
    DiarizeOptions,
    Job,
    KnownSpeaker,
    OutputOptions,
    RemoteUrl,
    Source,
    Task,
    TranscriptionRequest,
    Upload,
)
from whisperx_api_server.errors import InvalidRequest, UnservableCombination
from whisperx_api_server.fields.transcription import (
    FormDefaults,
    ResultForm,
    TranscriptionForm,
    validated,
)

SOURCE = Upload(id="a", filename="Grüße.wav", size=9, digest="0f")
GERMAN = FormDefaults(model="small", language="de")


def request_of(task: Task = "transcribe", /, **fields: Any) -> TranscriptionRequest:
    form = validated(TranscriptionForm, {name.replace("__", "[]"): v for name, v in fields.items()})
    return form.request("id", "client", SOURCE, GERMAN, task=task)[0]


@pytest.mark.parametrize("source", [SOURCE, RemoteUrl(url="https://a.example/b?c=d", param="url")])
def test_requests_survive_json(source: Source) -> None:
    request = request_of(language="de", diarize=True, response_format="verbose_json")
    known = DiarizeOptions(known_speakers=(KnownSpeaker(name="Ann", reference=SOURCE),))
    request = replace(request, source=source, diarize=known, watched=True)
    adapter = TypeAdapter(TranscriptionRequest)
    back = adapter.validate_json(adapter.dump_json(request))
    assert repr(back) == repr(request)  # ids and names are not compared by ==


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({"response_format": "json"}, AlignMode.OFF),
        ({"response_format": "json", "align": True}, AlignMode.FORCED),
        ({"response_format": "text", "align": True}, AlignMode.FORCED),
        ({"response_format": "json", "align": False}, AlignMode.OFF),
        ({"response_format": "json", "async": True}, AlignMode.AUTO),
        ({"response_format": "json", "diarize": True}, AlignMode.AUTO),
        ({"response_format": "diarized_json"}, AlignMode.AUTO),
        ({"response_format": "verbose_json"}, AlignMode.AUTO),
        ({"response_format": "verbose_json", "align": False}, AlignMode.SEGMENTS),
    ],
)
def test_words_are_timed_where_times_are_shown_or_asked_for(
    fields: dict[str, Any], mode: AlignMode
) -> None:
    assert request_of(**fields).align is mode


@pytest.mark.parametrize(
    ("fields", "language", "candidates"),
    [
        ({}, "de", ()),
        ({"language": "French"}, "fr", ()),
        ({"language": "auto"}, None, ()),
        ({"language": "auto", "languages__": ["fr", "en"]}, None, ("fr", "en")),
        ({"languages__": ["fr", "en"]}, None, ("fr", "en")),
        ({"languages__": ["fr", "French"]}, "fr", ()),
        ({"language": "fr", "languages__": ["French"]}, "fr", ()),
    ],
)
def test_auto_is_detection_and_nothing_is_the_default(
    fields: dict[str, Any], language: str | None, candidates: tuple[str, ...]
) -> None:
    decode = request_of(**fields).decode
    assert (decode.language, decode.languages) == (language, candidates)


def test_hotwords_and_keywords_are_one_list() -> None:
    decode = request_of(hotwords=" Ann,, Bob ,", keywords__=["Carl"]).decode
    assert decode.hotwords == "Ann, Bob, Carl"
    assert request_of(hotwords=" , ").decode.hotwords is None
    with pytest.raises(InvalidRequest, match="hotwords: must be one line"):
        request_of(hotwords="Ann,<|en|>")


def test_a_result_is_written_as_submitted_unless_asked_otherwise() -> None:
    submitted = OutputOptions(
        format="verbose_json",
        granularities=frozenset({"word"}),
        logprobs=True,
        known_speakers=("A",),
    )
    job = Job(id="j", client="c", state="completed", submitted_at=0, output=submitted)
    assert validated(ResultForm, {}).result(job) == submitted
    subtitles = validated(ResultForm, {"response_format": "srt", "highlight_words": True})
    written = subtitles.result(job)
    assert (written.format, written.highlight_words) == ("srt", True)
    assert (written.logprobs, written.known_speakers) == (True, ("A",))
    with pytest.raises(UnservableCombination, match="highlight_words needs"):
        validated(ResultForm, {"highlight_words": True}).result(job)


def test_a_translation_names_the_first_field_that_it_cannot_honour() -> None:
    with pytest.raises(UnservableCombination) as caught:
        request_of("translate", num_speakers=2, diarize=True, prompt="x")
    assert caught.value.param == "diarize"


@pytest.mark.parametrize("fields", [{}, {"language": None}, {"language": "auto"}])
def test_a_translation_detects_its_language_unless_it_is_named(fields: dict[str, Any]) -> None:
    assert request_of("translate", **fields).decode.language is None
    decode = request_of("translate", language="fr", diarize=False, align=False).decode
    assert (decode.task, decode.language, decode.suppress_numerals) == ("translate", "fr", False)


def test_a_translation_is_never_written_as_diarized_json() -> None:
    defaults = FormDefaults(model="small", response_format="diarized_json")
    request, output = TranscriptionForm().request("i", "c", SOURCE, defaults, task="translate")
    assert (output.format, request.diarize) == ("json", None)
