"""Requests as real clients send them: each is honoured, refused, or ignored as OpenAI does."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from live import Events
from server import Server
from support import wav
from tones import CHUNK, reference, sentences
from whisperx_api_server.backends.fake import say, silence

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
GRANULARITIES = "timestamp_granularities[]"

RECORDING = wav(np.concatenate([say("red door"), silence(1), say("blue house", speaker=1)]))
TEXT = "red door. blue house."
FRENCH = wav(say("rouge porte", language="fr"))


def refused(answer: httpx.Response, status: int, param: str) -> str:
    """The message of an error about that field."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    return str(error["message"])


# -- fields that OpenAI ignores -----------------------------------------------------------------


@pytest.mark.parametrize("output", ["json", "text", "srt", "vtt", "aud", "diarized_json"])
def test_granularity_segment_is_ignored_in_formats_without_segments(
    either_server: Server, output: str
) -> None:
    plain = either_server.transcribe(RECORDING, response_format=output)
    asked = either_server.transcribe(
        RECORDING, response_format=output, **{GRANULARITIES: "segment"}
    )

    assert asked.status_code == 200, asked.text
    assert asked.text == plain.text


@pytest.mark.parametrize("model", ["gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-transcribe"])
@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"]])
def test_gpt_models_ignore_granularities_with_json(
    either_server: Server, model: str, granularities: list[str]
) -> None:
    fields: dict[str, Any] = {"model": model, GRANULARITIES: granularities}
    answer = either_server.transcribe(RECORDING, response_format="json", **fields)

    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == TEXT
    assert "words" not in answer.json()


def test_whisper_models_name_the_format_that_has_word_times(either_server: Server) -> None:
    for model in ("whisper-1", "tiny"):
        answer = either_server.transcribe(RECORDING, model=model, **{GRANULARITIES: "word"})
        assert "verbose_json" in refused(answer, 422, GRANULARITIES)


@pytest.mark.parametrize("output", ["verbose_json", "srt", "vtt"])
def test_whisper_1_ignores_stream_where_the_format_has_none(
    either_server: Server, output: str
) -> None:
    fields = {"model": "whisper-1", "response_format": output}
    whole = either_server.transcribe(RECORDING, **fields)
    streamed = either_server.transcribe(RECORDING, stream="true", **fields)

    assert streamed.status_code == 200
    assert streamed.headers["content-type"] == whole.headers["content-type"]
    assert streamed.text == whole.text
    fields["model"] = "gpt-4o-transcribe"
    refused(either_server.transcribe(RECORDING, stream="true", **fields), 422, "stream")


def test_logprobs_are_in_verbose_json_too(either_server: Server) -> None:
    fields = {"model": "whisper-1", "include[]": "logprobs"}
    verbose = either_server.transcribe(RECORDING, response_format="verbose_json", **fields).json()
    plain = either_server.transcribe(RECORDING, response_format="json", **fields).json()

    assert verbose["logprobs"] == plain["logprobs"]
    assert verbose["segments"]


# -- languages ----------------------------------------------------------------------------------


def test_language_auto_is_detection(either_server: Server) -> None:
    for auto in ("auto", " AUTO "):
        verbose = either_server.transcribe(FRENCH, language=auto, response_format="verbose_json")
        assert verbose.json()["language"] == "french"
    assert either_server.transcribe(FRENCH, TRANSLATIONS, language="auto").json()["text"] == (
        "red door."
    )


def test_a_language_and_the_same_as_candidate_agree(either_server: Server) -> None:
    both: dict[str, Any] = {"language": "fr", "languages[]": ["fr", "French"]}
    assert either_server.transcribe(FRENCH, **both).json()["text"] == "rouge porte."
    other: dict[str, Any] = {"language": "fr", "languages[]": ["fr", "de"]}
    refused(either_server.transcribe(FRENCH, **other), 422, "languages[]")


# -- spellings ----------------------------------------------------------------------------------


def test_numbered_lists_are_lists(either_server: Server) -> None:
    fields = {
        "response_format": "verbose_json",
        "timestamp_granularities[0]": "word",
        "timestamp_granularities[1]": "segment",
    }
    answer = either_server.transcribe(RECORDING, **fields).json()
    assert answer["words"]
    assert answer["segments"]
    assert either_server.transcribe(FRENCH, **{"languages[0]": "fr"}).json()["languages"] == [
        {"code": "fr"}
    ]
    several = [(f"files[{n}]", (f"{n}.wav", RECORDING)) for n in range(2)]
    answer = either_server.http.post(TRANSCRIPTIONS, files=several, data={"model": "whisper-1"})
    assert [each["filename"] for each in answer.json()["results"]] == ["0.wav", "1.wav"]


