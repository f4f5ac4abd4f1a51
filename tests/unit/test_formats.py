"""Formats: what OpenAI's SDK, subtitle readers, Audacity and Reflector read is what was said."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st
from openai import BaseModel
from openai._models import validate_type
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

from whisperx_api_server.domain import (
    Diarization,
    Granularity,
    OutputOptions,
    Segment,
    SpeakerTurn,
    TokenLogprob,
    Transcript,
    Word,
)
from whisperx_api_server.formats.openai_json import (
    SpeakerNames,
    delta_event,
    done_event,
    segment_event,
    text_delta,
)
from whisperx_api_server.formats.reflector_json import (
    reflector_diarization,
    reflector_file,
    reflector_transcript,
    reflector_transcription,
)
from whisperx_api_server.formats.render import render
from whisperx_api_server.output_formats import FORMATS, OutputFormat

LONG = (
    "Well, this is a rather long sentence that goes on, and on, until nobody remembers how it "
    "began. Does it matter? Perhaps it does, and perhaps it does not; who could say."
)


def spoken(text: str, *, start: float = 0.0, speaker: str | None = None) -> Segment:
    """A segment whose words, split at spaces, take 0.4 s of each half second."""
    words = tuple(
        Word(text=word, start=start + i / 2, end=start + i / 2 + 0.4, score=0.9, speaker=speaker)
        for i, word in enumerate(text.split())
    )
    return Segment(
        start=start,
        end=words[-1].end,
        text=text,
        language="en",
        words=words,
        speaker=speaker,
        tokens=(1, 2),
        avg_logprob=-0.2,
        logprobs=(TokenLogprob(token="é", logprob=-0.1, bytes=(195, 169)),),
    )


def transcript_of(*segments: Segment, **changes: Any) -> Transcript:
    transcript = Transcript(
        task="transcribe", language="en", languages=("en",), duration=8.47, segments=segments
    )
    return replace(transcript, **changes)


def body(transcript: Transcript, form: OutputFormat, **options: Any) -> str:
    rendered = render(transcript, OutputOptions(format=form, **options))
    assert rendered.media_type == FORMATS[form].media_type
    return rendered.body


def checked(shape: type[BaseModel], data: str | Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object, after the SDK's own strict validation of it."""
    value: dict[str, Any] = json.loads(data) if isinstance(data, str) else dict(data)
    assert isinstance(validate_type(type_=shape, value=value), shape)
    return value


TALK = transcript_of(
    spoken("Hello there.", speaker="SPEAKER_03"), spoken("Hi!", start=2, speaker="SPEAKER_01")
)


def test_json_has_text_usage_languages_and_logprobs_on_request() -> None:
    plain = checked(Transcription, body(TALK, "json"))
    assert plain == {
        "text": "Hello there. Hi!",
        "usage": {"type": "duration", "seconds": 9},
        "languages": [{"code": "en"}],
    }
    full = checked(Transcription, body(TALK, "json", logprobs=True))
    assert full["logprobs"] == [{"token": "é", "bytes": [195, 169], "logprob": -0.1}] * 2


@pytest.mark.parametrize(
    ("granularities", "present"),
    [
        ({"segment"}, {"segments"}),
        ({"word"}, {"words"}),
        ({"segment", "word"}, {"segments", "words"}),
    ],
)
def test_verbose_json_has_what_the_granularities_name(
    granularities: set[Granularity], present: set[str]
) -> None:
    got = body(TALK, "verbose_json", granularities=frozenset(granularities))
    verbose = checked(TranscriptionVerbose, got)
    assert {"segments", "words"} & verbose.keys() == present
    assert verbose["language"] == "english"
    assert verbose["duration"] == 8.47
    for segment in verbose.get("segments", ()):
        assert ("words" in segment) == ("word" in granularities)
    if "words" in present:
        assert verbose["words"][0] == {
            "word": "Hello",
            "start": 0.0,
            "end": 0.4,
            "score": 0.9,
            "speaker": "SPEAKER_03",
        }


