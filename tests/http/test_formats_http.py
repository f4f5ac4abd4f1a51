"""Every format, fetched as curl would and through the official client, strict about every field."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import srt
import webvtt
from openai import OpenAI
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

from fixtures.speech.speech import Speech
from server import Server
from support import wav, words_of
from whisperx_api_server.backends.fake import say, silence

# The client warns that OpenAI is to give translations up.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"

RECORDING = wav(
    np.concatenate(
        [
            say("ouvre porte rouge", language="fr"),
            silence(1),
            say("nuit noir", language="fr", speaker=1),
        ]
    )
)
SPOKEN = {
    TRANSCRIPTIONS: "ouvre porte rouge. nuit noir.",
    TRANSLATIONS: "open door red. night black.",
}
MEDIA_TYPES = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "verbose_json": "application/json",
    "vtt_json": "application/json",
    "srt": "text/plain; charset=utf-8",
    "vtt": "text/plain; charset=utf-8",
    "aud": "text/plain; charset=utf-8",
}
SEGMENT_FIELDS = {
    *("id", "seek", "start", "end", "text", "tokens", "temperature"),
    *("avg_logprob", "compression_ratio", "no_speech_prob"),
}
GRANULARITIES = "timestamp_granularities[]"


def text_of(output: str, body: str) -> str:
    """What is said in an answer, read by the format's own reader."""
    if output == "text":
        assert body.endswith("\n")
        return body.strip()
    if output == "srt":
        return " ".join(subtitle.content for subtitle in srt.parse(body))
    if output == "vtt":
        return " ".join(caption.text for caption in webvtt.from_string(body))
    if output == "aud":
        rows = [line.split("\t") for line in body.splitlines()]
        assert all(float(start) < float(end) for start, end, _ in rows)
        return " ".join(text for *_, text in rows)
    answer = json.loads(body)
    if output == "vtt_json":
        assert text_of("vtt", answer["vtt_text"]) == answer["text"]
    return str(answer["text"])


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
@pytest.mark.parametrize("output", MEDIA_TYPES)
def test_every_format_reads_back(either_server: Server, path: str, output: str) -> None:
    answer = either_server.transcribe(RECORDING, path, response_format=output)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPES[output]
    assert text_of(output, answer.text) == SPOKEN[path]


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_json_is_the_default(either_server: Server, path: str) -> None:
    answer = either_server.transcribe(RECORDING, path).json()

    assert answer["text"] == SPOKEN[path]
    assert answer["usage"] == {"type": "duration", "seconds": 3}


@pytest.mark.parametrize(
    ("asked", "present"),
    [
        ([], {"segments"}),
        (["segment"], {"segments"}),
        (["word"], {"words"}),
        (["word", "segment"], {"segments", "words"}),
        (['["word", "segment"]'], {"segments", "words"}),
    ],
)
def test_granularities_decide_what_verbose_json_has(
    either_server: Server, asked: list[str], present: set[str]
) -> None:
    fields: dict[str, Any] = {"response_format": "verbose_json", GRANULARITIES: asked}
    answer = either_server.transcribe(RECORDING, **fields).json()

    assert {"segments", "words"} & set(answer) == present
    assert answer["task"] == "transcribe"
    assert answer["language"] == "french"
    assert answer["duration"] == pytest.approx(2.5)
    for segment in answer.get("segments", []):
        assert set(segment) >= SEGMENT_FIELDS
    for word in answer.get("words", []):
        assert set(word) >= {"word", "start", "end"}


def test_bare_array_names_are_understood(either_server: Server) -> None:
    answer = either_server.transcribe(
        RECORDING, response_format="verbose_json", timestamp_granularities=["word"]
    ).json()

    assert [word["word"] for word in answer["words"]] == SPOKEN[TRANSCRIPTIONS].split()


