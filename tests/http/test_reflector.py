"""A client written from Reflector's side: what it sends, and what it reads from the answers."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jsonschema_rs
import numpy as np
import pytest
from openai import OpenAI

from fixtures.speech.speech import Speech, Utterance
from server import REFLECTOR_KEY, REPOSITORY, Server
from support import PARAKEET, diarization_error, turns_of, wav, word_errors, words_of
from whisperx_api_server.backends.fake import say
from whisperx_api_server.domain import Samples

TRANSCRIPTIONS = "/v1/audio/transcriptions"
FROM_URL = "/v1/audio/transcriptions-from-url"

Upload = tuple[str, tuple[str, bytes]]


class Storage:
    """Reflector's storage: a web server that hands out recordings."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        files = self.files

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = files.get(self.path.partition("?")[0])
                self.send_response(404 if body is None else 200)
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, samples: Samples) -> str:
        """The signed URL of a new recording."""
        self.files[f"/{name}"] = wav(samples)
        return f"{self.url}/{name}?signature=abc&expires=1"


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    built = Storage()
    thread = threading.Thread(target=built.server.serve_forever)
    thread.start()
    yield built
    built.server.shutdown()
    thread.join()
    built.server.server_close()


@pytest.fixture(scope="module")
def meeting(speech: Speech) -> Utterance:
    return speech.random("en-adam", 8, seed=3, pause=(0.6, 1.4), gap=(0.03, 0.15))


@pytest.fixture(scope="module")
def twenty(speech: Speech) -> list[Utterance]:
    """Utterances of different lengths."""
    return [
        speech.random(("en-adam", "en-beth", "en-carl")[seed % 3], 2 + seed % 5, seed=seed)
        for seed in range(20)
    ]


def uploads(utterances: list[Utterance], field: str) -> list[Upload]:
    return [
        (field, (f"track-{place}.wav", wav(each.audio))) for place, each in enumerate(utterances)
    ]


def body_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def error_of(answer: httpx.Response, status: int, code: str, param: str | None) -> str:
    """The message of an error that is as it should be."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    message: str = error["message"]
    assert "Traceback" not in message
    assert "/tests/" not in message
    return message


def check_words(
    result: dict[str, Any], utterance: Utterance, *, key: str, offset: float = 0
) -> None:
    """The words are the text, as it was said, and in time."""
    words = result["words"]
    assert all(set(word) == {key, "start", "end"} for word in words)
    assert "".join(word[key] for word in words).strip() == result["text"]
    errors, count = word_errors(utterance.text, result["text"])
    assert errors <= 0.02 * count
    assert [
        round(word["start"] - offset - said.start, 1)
        for word, said in zip(words, utterance.words, strict=True)
    ] == pytest.approx([0] * count, abs=0.35)
    assert all(word["start"] <= word["end"] for word in words)


# -- transcription ----------------------------------------------------------------------------


def test_live_through_the_official_client(parakeet_server: Server, meeting: Utterance) -> None:
    """As Reflector's live pipeline asks, chunk by chunk."""
    file = io.BytesIO(wav(meeting.audio))
    file.name = "chunk.wav"

    heard = parakeet_server.openai(api_key=REFLECTOR_KEY).audio.transcriptions.create(
        file=file,
        model="whisper-1",
        response_format="verbose_json",
        language="en",
        timestamp_granularities=["word"],
    )

    assert heard.words is not None
    assert words_of(" ".join(word.word for word in heard.words)) == words_of(meeting.text)
    assert heard.segments is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (TRANSCRIPTIONS, {"batch": "true"}),
        (f"/reflector{TRANSCRIPTIONS}", {}),
        (f"/reflector{TRANSCRIPTIONS}", {"model": "parakeet", "language": "en"}),
    ],
)
def test_one_file(
    parakeet_server: Server, meeting: Utterance, path: str, fields: dict[str, str]
) -> None:
    result = body_of(parakeet_server.transcribe(wav(meeting.audio), path, **fields))

    assert set(result) == {"text", "words", "filename"}
    assert result["filename"] == "audio.wav"
    check_words(result, meeting, key="word")