def test_a_verbose_segment_has_every_field() -> None:
    segment = json.loads(body(TALK, "verbose_json"))["segments"][1]
    assert segment == {
        "id": 1,
        "seek": 200,
        "start": 2.0,
        "end": 2.4,
        "text": " Hi!",
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": -0.2,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
        "speaker": "SPEAKER_01",
    }


def test_joined_segments_are_the_text() -> None:
    mixed = transcript_of(
        spoken(" One."), spoken("Two. "), replace(spoken("日本。"), language="ja")
    )
    verbose = json.loads(body(mixed, "verbose_json"))
    assert [segment["text"] for segment in verbose["segments"]] == [" One.", " Two.", "日本。"]
    assert "".join(segment["text"] for segment in verbose["segments"]).strip() == verbose["text"]


def test_verbose_json_has_logprobs_on_request() -> None:
    verbose = json.loads(body(TALK, "verbose_json", logprobs=True))
    assert verbose["logprobs"] == json.loads(body(TALK, "json", logprobs=True))["logprobs"]
    assert "logprobs" not in json.loads(body(TALK, "verbose_json"))


def test_a_translation_is_english() -> None:
    translated = replace(TALK, task="translate", language="fr", languages=("fr",))
    verbose = checked(TranslationVerbose, body(translated, "verbose_json"))
    assert (verbose["task"], verbose["language"]) == ("translate", "english")
    assert "languages" not in checked(Translation, body(translated, "json"))


def test_vtt_json_is_verbose_json_and_the_subtitles() -> None:
    both = checked(TranscriptionVerbose, body(TALK, "vtt_json"))
    assert both.pop("vtt_text") == body(TALK, "vtt")
    assert both == json.loads(body(TALK, "verbose_json"))


@pytest.mark.parametrize("form", ["json", "verbose_json", "vtt_json", "diarized_json"])
def test_warnings_stand_beside_the_answer_where_there_are_any(form: OutputFormat) -> None:
    assert "warnings" not in json.loads(body(TALK, form))
    warned = replace(TALK, warnings=("No aligner.",))
    assert json.loads(body(warned, form))["warnings"] == ["No aligner."]
    done = checked(TranscriptionTextDoneEvent, done_event(warned, OutputOptions()))
    assert done["warnings"] == ["No aligner."]


def test_speaker_embeddings_are_given_when_there_are_any() -> None:
    assert "speaker_embeddings" not in json.loads(body(TALK, "verbose_json"))
    voiced = replace(TALK, speaker_embeddings={"SPEAKER_03": (0.5, -1.0)})
    got = json.loads(body(voiced, "verbose_json"))
    assert got["speaker_embeddings"] == {"SPEAKER_03": [0.5, -1.0]}


def test_diarized_json_letters_speakers_as_they_appear() -> None:
    diarized = checked(TranscriptionDiarized, body(TALK, "diarized_json"))
    assert diarized["segments"] == [
        {
            "type": "transcript.text.segment",
            "id": f"seg_00{index}",
            "start": start,
            "end": end,
            "text": text,
            "speaker": speaker,
        }
        for index, start, end, text, speaker in [
            (1, 0.0, 0.9, "Hello there.", "A"),
            (2, 2.0, 2.4, "Hi!", "B"),
        ]
    ]
    nobody = transcript_of(spoken("Hello."))
    assert json.loads(body(nobody, "diarized_json"))["segments"][0]["speaker"] == "A"


def test_known_names_stay_and_no_letter_repeats_one() -> None:
    names = SpeakerNames(["A", "ann"])
    assert [
        names(each) for each in ("SPEAKER_07", "A", "ann", "SPEAKER_00", "SPEAKER_07", None)
    ] == [*("B", "A", "ann", "C", "B", "D")]
    numbered = SpeakerNames()
    many = [numbered(f"SPEAKER_{n:02d}") for n in range(703)]
    assert [many[n] for n in (0, 25, 26, 51, 52, 701, 702)] == [
        *("A", "Z", "AA", "AZ", "BA", "ZZ", "AAA")
    ]


