"""The official Python SDK, strict about every answer, against the running server in both modes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import openai
import pytest
import srt
import webvtt
from openai import AsyncOpenAI, OpenAI
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
from openai.types.audio.transcription_create_params import ChunkingStrategyVadConfig
from openai.types.audio_model import AudioModel

from fixtures.speech.speech import Speech
from gated import Gate
from server import Mode, Server, command_of
from support import eventually, wav, word_errors
from tones import CHUNK, sentences, text
from whisperx_api_server.backends.fake import say, silence

MODEL = "whisper-1"


@pytest.fixture(scope="module")
def client(either_server: Server) -> Iterator[OpenAI]:
    with either_server.openai() as client:
        yield client


def upload(audio: bytes, name: str = "a.wav") -> tuple[str, bytes]:
    return name, audio


# -- formats ----------------------------------------------------------------------------------


def test_json_is_the_default(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(model=MODEL, file=upload(sentences(2)))

    assert isinstance(heard, Transcription)
    assert heard.text == text(2)
    assert heard.usage is not None
    assert (heard.usage.type, heard.usage.seconds) == ("duration", 10)  # type: ignore[union-attr]
    assert [each.code for each in heard.languages or []] == ["en"]
    assert heard.logprobs is None


def test_verbose_json_with_both_granularities(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(
        model=MODEL,
        file=upload(sentences(2)),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        temperature=0.4,
    )

    assert isinstance(heard, TranscriptionVerbose)
    assert (heard.language, heard.duration, heard.text) == ("english", 10.0, text(2))
    assert heard.words is not None
    assert heard.segments is not None
    assert " ".join(word.word for word in heard.words) == text(2)
    assert [word.start for word in heard.words[:3]] == pytest.approx([0.0, 0.3, 0.6], abs=0.02)
    assert "".join(segment.text for segment in heard.segments).strip() == text(2)
    assert [segment.id for segment in heard.segments] == [0, 1]
    assert {segment.temperature for segment in heard.segments} == {0.4}


@pytest.mark.parametrize("granularity", ["word", "segment"])
def test_only_the_granularity_that_is_asked_for(client: OpenAI, granularity: Any) -> None:
    heard = client.audio.transcriptions.create(
        model=MODEL,
        file=upload(sentences(1)),
        response_format="verbose_json",
        timestamp_granularities=[granularity],
    )

    assert (heard.words is None) == (granularity == "segment")
    assert (heard.segments is None) == (granularity == "word")


def test_text_and_subtitles_are_bare_strings(client: OpenAI) -> None:
    def create(response_format: Any) -> str:
        answer = client.audio.transcriptions.create(
            model=MODEL, file=upload(sentences(2)), response_format=response_format
        )
        assert isinstance(answer, str)
        return answer

    assert create("text").strip() == text(2)
    assert " ".join(cue.content for cue in srt.parse(create("srt"))) == text(2)
    assert " ".join(cue.text for cue in webvtt.from_string(create("vtt"))) == text(2)


def test_diarized_json(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(
        model="gpt-4o-transcribe-diarize",
        file=upload(sentences(3, speakers=2)),
        response_format="diarized_json",
        chunking_strategy="auto",
    )

    assert isinstance(heard, TranscriptionDiarized)
    assert [segment.speaker for segment in heard.segments] == ["A", "B", "A"]
    assert " ".join(segment.text for segment in heard.segments) == heard.text == text(3)
    assert (heard.duration, heard.task) == (15.0, "transcribe")
    assert len({segment.id for segment in heard.segments}) == 3


# -- what a request may say -------------------------------------------------------------------


@pytest.mark.parametrize("model", get_args(AudioModel))
def test_each_of_openai_s_models_is_there(client: OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model
    assert model in {each.id for each in client.models.list()}
    heard = client.audio.transcriptions.create(model=model, file=upload(sentences(1)))
    assert heard.text == text(1)


def test_logprobs_are_included(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(
        model=MODEL, file=upload(sentences(1)), include=["logprobs"]
    )

    assert heard.logprobs is not None
    assert "".join(each.token or "" for each in heard.logprobs) == f" {text(1)}"
    assert all(each.logprob is not None and each.logprob <= 0 for each in heard.logprobs)


def test_prompt_and_keywords_decide_about_spelling(client: OpenAI) -> None:
    said = upload(wav(say("red house bread")))

    heard = client.audio.transcriptions.create(
        model=MODEL, file=said, prompt="The Red one.", keywords=["House", "Bread"]
    )

    assert heard.text == "Red House Bread."
    assert client.audio.transcriptions.create(model=MODEL, file=said).text == "red house bread."


def test_language_and_candidates(client: OpenAI) -> None:
    def create(**fields: Any) -> Transcription:
        heard = client.audio.transcriptions.create(
            model=MODEL, file=upload(wav(say("red house"))), **fields
        )
        assert isinstance(heard, Transcription)
        return heard

    assert create(language="fr").text == "rouge maison."
    assert create(languages=["de", "en"]).text == "red house."
    assert create(languages=["de", "fr"]).text in ("rot haus.", "rouge maison.")
    assert create(languages=["de"]).text == "rot haus."
    assert [each.code for each in create(languages=["de"]).languages or []] == ["de"]


def test_chunking_strategy_says_how_speech_is_found(client: OpenAI) -> None:
    def create(vad: ChunkingStrategyVadConfig) -> str:
        return client.audio.transcriptions.create(
            model=MODEL, file=upload(sentences(2)), chunking_strategy=vad
        ).text

    assert create({"type": "server_vad"}) == text(2)
    assert create(
        {
            "type": "server_vad",
            "threshold": 0.1,
            "prefix_padding_ms": 200,
            "silence_duration_ms": 700,
        }
    ) == text(2)
    assert create({"type": "server_vad", "threshold": 0.99}) == ""  # nothing is as loud as that


def test_files_may_be_paths_or_open(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(sentences(1))

    assert client.audio.transcriptions.create(model=MODEL, file=path).text == text(1)
    with path.open("rb") as file:
        assert client.audio.transcriptions.create(model=MODEL, file=file).text == text(1)


def test_known_speakers_are_named(client: OpenAI) -> None:
    heard = client.audio.transcriptions.create(
        model=MODEL,
        file=upload(sentences(3, speakers=3)),
        response_format="diarized_json",
        known_speaker_names=["Ann", "Bob"],
        known_speaker_references=[voice(2), voice(0)],
    )

    assert [segment.speaker for segment in heard.segments] == ["Bob", "A", "Ann"]


def voice(speaker: int) -> str:
    sound = wav(say("red blue green black white door house tree", speaker=speaker))
    return f"data:audio/wav;base64,{base64.b64encode(sound).decode()}"


# -- streams ----------------------------------------------------------------------------------


def test_a_stream_of_deltas(client: OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model=MODEL,
        file=upload(sentences(3)),
        stream=True,
        include=["logprobs"],
        extra_body=CHUNK,
    )

    *deltas, done = list(stream)

    assert len(deltas) == 3
    parts = [each for each in deltas if isinstance(each, TranscriptionTextDeltaEvent)]
    assert "".join(each.delta for each in parts) == text(3)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == text(3)
    assert len(done.logprobs or []) == sum(len(each.logprobs or []) for each in parts) == 9


def test_a_diarized_stream(client: OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model=MODEL,
        file=upload(sentences(3, speakers=2)),
        response_format="diarized_json",
        stream=True,
        extra_body=CHUNK,
    )

    events = list(stream)

    segments = [each for each in events if isinstance(each, TranscriptionTextSegmentEvent)]
    assert [each.speaker for each in segments] == ["A", "B", "A"]
    assert " ".join(each.text for each in segments) == text(3)
    assert isinstance(events[-1], TranscriptionTextDoneEvent)


def test_the_asynchronous_client(either_server: Server) -> None:
    async def talk() -> tuple[str, str]:
        async with AsyncOpenAI(
            base_url=f"{either_server.url}/v1",
            api_key="unused",
            max_retries=0,
            _strict_response_validation=True,
        ) as client:
            create = client.audio.transcriptions.create
            plain, stream = await asyncio.gather(
                create(model=MODEL, file=upload(sentences(2))),
                create(model=MODEL, file=upload(sentences(4)), stream=True, extra_body=CHUNK),
            )
            parts = [
                each.delta async for each in stream if isinstance(each, TranscriptionTextDeltaEvent)
            ]
            return plain.text, "".join(parts)

    assert asyncio.run(talk()) == (text(2), text(4))


# -- translations -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # OpenAI's own will end
def test_translations(client: OpenAI) -> None:
    said = upload(wav(say("rouge maison", language="fr")))

    plain = client.audio.translations.create(model=MODEL, file=said)
    verbose = client.audio.translations.create(
        model=MODEL, file=said, response_format="verbose_json"
    )
    bare = client.audio.translations.create(model=MODEL, file=said, response_format="text")

    assert isinstance(plain, Translation)
    assert isinstance(verbose, TranslationVerbose)
    assert plain.text == verbose.text == str(bare).strip() == "red house."
    assert verbose.language == "english"
    assert verbose.segments is not None


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "status", "code", "param"),
    [
        (openai.BadRequestError, {"file": ("a.wav", b"noise")}, 400, "invalid_audio", "file"),
        (openai.BadRequestError, {"language": "klingon"}, 400, "invalid_value", "language"),
        (openai.BadRequestError, {"temperature": 3}, 400, "invalid_value", "temperature"),
        (openai.NotFoundError, {"model": "../secret"}, 404, "model_not_found", "model"),
        (
            openai.UnprocessableEntityError,
            {"response_format": "srt", "extra_body": {"align": "false"}},
            422,
            "invalid_value",
            "align",
        ),
    ],
)
def test_error_classes(
    client: OpenAI,
    kind: type[openai.APIStatusError],
    fields: Any,
    status: int,
    code: str,
    param: str,
) -> None:
    with pytest.raises(kind) as caught:
        client.audio.transcriptions.create(
            **{"model": MODEL, "file": upload(sentences(1))} | fields
        )

    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type == "invalid_request_error"
    assert error.request_id


@pytest.fixture(scope="module")
def strict(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Gate]]:
    """A server that wants a key and takes no long queue."""
    gate = Gate(tmp_path_factory.mktemp("gate"))
    settings = gate.settings() | {
        "API_KEY": "secret",
        "LIMITS__QUEUE_SECONDS": "8",
        "LIMITS__UPLOAD_BYTES": "1000000",
    }
    directory = tmp_path_factory.mktemp("strict")
    with Server(directory, settings, command=command_of(mode)) as server:
        server.http.headers["authorization"] = "Bearer secret"
        yield server, gate
        gate.allow()


def test_a_wrong_key_is_an_authentication_error(strict: tuple[Server, Gate]) -> None:
    server, _ = strict
    with server.openai(api_key="wrong") as client, pytest.raises(openai.AuthenticationError) as no:
        client.audio.transcriptions.create(model=MODEL, file=upload(sentences(1)))

    assert no.value.code == "invalid_api_key"


def test_too_large_a_file_is_refused(strict: tuple[Server, Gate]) -> None:
    server, _ = strict
    with server.openai(api_key="secret") as client, pytest.raises(openai.APIStatusError) as no:
        client.audio.transcriptions.create(model=MODEL, file=upload(sentences(8)))

    assert (no.value.status_code, no.value.code) == (413, "file_too_large")


def test_a_failing_engine_is_a_server_error(strict: tuple[Server, Gate]) -> None:
    server, gate = strict
    gate.break_down()
    gate.allow()
    with server.openai(api_key="secret") as client, pytest.raises(openai.InternalServerError) as no:
        client.audio.transcriptions.create(model=MODEL, file=upload(sentences(1)))
    gate.mend()

    assert (no.value.status_code, no.value.code) == (500, "transcription_failed")
    assert no.value.type == "server_error"


@pytest.mark.parametrize("mode", ["direct"], indirect=True, scope="module")
def test_a_full_queue_is_a_rate_limit_that_the_sdk_waits_out(strict: tuple[Server, Gate]) -> None:
    server, gate = strict
    eventually(lambda: server.info()["queue"]["requests"] == 0)
    gate.allow(0)
    with server.openai(api_key="secret", max_retries=4) as client, ThreadPoolExecutor(1) as pool:
        create = client.audio.transcriptions.with_raw_response.create
        first = pool.submit(create, model=MODEL, file=upload(sentences(1)))
        eventually(lambda: server.info()["queue"]["seconds"] > 0)
        with server.openai(api_key="secret") as other, pytest.raises(openai.RateLimitError) as full:
            other.audio.transcriptions.create(model=MODEL, file=upload(sentences(2)))

        # The next one is refused too, and finds room when it comes back.
        client._client.event_hooks["response"].append(lambda _: gate.allow())
        second = create(model=MODEL, file=upload(sentences(2)))

        assert (full.value.code, full.value.type) == ("overloaded", "rate_limit_error")
        assert int(full.value.response.headers["retry-after"]) >= 1
        assert (second.retries_taken, second.parse().text) == (1, text(2))
        assert first.result().parse().text == text(1)


# -- with real models -------------------------------------------------------------------------


def test_a_recording_that_switches_language(real_server: Server, speech: Speech) -> None:
    french = speech.random("fr-berthe", 7, seed=3, gap=(0.03, 0.15))
    english = speech.random("en-adam", 5, seed=4, gap=(0.03, 0.15))
    pause = silence(2)
    audio = np.concatenate([french.audio, pause, english.audio, pause])
    truth = f"{french.text} {english.text}"

    with real_server.openai() as client:
        heard = client.audio.transcriptions.create(model=MODEL, file=upload(wav(audio)))
        verbose = client.audio.transcriptions.create(
            model=MODEL,
            file=upload(wav(audio)),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )

    assert [each.code for each in heard.languages or []] == ["fr", "en"]
    assert verbose.language == "french"
    errors, words = word_errors(truth, heard.text)
    assert errors <= 0.05 * words
    assert verbose.text == heard.text
    assert word_errors(truth, " ".join(word.word for word in verbose.words or []))[0] == errors


def test_a_real_stream_is_the_whole_text(real_server: Server, speech: Speech) -> None:
    said = speech.random("en-beth", 25, seed=5, pause=(0.6, 1.4), gap=(0.03, 0.15))

    with real_server.openai() as client:
        whole = client.audio.transcriptions.create(
            model=MODEL, file=upload(wav(said.audio)), include=["logprobs"]
        )
        stream = client.audio.transcriptions.create(
            model=MODEL, file=upload(wav(said.audio)), stream=True, include=["logprobs"]
        )
        events = list(stream)

    deltas = [each for each in events if isinstance(each, TranscriptionTextDeltaEvent)]
    done = events[-1]
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert len(deltas) >= 3
    assert "".join(each.delta for each in deltas) == done.text == whole.text
    assert word_errors(said.text, whole.text)[0] <= 1
    assert whole.logprobs is not None
    assert done.logprobs is not None
    assert [each.token for each in done.logprobs] == [each.token for each in whole.logprobs]
    spelled = b"".join(bytes(map(int, each.bytes or [])) for each in whole.logprobs).decode()
    assert "".join(spelled.split()) == "".join(whole.text.split())