def test_whisper_in_reflectors_shape(parakeet_server: Server, meeting: Utterance) -> None:
    """Its words come from the aligner."""
    answer = parakeet_server.transcribe(wav(meeting.audio), model="whisper-1", batch="true")
    check_words(body_of(answer), meeting, key="word")


@pytest.mark.parametrize("model", ["parakeet", PARAKEET.name])
def test_the_official_client_gets_openais_shape_from_a_parakeet(
    parakeet_server: Server, meeting: Utterance, model: str
) -> None:
    client = parakeet_server.openai(api_key=REFLECTOR_KEY)
    file = ("chunk.wav", wav(meeting.audio))

    heard = client.audio.transcriptions.create(file=file, model=model)

    assert words_of(heard.text) == words_of(meeting.text)
    assert set(heard.to_dict()) == {"text", "usage", "languages"}


# -- as documented ------------------------------------------------------------------------------


def env_of_docs() -> dict[str, str]:
    """The lines of Reflector's `.env` in docs/reflector.md."""
    text = (REPOSITORY / "docs" / "reflector.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z_]+)=(.+)$", text, re.MULTILINE))


@pytest.mark.parametrize("prefix", ["", "/reflector"])
def test_the_documented_env_reaches_every_endpoint(
    parakeet_server: Server, storage: Storage, meeting: Utterance, prefix: str
) -> None:
    """With each request as Reflector's processors send it, also with a URL without the prefix."""
    env = env_of_docs()
    urls = {
        name: env[name].replace("http://gpu-host:8000/reflector", parakeet_server.url + prefix)
        for name in ("TRANSCRIPT_URL", "DIARIZATION_URL", "TRANSLATE_URL")
    }
    assert all(url == parakeet_server.url + prefix for url in urls.values())
    recording = storage.put("documented.wav", meeting.audio)
    with httpx.Client(
        headers={"authorization": f"Bearer {REFLECTOR_KEY}"}, timeout=280, trust_env=False
    ) as http:
        live = OpenAI(
            base_url=urls["TRANSCRIPT_URL"] + "/v1", api_key=REFLECTOR_KEY, max_retries=0
        ).audio.transcriptions.create(
            file=("chunk.wav", wav(meeting.audio)),
            model="whisper-1",
            response_format="verbose_json",
            language="en",
            timestamp_granularities=["word"],
        )
        whole = http.post(
            urls["TRANSCRIPT_URL"] + "/v1/audio/transcriptions-from-url",
            json={"audio_file_url": recording, "language": "en", "batch": True},
        )
        speakers = http.post(
            urls["DIARIZATION_URL"] + "/diarize",
            params={"audio_file_url": recording, "timestamp": 0},
        )
        translated = http.post(
            urls["TRANSLATE_URL"] + "/translate",
            params={"text": "Merci chat.", "source_language": "fr", "target_language": "en"},
        )

    assert live.words is not None
    assert words_of(" ".join(word.word for word in live.words)) == words_of(meeting.text)
    if prefix:  # Reflector puts the words of a chunk next to one another
        assert "".join(word.word for word in live.words).strip() == live.text
    check_words(body_of(whole), meeting, key="word")
    assert {turn["speaker"] for turn in body_of(speakers)["diarization"]} == {0}
    assert body_of(translated)["text"]["en"] == "Thanks cat."


# -- several files ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["files", "files[]"])
def test_twenty_files_at_once(parakeet_server: Server, twenty: list[Utterance], field: str) -> None:
    answer = parakeet_server.http.post(TRANSCRIPTIONS, files=uploads(twenty, field))

    results = body_of(answer)["results"]
    assert [result["filename"] for result in results] == [f"track-{i}.wav" for i in range(20)]
    for result, utterance in zip(results, twenty, strict=True):
        check_words(result, utterance, key="word")