@pytest.mark.parametrize("form", ["json", "verbose_json", "vtt_json", "diarized_json"])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_json_has_no_number_that_json_does_not_have(form: OutputFormat, odd: float) -> None:
    word = Word(text="a", start=odd, end=odd, score=odd)
    segment = Segment(
        start=odd, end=1, text="a", words=(word,), avg_logprob=odd, compression_ratio=odd
    )
    transcript = transcript_of(segment, duration=odd, speaker_embeddings={"A": (odd,)})
    granularities = frozenset({"segment", "word"})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = body(transcript, form, granularities=granularities)
    json.loads(text, parse_constant=refuse)


def test_times_never_run_backwards() -> None:
    word = Word(text="a", start=1.0006, end=1.0)
    segment = Segment(start=-0.5, end=-1, text="a", words=(word,))
    granularities = frozenset({"segment", "word"})
    got = json.loads(body(transcript_of(segment), "verbose_json", granularities=granularities))
    assert (got["words"][0]["start"], got["words"][0]["end"]) == (1.001, 1.001)
    assert (got["segments"][0]["start"], got["segments"][0]["end"]) == (0.0, 0.0)


def test_text_is_bare_and_letters_stay_letters() -> None:
    quoted = transcript_of(spoken('"Où?" 日本'))
    assert body(quoted, "text") == '"Où?" 日本\n'
    assert "Où" in body(quoted, "json")
    assert body(transcript_of(), "text") == "\n"


def test_aud_is_a_label_track() -> None:
    tricky = Segment(start=3, end=4.25, text="one\ttwo\nthree")
    assert body(transcript_of(*TALK.segments, tricky), "aud") == (
        "0.000000\t0.900000\t[SPEAKER_03]: Hello there.\n"
        "2.000000\t2.400000\t[SPEAKER_01]: Hi!\n"
        "3.000000\t4.250000\tone two three\n"
    )


@pytest.mark.parametrize("form", list(FORMATS))
def test_silence_renders_in_every_format(form: OutputFormat) -> None:
    silence = transcript_of(languages=(), duration=0.0)
    text = body(silence, form, highlight_words=True)
    if form == "vtt":
        assert text.startswith("WEBVTT")
        assert list(webvtt.from_string(text)) == []


# Subtitles.

Cue = tuple[int, int, str]


def read_srt(text: str) -> list[Cue]:
    cues = list(srt.parse(text))
    assert [cue.index for cue in cues] == list(range(1, len(cues) + 1))
    return [
        (
            round(cue.start.total_seconds() * 1000),
            round(cue.end.total_seconds() * 1000),
            cue.content,
        )
        for cue in cues
    ]


def read_vtt(text: str) -> list[Cue]:
    return [
        (
            cue.start_time.in_milliseconds(),
            cue.end_time.in_milliseconds(),
            html.unescape(cue.raw_text),
        )
        for cue in webvtt.WebVTT.from_buffer(io.StringIO(text), strict=True)
    ]


def check_cues(cues: list[Cue], *, width: int = 42) -> None:
    assert all(cue[1] <= following[0] for cue, following in pairwise(cues))
    for start, end, text in cues:
        assert 0 <= start < end <= start + 7000
        lines = text.split("\n")
        assert len(lines) <= 2
        assert all(0 < len(line.strip()) <= width for line in lines)


def flat(cues: list[Cue]) -> str:
    return " ".join(" ".join(text.split()) for _, _, text in cues)