@pytest.mark.parametrize(
    "fields",
    [
        *({"response_format": output} for output in MEDIA_TYPES),
        {"response_format": "verbose_json", "timestamp_granularities[]": "word"},
        {"response_format": "json", "include[]": "logprobs"},
        {"response_format": "diarized_json", "stream": "true"},
        {"stream": "true"},
        {"language": "no such language"},
    ],
    ids=str,
)
def test_both_modes_send_the_same_bytes(
    fake_server: Server, kafka_server: Server, fields: dict[str, str]
) -> None:
    direct, kafka = (
        [each.transcribe(RECORDING, path, **fields) for path in SPOKEN]
        for each in (fake_server, kafka_server)
    )
    assert [each.content for each in kafka] == [each.content for each in direct]
    assert [each.status_code for each in kafka] == [each.status_code for each in direct]
    assert [each.headers["content-type"] for each in kafka] == [
        each.headers["content-type"] for each in direct
    ]


def test_translation_says_that_it_is_english(either_server: Server) -> None:
    answer = either_server.transcribe(
        RECORDING, TRANSLATIONS, response_format="verbose_json"
    ).json()

    assert answer["language"] == "english"
    assert answer["task"] == "translate"
    assert all(set(segment) >= SEGMENT_FIELDS for segment in answer["segments"])


@pytest.mark.parametrize("output", ["srt", "vtt"])
def test_subtitles_name_speakers_and_underline_words(either_server: Server, output: str) -> None:
    body = either_server.transcribe(
        RECORDING, response_format=output, diarize="true", highlight_words="true"
    ).text

    assert "[SPEAKER_00]: " in body
    assert "[SPEAKER_01]: " in body
    assert "<u>porte</u>" in body


def test_silence_is_an_empty_transcript_in_every_format(either_server: Server) -> None:
    for output in MEDIA_TYPES:
        answer = either_server.transcribe(wav(silence(2)), response_format=output)
        assert answer.status_code == 200, answer.text
        assert text_of(output, answer.text) == ""


# -- the official client ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(either_server: Server) -> Iterator[OpenAI]:
    with either_server.openai() as client:
        yield client