def test_batched_is_as_alone(parakeet_server: Server, twenty: list[Utterance]) -> None:
    files = uploads(twenty[:6], "files")

    together = body_of(parakeet_server.http.post(TRANSCRIPTIONS, files=files))
    one_by_one = body_of(
        parakeet_server.http.post(TRANSCRIPTIONS, files=files, data={"batch": "false"})
    )

    assert together == one_by_one
    assert [result["text"] for result in together["results"]] != [""] * 6


@pytest.mark.parametrize("batch", ["true", "false"])
def test_a_file_without_audio_is_named(
    parakeet_server: Server, twenty: list[Utterance], batch: str
) -> None:
    files = [*uploads(twenty[:3], "files"), ("files", ("notes.txt", b"no audio at all" * 99))]

    answer = parakeet_server.http.post(TRANSCRIPTIONS, files=files, data={"batch": batch})

    assert "'notes.txt'" in error_of(answer, 400, "invalid_audio", "file")
    assert body_of(parakeet_server.http.post(TRANSCRIPTIONS, files=files[:1]))["words"]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"batch": "perhaps"}, 400, "invalid_value", "batch"),
        ({"batch": "true", "language": "fr"}, 400, "invalid_value", "language"),
        ({"batch": "true", "language": "xx"}, 400, "invalid_value", "language"),
        ({"batch": "true", "model": "../secret"}, 404, "model_not_found", "model"),
        ({"batch": "true", "stream": "true"}, 422, "invalid_value", "stream"),
        ({"batch": "true", "diarize": "true"}, 422, "invalid_value", "diarize"),
        ({"batch": "true", "align": "false"}, 422, "invalid_value", "align"),
        ({"batch": "true", "response_format": "vtt_json"}, 422, "invalid_value", "response_format"),
        ({"batch": "true", "response_format": "srt"}, 422, "invalid_value", "response_format"),
        ({"batch": "true", "include[]": "logprobs"}, 422, "invalid_value", "include[]"),
        ({"batch": "true", "audio_url": "http://a.example/b"}, 400, "invalid_value", "files"),
    ],
)
def test_bad_fields_are_named(
    parakeet_server: Server,
    speech: Speech,
    fields: dict[str, str],
    status: int,
    code: str,
    param: str,
) -> None:
    answer = parakeet_server.transcribe(wav(speech.clip("en-adam", "red")), **fields)
    message = error_of(answer, status, code, param)
    if fields.get("language") == "fr":
        assert "only supports English" in message


def test_recordings_are_english_unless_said_otherwise(either_server: Server) -> None:
    """What the fake engine hears, it spells in the language that it is asked for."""
    files = [("files", ("a.wav", wav(say("rouge porte", language="fr"))))]

    def text(**fields: str) -> str:
        data = {"model": "whisper-1", **fields}
        heard: str = body_of(either_server.http.post(TRANSCRIPTIONS, files=files, data=data))[
            "text"
        ]
        return heard

    assert text() == "red door."
    assert text(language="fr") == "rouge porte."
    assert text(**{"languages[]": "fr"}) == "rouge porte."


@pytest.mark.parametrize("fields", [{}, {"batch": ""}, {"batches": "2"}])
def test_other_clients_get_openais_shape(fake_server: Server, fields: dict[str, str]) -> None:
    body = body_of(fake_server.transcribe(wav(say("red door")), **fields))
    assert set(body) == {"text", "usage", "languages"}


def test_files_are_bounded_together(either_server: Server) -> None:
    """Sent in chunks, so that no header says beforehand how large they are."""
    boundary = b"------------------------1"
    part = b'--%b\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\n' % boundary

    def form(files: int, size: int) -> Iterator[bytes]:
        for _ in range(files):
            yield part + bytes(size) + b"\r\n"
        yield b"--%b--\r\n" % boundary

    headers = {"content-type": f"multipart/form-data; boundary={boundary.decode()}"}
    for files, size, message in ((120, 10, "100 files"), (5, 9 * 1024**2, "bytes")):
        answer = either_server.http.post(TRANSCRIPTIONS, content=form(files, size), headers=headers)
        assert message in error_of(answer, 413, "file_too_large", "files")
    assert either_server.temp_files() == []