def test_both_subtitle_formats_say_the_same_and_read_back() -> None:
    transcript = transcript_of(spoken(LONG), spoken('The <b>end</b> & "more".', start=20))
    cues = read_srt(body(transcript, "srt"))
    check_cues(cues)
    assert flat(cues) == transcript.text
    assert read_vtt(body(transcript, "vtt")) == cues
    assert '&lt;b&gt;end&lt;/b&gt; &amp; "more".' in body(transcript, "vtt")


def test_long_cues_are_cut_at_sentences_then_clauses_with_the_words_times() -> None:
    transcript = transcript_of(spoken(LONG))
    cues = read_srt(body(transcript, "srt"))
    ends = [text.rstrip()[-1] for _, _, text in cues]
    assert set(ends) <= {".", "?", ",", ";"}
    assert any(text.endswith("began.") for _, _, text in cues)
    words = LONG.split()
    place = 0
    for start, end, text in cues:
        count = len(text.split())
        assert start == place * 500
        assert end == (place + count - 1) * 500 + 400
        place += count
    assert place == len(words)


def test_cues_and_lines_are_not_cut_after_abbreviations() -> None:
    text = (
        "We do not know whether it was on the same day that we met. And Mr. John Dashwood had then "
        "leisure to consider how much there might be, and Dr. J. K. Bell of St. Ives had paid 2.50."
    )
    lines = [
        line
        for _, _, shown in read_srt(body(transcript_of(spoken(text)), "srt"))
        for line in shown.split("\n")
    ]
    assert " ".join(lines) == text
    assert not [line for line in lines if line.endswith(("Mr.", "Dr.", "J.", "K.", "St.", "2."))]


def test_without_words_time_is_shared_out_by_characters() -> None:
    segment = Segment(start=10, end=20, text=LONG, language="en")
    cues = read_srt(body(transcript_of(segment), "srt"))
    check_cues(cues)
    assert flat(cues) == LONG
    assert (cues[0][0], cues[-1][1]) == (10_000, 20_000)
    for start, end, text in cues:
        assert end - start == pytest.approx(10_000 * len(text) / len(LONG), abs=150)


def test_text_without_spaces_is_cut_too_and_is_twice_as_wide() -> None:
    text = (
        "これは日本語の長い文章です。句読点の後で分割されるはずですが、そうでない場合もあります。"
        * 2
    )
    segment = Segment(start=0, end=20, text=text, language="ja")
    cues = read_vtt(body(transcript_of(segment), "vtt"))
    check_cues(cues, width=21)
    assert "".join(flat(cues).split()) == text
    assert not any(line[0] in "。、" for _, _, text in cues for line in text.split("\n"))


def test_no_line_begins_with_the_punctuation_of_the_one_before() -> None:
    segment = Segment(start=0, end=5, text="あ" * 11 + "、" + "い" * 10, language="ja")
    ((_, _, text),) = read_srt(body(transcript_of(segment), "srt"))
    assert text in ("あ" * 11 + "、\n" + "い" * 10, "あ" * 10 + "\nあ、" + "い" * 10)


def test_words_far_apart_are_shown_when_they_are_said() -> None:
    words = (Word(text="Ready?", start=0, end=1), Word(text="Go!", start=14, end=15))
    segment = Segment(start=0, end=15, text="Ready? Go!", words=words)
    cues = read_srt(body(transcript_of(segment), "srt"))
    assert cues == [(0, 1000, "Ready?"), (14_000, 15_000, "Go!")]


def test_every_cue_names_its_speaker() -> None:
    cues = read_srt(body(transcript_of(spoken(LONG, speaker="SPEAKER_00")), "srt"))
    check_cues(cues)
    assert all(text.startswith("[SPEAKER_00]: ") for _, _, text in cues)
    assert flat(cues).replace("[SPEAKER_00]: ", "") == LONG


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_highlighting_marks_each_word_while_it_is_said(form: OutputFormat) -> None:
    transcript = transcript_of(spoken("One two three."))
    text = body(transcript, form, highlight_words=True)
    cues = read_srt(text) if form == "srt" else read_vtt(text)
    assert cues == [
        (0, 400, "<u>One</u> two three."),
        (400, 500, "One two three."),
        (500, 900, "One <u>two</u> three."),
        (900, 1000, "One two three."),
        (1000, 1400, "One two <u>three.</u>"),
    ]


