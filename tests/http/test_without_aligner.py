"""A server without align models and without a network: words have the decoder's times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import srt
from openai import NotFoundError, OpenAI

from fixtures.speech.speech import Speech
from server import Server, serving
from support import WHISPER, wav

RECORDING = "recording.wav"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("no-aligner")
    settings = {
        "WHISPER__MODEL": str(WHISPER),
        "WHISPER__COMPUTE_TYPE": "int8",
        "WHISPER__LOCAL_FILES_ONLY": "true",
        "TORCH_HOME": str(directory / "torch"),
    }
    with serving(directory, settings) as server:
        yield server


@pytest.fixture(scope="module")
def recording(speech: Speech) -> bytes:
    return wav(speech.build([("en-beth", ["open", "red", "door"]), ("en-beth", ["thanks"])]).audio)


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_forced_alignment_is_refused_before_any_model_is_loaded(
    client: OpenAI, server: Server, recording: bytes
) -> None:
    with pytest.raises(NotFoundError, match="not on disk and downloads are off"):
        client.audio.transcriptions.create(
            file=(RECORDING, recording),
            model="whisper-1",
            language="en",
            response_format="verbose_json",
            extra_body={"align": True},
        )
    assert "loading" not in server.log


def test_words_and_segments_have_the_decoders_times_and_a_warning(
    client: OpenAI, server: Server, recording: bytes
) -> None:
    for _ in range(2):
        answer = client.audio.transcriptions.create(
            file=(RECORDING, recording),
            model="whisper-1",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert answer.words
        assert answer.segments
        assert [word.word.strip(".").lower() for word in answer.words] == [
            "open", "red", "door", "thanks"
        ]  # fmt: skip
        assert [segment.text.strip() for segment in answer.segments] == [
            "open red door.", "thanks."
        ]  # fmt: skip
        [warning] = (answer.model_extra or {})["warnings"]
        assert warning.startswith("word times are the decoder's own: the align model")
    assert server.log.count("word times are the decoder's own") == 1


def test_subtitles_need_no_aligner(server: Server, recording: bytes) -> None:
    answer = server.transcribe(recording, response_format="srt")
    assert answer.status_code == 200
    [first, second] = srt.parse(answer.text)
    assert first.content == "open red door."
    assert first.end <= second.start


def test_segments_without_alignment_are_sentences_without_words(
    server: Server, recording: bytes
) -> None:
    answer = server.transcribe(recording, response_format="verbose_json", align="false").json()
    assert [segment["text"].strip() for segment in answer["segments"]] == [
        "open red door.", "thanks."
    ]  # fmt: skip
    assert not any("words" in segment for segment in answer["segments"])
    assert "warnings" not in answer


def test_bare_text_has_no_warning(server: Server, recording: bytes) -> None:
    answer = server.transcribe(recording).json()
    assert set(answer) == {"text", "usage", "languages"}