def test_no_file(parakeet_server: Server) -> None:
    answer = parakeet_server.http.post(TRANSCRIPTIONS, data={"batch": "true"})
    error_of(answer, 400, "missing_required_parameter", "file")


def test_from_url(parakeet_server: Server, storage: Storage, meeting: Utterance) -> None:
    url = storage.put("meeting.wav", meeting.audio)

    # As Reflector's file pipeline asks.
    answer = parakeet_server.http.post(
        FROM_URL, json={"audio_file_url": url, "language": "en", "batch": True}
    )
    later = parakeet_server.http.post(
        FROM_URL, json={"audio_file_url": url, "model": "parakeet", "timestamp_offset": 100.5}
    )

    assert set(body_of(answer)) == {"text", "words"}
    check_words(body_of(answer), meeting, key="word")
    check_words(body_of(later), meeting, key="word", offset=100.5)


def test_transcribe(parakeet_server: Server, meeting: Utterance) -> None:
    answer = parakeet_server.transcribe(wav(meeting.audio), "/transcribe", language="en")

    assert set(body_of(answer)) == {"text", "words"}
    check_words(body_of(answer), meeting, key="text")
    error_of(
        parakeet_server.http.post("/transcribe", data={"language": "en"}),
        *(400, "missing_required_parameter", "file"),
    )


def test_a_file_that_is_not_there(parakeet_server: Server, storage: Storage) -> None:
    url = f"{storage.url}/missing.wav"
    by_json = parakeet_server.http.post(FROM_URL, json={"audio_file_url": url})
    by_query = parakeet_server.http.post("/diarize", params={"audio_file_url": url})
    for answer in (by_json, by_query):
        assert "status 404" in error_of(answer, 400, "invalid_value", "audio_file_url")


def test_a_url_without_audio(parakeet_server: Server, storage: Storage) -> None:
    storage.files["/notes.txt"] = b"no audio at all" * 99
    answer = parakeet_server.http.post(
        FROM_URL, json={"audio_file_url": f"{storage.url}/notes.txt"}
    )
    error_of(answer, 400, "invalid_audio", "audio_file_url")


def test_private_hosts_are_not_fetched(either_server: Server, storage: Storage) -> None:
    url = storage.put("inside.wav", say("red door"))
    by_json = either_server.http.post(FROM_URL, json={"audio_file_url": url})
    by_query = either_server.http.post("/diarize", params={"audio_file_url": url})
    for answer in (by_json, by_query):
        assert "not public" in error_of(answer, 400, "invalid_value", "audio_file_url")


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{}", "missing_required_parameter", "audio_file_url"),
        (b"", "missing_required_parameter", "audio_file_url"),
        (b'{"audio_file_url": 5}', "invalid_value", "audio_file_url"),
        (b'{"audio_file_url": "ftp://a.example/b"}', "invalid_value", "audio_file_url"),
        (b'{"audio_file_url": "x", "timestamp_offset": -1}', "invalid_value", "timestamp_offset"),
        (b'{"audio_file_url": "x", "timestamp_offset": NaN}', "invalid_value", None),
        (b'{"audio_file_url": "x", "language": "xx"}', "invalid_value", "language"),
        (b'{"audio_file_url": "\\ud800"}', "invalid_value", None),
        (b'{"audio_file_url"', "invalid_value", None),
        (b"[" * 100_000, "invalid_value", None),
        (b"[]", "invalid_value", None),
    ],
)
def test_bad_json(fake_server: Server, content: bytes, code: str, param: str | None) -> None:
    error_of(fake_server.http.post(FROM_URL, content=content), 400, code, param)


