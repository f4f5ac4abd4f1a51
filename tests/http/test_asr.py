"""The API of whisper-asr-webservice, as Bazarr and curl call it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
import srt
import webvtt

from server import LOCKED_KEY, Server
from support import wav
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.domain import Samples

SOUND = np.concatenate([say("red door"), silence(1), say("blue house", speaker=1)])
FRENCH = say("ouvre porte rouge", language="fr")
TEXT = "red door. blue house."


def pcm(samples: Samples) -> bytes:
    """Headerless, as Bazarr sends it."""
    return (samples * 32767).astype("<i2").tobytes()


def ask(
    server: Server, path: str, content: bytes, *, name: str = "audio_file", **query: Any
) -> httpx.Response:
    return server.http.post(path, params=query, files={"audio_file": (name, content)})


def refused(answer: httpx.Response, status: int, param: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    return str(error["message"])


# -- /asr ---------------------------------------------------------------------------------------


def test_bazarr_gets_subtitles(either_server: Server) -> None:
    """The request of its `whisperai` provider, field for field."""
    answer = ask(
        either_server,
        *("/asr", pcm(FRENCH)),
        task="transcribe",
        language="fr",
        output="srt",
        encode="false",
    )

    assert answer.status_code == 200, answer.text
    (cue,) = srt.parse(answer.content.decode())
    assert cue.content == "ouvre porte rouge."
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="audio_file.srt"'


def test_bazarr_gets_a_translation(either_server: Server) -> None:
    query = {"task": "translate", "language": "fr", "output": "srt", "encode": "false"}
    (cue,) = srt.parse(ask(either_server, "/asr", pcm(FRENCH), **query).text)
    assert cue.content == "open door red."


def test_text_is_the_default_and_the_language_is_detected(either_server: Server) -> None:
    assert ask(either_server, "/asr", wav(FRENCH)).text == "ouvre porte rouge.\n"
    assert ask(either_server, "/asr", wav(FRENCH), language="").text == "ouvre porte rouge.\n"
    assert ask(either_server, "/asr", wav(SOUND), output="txt").text == f"{TEXT}\n"


def test_the_prompt_reaches_the_decoder(either_server: Server) -> None:
    assert ask(either_server, "/asr", wav(SOUND), initial_prompt="Door").text == (
        "red Door. blue house.\n"
    )


def test_vtt_reads_back(either_server: Server) -> None:
    answer = ask(either_server, "/asr", wav(SOUND), output="vtt")
    assert " ".join(caption.text for caption in webvtt.from_string(answer.text)) == TEXT


def test_tsv_has_whole_milliseconds(either_server: Server) -> None:
    answer = ask(either_server, "/asr", wav(SOUND), output="tsv")

    header, *rows = answer.text.removesuffix("\n").split("\n")
    assert header == "start\tend\ttext"
    assert [row.split("\t")[2] for row in rows] == ["red door.", "blue house."]
    times = [int(time) for row in rows for time in row.split("\t")[:2]]
    assert times == sorted(times)
    assert 0 < times[-1] <= 1000 * len(SOUND) / 16_000


def test_json_is_openai_whisper_s_result(either_server: Server) -> None:
    plain = ask(either_server, "/asr", wav(FRENCH), output="json").json()
    timed = ask(either_server, "/asr", wav(FRENCH), output="json", word_timestamps="true").json()

    assert set(plain) == {"text", "segments", "language"}
    assert (plain["text"], plain["language"]) == ("ouvre porte rouge.", "fr")
    assert "words" not in plain["segments"][0]
    words = timed["segments"][0]["words"]
    assert [word["word"] for word in words] == ["ouvre", "porte", "rouge."]
    assert all({"start", "end", "probability"} <= set(word) for word in words)


def test_speakers_are_labelled(either_server: Server) -> None:
    query = {"diarize": "true", "max_speakers": "2"}
    text = ask(either_server, "/asr", wav(SOUND), **query).text
    assert text == "[SPEAKER_00]: red door.\n[SPEAKER_01]: blue house.\n"
    segments = ask(either_server, "/asr", wav(SOUND), output="json", **query).json()["segments"]
    assert [segment["speaker"] for segment in segments] == ["SPEAKER_00", "SPEAKER_01"]


def test_voice_activity_detection_is_always_on(either_server: Server) -> None:
    for wanted in ("true", "false"):
        assert ask(either_server, "/asr", wav(SOUND), vad_filter=wanted).text == f"{TEXT}\n"


@pytest.mark.parametrize("cut", [0, 1])
def test_headerless_audio_may_end_within_a_sample(either_server: Server, cut: int) -> None:
    content = pcm(np.concatenate([SOUND, silence(1)]))
    answer = ask(either_server, "/asr", content[: len(content) - cut], encode="false")
    assert answer.text == f"{TEXT}\n"


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"task": "sing"}, 400, "task"),
        ({"output": "docx"}, 400, "output"),
        ({"language": "klingon"}, 400, "language"),
        ({"encode": "perhaps"}, 400, "encode"),
        ({"min_speakers": "0"}, 400, "min_speakers"),
        ({"min_speakers": "2"}, 422, "min_speakers"),
        ({"task": "translate", "diarize": "true"}, 422, "diarize"),
        (
            {"task": "translate", "output": "json", "word_timestamps": "true"},
            422,
            "word_timestamps",
        ),
    ],
)
def test_unsupported_fields_are_refused(
    either_server: Server, query: dict[str, str], status: int, param: str
) -> None:
    assert param in refused(ask(either_server, "/asr", wav(SOUND), **query), status, param)


@pytest.mark.parametrize("path", ["/asr", "/detect-language"])
def test_the_recording_must_be_there_and_be_one(either_server: Server, path: str) -> None:
    two = [("audio_file", (name, wav(SOUND))) for name in ("a.wav", "b.wav")]
    refused(either_server.http.post(path, files=two), 400, "audio_file")
    other = either_server.http.post(path, files={"file": ("a.wav", wav(SOUND))})
    refused(other, 400, "audio_file")
    refused(ask(either_server, path, b"no audio at all"), 400, "file")
    refused(ask(either_server, path, b"", encode="false"), 400, "file")
    assert either_server.temp_files() == []


def test_limits_hold(either_server: Server) -> None:
    limit = either_server.info()["limits"]["upload_bytes"]
    answer = ask(either_server, "/asr", bytes(limit + 1))
    assert answer.status_code == 413


# -- /detect-language ---------------------------------------------------------------------------


@pytest.mark.parametrize("encode", ["true", "false"])
def test_bazarr_reads_the_language(either_server: Server, encode: str) -> None:
    content = pcm(FRENCH) if encode == "false" else wav(FRENCH)
    answer = ask(either_server, "/detect-language", content, encode=encode)

    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["detected_language"], found["language_code"]) == ("french", "fr")
    assert 0.5 < found["confidence"] <= 1


def test_the_language_is_that_of_the_first_speech(either_server: Server) -> None:
    late = np.concatenate([silence(40), *[FRENCH, silence(30)] * 3, say("red door"), silence(1)])
    found = ask(either_server, "/detect-language", wav(late)).json()
    assert found["language_code"] == "fr"


def test_silence_has_no_confidence(either_server: Server) -> None:
    assert ask(either_server, "/detect-language", wav(silence(2))).json() == {
        "detected_language": "english",
        "language_code": "en",
        "confidence": 0.0,
    }


# -- keys ---------------------------------------------------------------------------------------


def test_keys_are_checked(locked_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/asr", "/detect-language"):
        assert ask(locked_server, path, wav(SOUND)).status_code == 401
    monkeypatch.setitem(locked_server.http.headers, "authorization", f"Bearer {LOCKED_KEY}")
    assert ask(locked_server, "/asr", wav(SOUND)).text == f"{TEXT}\n"
    assert json.loads(ask(locked_server, "/detect-language", wav(SOUND)).text)["confidence"] > 0