def test_client_reads_json(client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(file=("a.wav", RECORDING), model="whisper-1")

    assert isinstance(answer, Transcription)
    assert answer.text == SPOKEN[TRANSCRIPTIONS]
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == 3


def test_client_reads_verbose_json(client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=("a.wav", RECORDING),
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="fr",
        prompt="Porte",
        temperature=0,
    )

    assert isinstance(answer, TranscriptionVerbose)
    assert answer.text == "ouvre Porte rouge. nuit noir."
    assert answer.language == "french"
    assert answer.words is not None
    assert answer.segments is not None
    assert [word.word for word in answer.words] == answer.text.split()
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text


def test_client_reads_verbose_json_with_one_granularity(client: OpenAI) -> None:
    words = client.audio.transcriptions.create(
        file=("a.wav", RECORDING),
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )

    assert words.words is not None
    assert words.segments is None


def test_client_reads_diarized_json(client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=("a.wav", RECORDING),
        model="gpt-4o-transcribe-diarize",
        response_format="diarized_json",
        chunking_strategy="auto",
    )

    assert isinstance(answer, TranscriptionDiarized)
    assert [(segment.speaker, segment.text) for segment in answer.segments] == [
        ("A", "ouvre porte rouge."),
        ("B", "nuit noir."),
    ]


def test_client_reads_logprobs(client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        file=("a.wav", RECORDING),
        model="gpt-4o-transcribe",
        response_format="json",
        include=["logprobs"],
    )

    assert answer.logprobs is not None
    assert "".join(token.token or "" for token in answer.logprobs).split() == answer.text.split()


@pytest.mark.parametrize("output", ["text", "srt", "vtt"])
def test_client_reads_text_formats(client: OpenAI, output: Any) -> None:
    heard = client.audio.transcriptions.create(
        file=("a.wav", RECORDING), model="whisper-1", response_format=output
    )
    translated = client.audio.translations.create(
        file=("a.wav", RECORDING), model="whisper-1", response_format=output
    )

    assert text_of(output, cast("str", heard)) == SPOKEN[TRANSCRIPTIONS]
    assert text_of(output, cast("str", translated)) == SPOKEN[TRANSLATIONS]


def test_client_reads_the_formats_that_it_does_not_know(client: OpenAI) -> None:
    subtitled = client.audio.transcriptions.create(
        file=("a.wav", RECORDING), model="whisper-1", response_format=cast("Any", "vtt_json")
    )
    labels = client.audio.transcriptions.with_raw_response.create(
        file=("a.wav", RECORDING), model="whisper-1", response_format=cast("Any", "aud")
    )

    assert subtitled.text == SPOKEN[TRANSCRIPTIONS]
    extra = subtitled.model_extra or {}
    assert text_of("vtt", extra["vtt_text"]) == SPOKEN[TRANSCRIPTIONS]
    assert text_of("aud", labels.text) == SPOKEN[TRANSCRIPTIONS]


def test_client_reads_translations(client: OpenAI) -> None:
    plain = client.audio.translations.create(file=("a.wav", RECORDING), model="whisper-1")
    verbose = client.audio.translations.create(
        file=("a.wav", RECORDING), model="whisper-1", response_format="verbose_json"
    )

    assert isinstance(plain, Translation)
    assert plain.text == SPOKEN[TRANSLATIONS]
    assert isinstance(verbose, TranslationVerbose)
    assert verbose.text == SPOKEN[TRANSLATIONS]
    assert verbose.language == "english"
    assert verbose.segments is not None
    assert "".join(segment.text for segment in verbose.segments).strip() == SPOKEN[TRANSLATIONS]


def test_client_uploads_bytes_handles_and_paths(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "été.wav"
    path.write_bytes(RECORDING)
    with path.open("rb") as handle:
        sources = [
            RECORDING,
            io.BytesIO(RECORDING),
            handle,
            path,
            ("x.wav", RECORDING, "audio/wav"),
        ]
        texts = [
            client.audio.transcriptions.create(file=cast("Any", source), model="whisper-1").text
            for source in sources
        ]

    assert texts == [SPOKEN[TRANSCRIPTIONS]] * len(sources)


def test_client_lists_models(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert "whisper-1" in names
    assert client.models.retrieve("whisper-1").id == "whisper-1"


def test_a_chunked_upload_without_a_length_is_read(either_server: Server) -> None:
    request = either_server.http.build_request(
        "POST", TRANSCRIPTIONS, files={"file": ("a.wav", RECORDING)}
    )
    body = request.read()

    answer = either_server.http.post(
        TRANSCRIPTIONS,
        content=(body[start : start + 1000] for start in range(0, len(body), 1000)),
        headers={"content-type": request.headers["content-type"]},
    )

    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert answer.json()["text"] == SPOKEN[TRANSCRIPTIONS]


def test_real_words_in_every_format(real_server: Server, speech: Speech) -> None:
    said = speech.build([("en-beth", ["open", "red", "door"]), ("en-beth", ["thanks"])])

    for output in MEDIA_TYPES:
        answer = real_server.transcribe(wav(said.audio), response_format=output)
        assert answer.status_code == 200, answer.text
        assert words_of(text_of(output, answer.text)) == words_of(said.text)


@pytest.mark.parametrize("output", ["verbose_json", "diarized_json"])
def test_client_is_content_with_real_models(
    real_server: Server, speech: Speech, output: Any
) -> None:
    said = speech.build([("fr-berthe", ["ouvre", "porte", "rouge"])])

    with real_server.openai() as client:
        answer: Any = client.audio.transcriptions.create(
            file=("a.wav", wav(said.audio)), model="whisper-1", response_format=output
        )

    assert words_of(answer.text) == words_of(said.text)
    assert answer.segments