def test_text_between_the_words_is_shown_without_a_highlight() -> None:
    words = (Word(text="One", start=0, end=1), Word(text="two", start=9, end=10))
    segment = Segment(start=0, end=10, text="One … (laughter) … two", words=words)
    cues = read_srt(body(transcript_of(segment), "srt", highlight_words=True))
    assert "laughter" in flat(cues)
    check_cues(cues)


def test_without_words_there_is_nothing_to_highlight() -> None:
    transcript = transcript_of(Segment(start=0, end=1, text="One two."))
    assert read_srt(body(transcript, "srt", highlight_words=True)) == [(0, 1000, "One two.")]


def test_cues_that_start_together_are_shown_one_after_the_other() -> None:
    segments = (
        Segment(start=1, end=3, text="first"),
        Segment(start=1, end=1, text="second"),
        Segment(start=2, end=2, text="third"),
    )
    cues = read_srt(body(transcript_of(*segments), "srt"))
    check_cues(cues)
    assert [text for _, _, text in cues] == ["first", "second", "third"]


def test_text_cannot_break_out_of_its_cue() -> None:
    nasty = "1\n\n00:00:01,000 --> 00:00:02,000\n\nNOTE x --> y ---> z - -> \u2028 STYLE"
    segment = Segment(start=0, end=5, text=nasty, speaker="a\n\n-->b")
    for cues in (
        read_srt(body(transcript_of(segment), "srt")),
        read_vtt(body(transcript_of(segment), "vtt")),
    ):
        check_cues(cues, width=60)
        assert flat(cues).startswith("[a ->b]: 1 00:00:01,000 -> 00:00:02,000")
        assert cues[0][0] == 0


SEGMENTS = st.lists(
    st.builds(
        lambda start, length, text, speaker, words: Segment(
            start=start,
            end=start + length,
            text=text,
            speaker=speaker,
            language="en",
            words=tuple(
                Word(
                    text=word,
                    start=start + length * i / (len(text.split()) or 1),
                    end=start + length * (i + 1) / (len(text.split()) or 1),
                )
                for i, word in enumerate(text.split())
            )
            if words
            else None,
        ),
        start=st.floats(0, 100),
        length=st.floats(0, 40),
        text=st.text(st.sampled_from("abc 12,.!?<>&-\n\té日:"), max_size=250),
        speaker=st.none() | st.just("SPEAKER_00"),
        words=st.booleans(),
    ),
    max_size=8,
)


@given(SEGMENTS, st.booleans())
def test_any_transcript_reads_back_from_both_formats(
    segments: list[Segment], highlight: bool
) -> None:
    transcript = transcript_of(*segments)
    cues = read_srt(body(transcript, "srt", highlight_words=highlight))
    check_cues(cues, width=42 + len("[SPEAKER_00]: ") + len("<u></u>"))
    assert read_vtt(body(transcript, "vtt", highlight_words=highlight)) == cues


# Streaming.


def test_deltas_make_up_the_text_exactly() -> None:
    groups = [
        [spoken("One. "), Segment(start=0, end=1, text=" ")],
        [],
        [replace(spoken(" 日本"), language="ja"), replace(spoken("です"), language="ja")],
        [spoken("Two."), spoken("Three.")],
    ]
    text = ""
    for group in groups:
        text += text_delta(group, first=not text)
    whole = transcript_of(*(segment for group in groups for segment in group))
    done = checked(TranscriptionTextDoneEvent, done_event(whole, OutputOptions()))
    assert done["text"] == text == whole.text


