"""The engine that needs no download, as whoever types `make serve` first meets it."""

from __future__ import annotations

import json

import pytest
import srt
import webvtt

from fixtures.speech.speech import Speech
from server import REPOSITORY, Server
from support import diarization_error, turns_of, wav, word_errors, words_of

SAMPLE = REPOSITORY / "examples" / "sample.flac"
SAID = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8")


def text_of(output: str, body: str) -> str:
    if output == "srt":
        return " ".join(subtitle.content for subtitle in srt.parse(body))
    if output == "vtt":
        return " ".join(caption.text for caption in webvtt.from_string(body))
    if output == "aud":
        return " ".join(line.split("\t")[2] for line in body.splitlines())
    return body if output == "text" else str(json.loads(body)["text"])


@pytest.mark.parametrize(
    "output", ["json", "text", "verbose_json", "vtt_json", "srt", "vtt", "aud"]
)
def test_sensible_words_in_every_format(embedded_server: Server, output: str) -> None:
    answer = embedded_server.transcribe(SAMPLE, response_format=output)

    assert answer.status_code == 200, answer.text
    errors, words = word_errors(SAID, text_of(output, answer.text))
    assert errors <= 0.1 * words


def test_words_have_the_engine_s_own_times(embedded_server: Server) -> None:
    answer = embedded_server.transcribe(
        SAMPLE, response_format="verbose_json", **{"timestamp_granularities[]": "word"}
    ).json()

    assert answer["language"] == "english"
    assert [word["word"].lower() for word in answer["words"]] == words_of(answer["text"])
    starts = [word["start"] for word in answer["words"]]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] < answer["duration"]


def test_it_is_honest_about_itself(embedded_server: Server) -> None:
    info = embedded_server.info()

    assert info["engine"]["languages"] == ["en"]
    assert "needs no download" in info["engine"]["quality"]
    assert info["backends"]["transcription"] == "embedded"


@pytest.mark.parametrize(
    ("path", "fields", "param", "reason"),
    [
        ("transcriptions", {"language": "fr"}, "language", "only supports English"),
        ("transcriptions", {"languages[]": ["en", "fr"]}, "languages[]", "only supports English"),
        ("transcriptions", {"temperature": "0.5"}, "temperature", "does not sample"),
        ("transcriptions", {"prompt": "Dear all"}, "prompt", "takes no prompt"),
        ("transcriptions", {"hotwords": "Ada"}, "hotwords", "takes no hotwords"),
        ("translations", {}, "model", "does not translate"),
    ],
)
def test_what_it_cannot_do_is_said(
    embedded_server: Server, path: str, fields: dict[str, str], param: str, reason: str
) -> None:
    answer = embedded_server.transcribe(SAMPLE, f"/v1/audio/{path}", **fields)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
    assert reason in error["message"]


def test_it_tells_a_woman_from_a_man(embedded_server: Server, speech: Speech) -> None:
    said = speech.dialogue(["en-adam", "en-beth"], 20, seed=1)

    answer = embedded_server.transcribe(
        wav(said.audio),
        response_format="verbose_json",
        diarize="true",
        num_speakers="2",
        **{"timestamp_granularities[]": "word"},
    ).json()

    reference = turns_of((word.speaker, word.start, word.end) for word in said.words)
    hypothesis = turns_of((word["speaker"], word["start"], word["end"]) for word in answer["words"])
    assert diarization_error(reference, hypothesis) <= 0.25
    assert {word["speaker"] for word in answer["words"]} == {"SPEAKER_00", "SPEAKER_01"}