def test_json_that_is_too_large(fake_server: Server) -> None:
    answer = fake_server.http.post("/llm", json={"prompt": "x" * 2 * 1024**2})
    error_of(answer, 413, "file_too_large", None)


# -- speakers ---------------------------------------------------------------------------------


def test_diarize(parakeet_server: Server, storage: Storage, speech: Speech) -> None:
    dialogue = speech.dialogue(("en-adam", "en-beth"), 40, seed=1)
    url = storage.put("dialogue.wav", dialogue.audio)

    fetched = parakeet_server.http.post(
        "/diarize", params={"audio_file_url": url, "timestamp": 0.0}
    )
    later = parakeet_server.http.post(
        "/diarize", params={"timestamp": 60}, files={"file": ("a.wav", wav(dialogue.audio))}
    )

    turns = body_of(fetched)["diarization"]
    assert all(set(turn) == {"start", "end", "speaker"} for turn in turns)
    assert {turn["speaker"] for turn in turns} == {0, 1}
    reference = turns_of((word.speaker, word.start, word.end) for word in dialogue.words)
    found = turns_of((str(turn["speaker"]), turn["start"], turn["end"]) for turn in turns)
    assert diarization_error(reference, found) <= 0.10
    shifted = body_of(later)["diarization"]
    assert [turn["speaker"] for turn in shifted] == [turn["speaker"] for turn in turns]
    for edge in ("start", "end"):
        assert [turn[edge] - 60 for turn in shifted] == pytest.approx(
            [turn[edge] for turn in turns]
        )


@pytest.mark.parametrize(
    ("query", "upload", "code", "param"),
    [
        ({}, False, "missing_required_parameter", "audio_file_url"),
        ({"audio_file_url": "http://a.example/b"}, True, "invalid_value", "file"),
        ({"timestamp": "soon"}, True, "invalid_value", "timestamp"),
        ({"timestamp": "-1"}, True, "invalid_value", "timestamp"),
        ({"timestamp": "nan"}, True, "invalid_value", "timestamp"),
        ({"audio_file_url": "no url"}, False, "invalid_value", "audio_file_url"),
    ],
)
def test_bad_diarize(
    fake_server: Server, query: dict[str, str], upload: bool, code: str, param: str
) -> None:
    files = {"file": ("a.wav", wav(say("red")))} if upload else None
    answer = fake_server.http.post("/diarize", params=query, files=files)
    error_of(answer, 400, code, param)


def test_silence_has_no_speakers(either_server: Server) -> None:
    answer = either_server.transcribe(wav(np.zeros(16_000, np.float32)), "/diarize")
    assert body_of(answer) == {"diarization": []}


# -- text -------------------------------------------------------------------------------------


def test_translate(parakeet_server: Server) -> None:
    text = "Ouvre porte rouge. Merci chat."
    languages = {"source_language": "fr", "target_language": "en"}
    expected = {"text": {"fr": text, "en": "Open door red. Thanks cat."}}

    by_json = parakeet_server.http.post("/translate", params={"text": text}, json=languages)
    # Reflector's own client puts all of it into the query.
    by_query = parakeet_server.http.post("/translate", params={"text": text, **languages})

    assert body_of(by_json) == expected
    assert body_of(by_query) == expected
    assert parakeet_server.lane("translation")["entries"] >= 2


def test_a_page_is_translated_whole(parakeet_server: Server) -> None:
    line = " ".join(["Ouvre porte rouge. Merci chat."] * 40)
    answer = parakeet_server.http.post(
        "/translate",
        json={"text": f"{line}\n\n{line}", "source_language": "fr", "target_language": "en"},
    )
    translated = " ".join(["Open door red. Thanks cat."] * 40)
    assert body_of(answer)["text"]["en"] == f"{translated}\n\n{translated}"


@pytest.mark.parametrize("text", ["", "Good morning."])
def test_nothing_to_translate(either_server: Server, text: str) -> None:
    answer = either_server.http.post(
        "/translate", params={"text": text}, json={"source_language": "en", "target_language": "en"}
    )
    assert body_of(answer) == {"text": {"en": text}}