def test_events_are_those_that_the_sdk_knows() -> None:
    logprobs = TALK.segments[0].logprobs
    delta = checked(
        TranscriptionTextDeltaEvent,
        delta_event("Hi", logprobs=logprobs),
    )
    assert delta["logprobs"][0]["bytes"] == [195, 169]
    assert delta_event("Hi") == {"type": "transcript.text.delta", "delta": "Hi"}
    segment = checked(
        TranscriptionTextSegmentEvent,
        segment_event(TALK.segments[1], 1, SpeakerNames()),
    )
    assert (segment["id"], segment["speaker"], segment["text"]) == ("seg_002", "A", "Hi!")
    done = checked(TranscriptionTextDoneEvent, done_event(TALK, OutputOptions(logprobs=True)))
    assert len(done["logprobs"]) == 2


def test_the_stream_ends_with_the_usage_that_rust_clients_require() -> None:
    """async-openai 0.43 reads the event into structs without defaults: u32 is a plain integer."""
    done = done_event(TALK, OutputOptions())
    usage = done["usage"]
    assert usage["type"] == "tokens"
    for number in ("input_tokens", "output_tokens", "total_tokens"):
        assert type(usage[number]) is int
    for number in ("audio_tokens", "text_tokens"):
        assert type(dict(usage["input_token_details"])[number]) is int
    assert type(done["text"]) is str
    assert type(delta_event("Hi")["delta"]) is str
    segment = segment_event(TALK.segments[0], 0, SpeakerNames())
    assert {key: type(value) for key, value in segment.items()} == {
        "type": str,
        "id": str,
        "start": float,
        "end": float,
        "text": str,
        "speaker": str,
    }


def test_usage_counts_each_window_once() -> None:
    # 8.47 s; both sentences repeat the two tokens of their window, the third is of another
    other = replace(spoken("Bye.", start=5), tokens=(3, 4, 5))
    usage = done_event(transcript_of(*TALK.segments, other), OutputOptions())["usage"]
    assert usage == {
        "type": "tokens",
        "input_tokens": 85,
        "input_token_details": {"audio_tokens": 85, "text_tokens": 0},
        "output_tokens": 5,
        "total_tokens": 90,
    }


def test_usage_counts_words_where_the_engine_has_no_tokens() -> None:
    spaced = replace(spoken("One two three."), tokens=())
    spaceless = replace(spoken("日本 語"), tokens=(), language="ja")
    assert (
        done_event(transcript_of(spaced, spaceless), OutputOptions())["usage"]["output_tokens"] == 6
    )
    assert done_event(transcript_of(duration=0.0), OutputOptions())["usage"]["total_tokens"] == 0


# Reflector.


def test_reflector_joins_the_words_into_the_text() -> None:
    one = reflector_file(TALK, "talk.mp3")
    assert one["filename"] == "talk.mp3"
    assert one["words"][0] == {"word": "Hello ", "start": 0.0, "end": 0.4}
    assert "".join(word["word"] for word in one["words"]).strip() == one["text"]
    assert reflector_transcript(TALK)["words"][2] == {"text": "Hi! ", "start": 2.0, "end": 2.4}
    assert reflector_transcription(TALK, 100.5)["words"][2] == {
        "word": "Hi! ",
        "start": 102.5,
        "end": 102.9,
    }


def test_reflector_counts_speakers_from_zero() -> None:
    turns = (
        SpeakerTurn(start=2, end=3, speaker="SPEAKER_00"),
        SpeakerTurn(start=0, end=1, speaker="SPEAKER_01"),
        SpeakerTurn(start=4, end=5, speaker="SPEAKER_01"),
    )
    assert reflector_diarization(Diarization(turns=turns, exclusive=()), 10) == {
        "diarization": [
            {"start": 10.0, "end": 11.0, "speaker": 0},
            {"start": 12.0, "end": 13.0, "speaker": 1},
            {"start": 14.0, "end": 15.0, "speaker": 0},
        ]
    }