def test_space_around_a_value_is_removed(either_server: Server) -> None:
    fields: dict[str, Any] = {
        "response_format": " verbose_json\r\n",
        GRANULARITIES: [" word "],
    }
    answer = either_server.transcribe(RECORDING, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["words"]


# -- translations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": "true"}, "stream"),
        ({"async": "true"}, "async"),
        ({"diarize": "true"}, "diarize"),
        ({"callback_url": "https://example.com"}, "callback_url"),
        ({GRANULARITIES: "word"}, GRANULARITIES),
        ({"include[]": "logprobs"}, "include[]"),
        ({"languages[]": "fr"}, "languages[]"),
        ({"keywords[]": "porte"}, "keywords[]"),
        ({"align": "true"}, "align"),
        ({"highlight_words": "true", "response_format": "srt"}, "highlight_words"),
        ({"suppress_numerals": "true"}, "suppress_numerals"),
        ({"chunking_strategy": '{"type": "server_vad"}'}, "chunking_strategy"),
        ({"min_speakers": "2"}, "min_speakers"),
    ],
)
def test_a_translation_refuses_what_it_cannot_honour(
    either_server: Server, fields: dict[str, str], param: str
) -> None:
    answer = either_server.transcribe(FRENCH, TRANSLATIONS, **fields)
    assert param in refused(answer, 422, param)


def test_a_translation_takes_fields_that_ask_for_nothing(either_server: Server) -> None:
    fields = {
        "stream": "false",
        "diarize": "false",
        "async": "0",
        "align": "false",
        "chunking_strategy": "auto",
        GRANULARITIES: "segment",
        "suppress_numerals": "false",
        "known_speaker_names[]": "",
        "never_heard_of": "it",
    }
    answer = either_server.transcribe(FRENCH, TRANSLATIONS, **fields)
    assert answer.json()["text"] == "red door."


def test_a_translation_honours_the_source_language(either_server: Server) -> None:
    answer = either_server.transcribe(FRENCH, TRANSLATIONS, language="French")
    assert answer.json()["text"] == "red door."
    refused(either_server.transcribe(FRENCH, TRANSLATIONS, language="xx"), 400, "language")


# -- streams ------------------------------------------------------------------------------------


def test_events_carry_their_type_as_name(either_server: Server) -> None:
    events = Events(either_server, RECORDING, response_format="diarized_json")
    lines = [line for line in events.response.iter_lines() if line]

    names = [line for line in lines if line.startswith("event: ")]
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert names == [f"event: {json.loads(each)['type']}" for each in data[:-1]]
    assert set(names) == {
        "event: transcript.text.delta",
        "event: transcript.text.segment",
        "event: transcript.text.done",
    }
    assert lines[-1] == "data: [DONE]"


def test_a_known_speaker_keeps_letters_from_others_in_streams_and_answers(
    either_server: Server,
) -> None:
    """The known speaker is called A and appears last: nobody before may be called A."""
    audio = sentences(3, speakers=2)
    fields = {
        "response_format": "diarized_json",
        "known_speaker_names[]": "A",
        "known_speaker_references[]": reference(1),
        **CHUNK,
    }

    whole = either_server.transcribe(audio, **fields).json()["segments"]
    streamed = [
        each
        for each in Events(either_server, audio, **fields).rest()
        if each["type"] == "transcript.text.segment"
    ]

    assert [each["speaker"] for each in whole] == ["B", "A", "B"]
    assert streamed == whole


# -- paths --------------------------------------------------------------------------------------


def test_health_is_json(either_server: Server) -> None:
    answer = either_server.http.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {"status": "healthy"}


def test_groq_s_base_path_is_another_name_of_v1(either_server: Server) -> None:
    answer = either_server.transcribe(RECORDING, f"/openai{TRANSCRIPTIONS}")
    assert answer.json()["text"] == TEXT
    listed = either_server.http.get("/openai/v1/models").json()
    assert listed == either_server.http.get("/v1/models").json()
    assert either_server.http.get("/openai/v1/models/whisper-1").status_code == 200
    assert either_server.http.get("/openai/v1/nothing").status_code == 404
    assert either_server.http.get("/openai/health").status_code == 404
    assert not any(
        path.startswith("/openai")
        for path in either_server.http.get("/openapi.json").json()["paths"]
    )