def test_an_unknown_pair_is_named(parakeet_server: Server) -> None:
    answer = parakeet_server.http.post(
        "/translate",
        params={"text": "Guten Tag"},
        json={"source_language": "de", "target_language": "sw"},
    )
    message = error_of(answer, 400, "invalid_value", "target_language")
    assert "'de'" in message
    assert "'sw'" in message


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"source_language": "fr"}, "missing_required_parameter", "target_language"),
        ({"target_language": "fr"}, "missing_required_parameter", "source_language"),
        ({"source_language": "qq", "target_language": "fr"}, "invalid_value", "source_language"),
        ({"source_language": "fr", "target_language": "q"}, "invalid_value", "target_language"),
        ({"source_language": "fr", "target_language": 5}, "invalid_value", "target_language"),
    ],
)
def test_bad_translate(
    fake_server: Server, fields: dict[str, object], code: str, param: str
) -> None:
    answer = fake_server.http.post("/translate", params={"text": "bonjour"}, json=fields)
    error_of(answer, 400, code, param)


def test_translate_without_text(either_server: Server) -> None:
    languages = {"source_language": "fr", "target_language": "en"}
    answer = either_server.http.post("/translate", json=languages)
    error_of(answer, 400, "missing_required_parameter", "text")


SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["title", "score"],
}


def test_llm(parakeet_server: Server) -> None:
    answer = parakeet_server.http.post(
        "/llm", json={"prompt": "Name the topic.", "gen_cfg": {"max_new_tokens": 12}}
    )

    assert set(body_of(answer)) == {"text"}
    assert 0 < len(body_of(answer)["text"]) <= 12 * 8
    assert parakeet_server.lane("generation")["entries"] >= 1


def test_llm_keeps_to_the_schema(parakeet_server: Server) -> None:
    answer = parakeet_server.http.post(
        "/llm",
        json={
            "prompt": "Name the topic.",
            "gen_schema": SCHEMA,
            "gen_cfg": {"max_new_tokens": 90, "temperature": 0.6},
        },
    )

    jsonschema_rs.validate(SCHEMA, json.loads(body_of(answer)["text"]))


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "prompt"),
        ({"prompt": ""}, "invalid_value", "prompt"),
        ({"prompt": "a", "gen_cfg": {"temperatur": 1}}, "invalid_value", "gen_cfg"),
        ({"prompt": "a", "gen_cfg": {"temperature": "hot"}}, "invalid_value", "gen_cfg"),
        ({"prompt": "a", "gen_cfg": []}, "invalid_value", "gen_cfg"),
        ({"prompt": "a", "gen_schema": {"type": "nonsense"}}, "invalid_value", "gen_schema"),
    ],
)
def test_bad_llm(parakeet_server: Server, fields: dict[str, object], code: str, param: str) -> None:
    error_of(parakeet_server.http.post("/llm", json=fields), 400, code, param)


def test_llm_that_is_not_set(either_server: Server) -> None:
    answer = either_server.http.post("/llm", json={"prompt": "hello"})
    assert "LLM__MODEL" in error_of(answer, 501, "not_configured", None)


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *(TRANSCRIPTIONS, FROM_URL, "/transcribe", "/diarize", "/translate", "/llm"),
        *(f"/reflector{path}" for path in (TRANSCRIPTIONS, FROM_URL, "/diarize", "/llm")),
    ],
)
def test_every_endpoint_needs_the_key(parakeet_server: Server, path: str) -> None:
    with httpx.Client(base_url=parakeet_server.url, trust_env=False) as stranger:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = stranger.post(path, headers=headers, content=b"{")
            error_of(answer, 401, "invalid_api_key", None)
        for scheme in ("Bearer", "bearer", "BEARER"):
            headers = {"authorization": f"{scheme} {REFLECTOR_KEY}"}
            assert stranger.post(path, headers=headers, content=b"{").status_code == 400
