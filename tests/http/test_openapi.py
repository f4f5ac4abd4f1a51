"""The OpenAPI document is true: of every answer that real requests get, and of generated ones."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, get_args

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from openai.types import AudioModel
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server import FAKE, REPOSITORY, Server
from support import wav
from tones import CHUNK, sentences
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.errors import ServiceError
from whisperx_api_server.output_formats import OutputFormat

KEY = "a-key-for-the-tests"
JOBS = "/v1/audio/transcriptions/{request_id}"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FROM_URL = "/v1/audio/transcriptions-from-url"
SPEECH = sentences(2, speakers=2)
VOICE = "data:audio/wav;base64," + base64.b64encode(sentences(1)).decode()
CONFORMANCE = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
RIGHT_FAILURES = {501: {"not_installed", "not_configured"}, 503: {"model_unavailable"}}
"""By contract: what is not set, or not on this machine."""
EXAMPLES = 12
"""Requests to each operation, of either kind: those that the document allows and those not."""

BODIES = (TRANSCRIPTIONS, "/v1/audio/translations", "/transcribe", "/translate", "/llm")

schemathesis.openapi.format(
    "binary", st.sampled_from([wav(say("red door")), wav(silence(0.2))]) | st.binary(max_size=200)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On the fake backend, behind a key."""
    directory = tmp_path_factory.mktemp("described")
    described = {"API_KEY": KEY, "JOBS__DIRECTORY": str(directory / "jobs")}
    with Server(directory, FAKE | described) as server:
        server.http.headers["authorization"] = f"Bearer {KEY}"
        yield server
        assert list(server.temp.glob("whisperx-api-server-*/*")) == []
    assert "unexpected failure" not in server.log


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get("/openapi.json").raise_for_status().json()
    return found


@pytest.fixture(scope="module")
def schema(server: Server, document: dict[str, Any]) -> BaseSchema:
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=server.url, headers={"authorization": f"Bearer {KEY}"})
    loaded.config.generation.update(with_security_parameters=False)
    return loaded


def all_errors(parent: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    """An error class and all that are derived from it."""
    yield parent
    for each in parent.__subclasses__():
        yield from all_errors(each)


# -- real requests ------------------------------------------------------------------------------


def check(schema: BaseSchema, path: str, answer: httpx.Response, status: int = 200) -> Any:
    """That the answer has this status, and is as the document says; its JSON."""
    assert answer.status_code == status, answer.text
    # schemathesis wants to read the request again, which has been streamed
    answer.request = httpx.Request(answer.request.method, answer.request.url)
    case = schema[path][answer.request.method].Case()
    case.validate_response(answer, checks=CONFORMANCE)
    return answer.json() if answer.headers["content-type"] == "application/json" else None


def check_events(document: dict[str, Any], path: str, method: str, answer: httpx.Response) -> None:
    """That each event before the last is of a shape that the document names for this stream."""
    content = document["paths"][path][method]["responses"]["200"]["content"]
    described = content["text/event-stream"]["schema"]["properties"]["data"]["anyOf"][0]
    shapes = described["contentSchema"] | {"components": document["components"]}
    allowed = jsonschema_rs.validator_for(shapes)
    *events, last = answer.text.strip().split("\n\n")
    assert last == "data: [DONE]"
    assert events
    for event in events:
        name, data = event.split("\n")
        read = json.loads(data.removeprefix("data: "))
        allowed.validate(read)
        assert name == f"event: {read.get('type', 'error')}"


def test_the_document_is_valid_openapi(schema: BaseSchema) -> None:
    schema.validate()


def test_every_name_in_the_document_is_defined_and_used(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    named = set(re.findall(r'"#/components/schemas/(\w+)"', text))

    assert named == set(document["components"]["schemas"])


def test_the_reference_has_every_field_format_event_and_error(document: dict[str, Any]) -> None:
    reference = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    in_code = set(re.findall(r"`([^`]+)`", reference))
    rows = set(re.findall(r"^\| `([^`]+)`", reference, re.MULTILINE))
    body = document["paths"][TRANSCRIPTIONS]["post"]["requestBody"]["content"]
    fields = set(body["multipart/form-data"]["schema"]["properties"]) - {"files[]"}
    shapes = document["components"]["schemas"]
    events = {shapes[name]["properties"]["type"]["const"] for name in ("TextDelta", "TextDone")}

    assert (fields | set(get_args(OutputFormat)) | events) - rows == set()
    assert set(shapes["JobStatus"]["properties"]) - in_code == set()
    assert set(shapes["JobEvent"]["properties"]["type"]["enum"]) - in_code == set()
    assert {each.code for each in all_errors()} - in_code == set()


def test_every_field_is_described(document: dict[str, Any]) -> None:
    for path in (TRANSCRIPTIONS, "/v1/audio/translations"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert [
            name for name, each in body["schema"]["properties"].items() if "description" not in each
        ] == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"include[]": "logprobs"},
        {"response_format": "text"},
        {"response_format": "verbose_json"},
        {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]},
        {"response_format": "verbose_json", "timestamp_granularities[]": "word", "diarize": "true"},
        {"response_format": "verbose_json", "diarize": "true", "speaker_embeddings": "true"},
        {"response_format": "vtt_json", "diarize": "true"},
        {"response_format": "srt"},
        {"response_format": "vtt"},
        {"response_format": "aud"},
        {"response_format": "diarized_json"},
        {"batch": "true", "model": "tiny"},
    ],
)
def test_transcripts_are_as_described(
    server: Server, schema: BaseSchema, fields: dict[str, Any]
) -> None:
    answer = server.transcribe(SPEECH, **fields)

    check(schema, TRANSCRIPTIONS, answer)


@pytest.mark.parametrize("output", ["json", "text", "verbose_json", "vtt_json", "srt", "vtt"])
def test_translations_are_as_described(server: Server, schema: BaseSchema, output: str) -> None:
    path = "/v1/audio/translations"
    answer = server.transcribe(sentences(1, language="fr"), path, response_format=output)

    check(schema, path, answer)


@pytest.mark.parametrize(
    "fields",
    [
        {"include[]": "logprobs"},
        {"response_format": "diarized_json"},
    ],
)
def test_streams_are_as_described(
    server: Server, schema: BaseSchema, document: dict[str, Any], fields: dict[str, Any]
) -> None:
    answer = server.transcribe(SPEECH, stream="true", **CHUNK, **fields)

    check(schema, TRANSCRIPTIONS, answer)
    check_events(document, TRANSCRIPTIONS, "post", answer)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (400, {"temperature": "hot"}),
        (404, {"model": "../etc/passwd"}),
        (422, {"diarize": "true", "align": "false"}),
        (501, {"async": "true", "callback_url": "https://example.com/"}),
    ],
)
def test_refusals_are_as_described(
    server: Server, schema: BaseSchema, status: int, fields: dict[str, Any]
) -> None:
    check(schema, TRANSCRIPTIONS, server.transcribe(SPEECH, **fields), status)


def test_a_wrong_key_is_as_described(server: Server, schema: BaseSchema) -> None:
    for path in ("/info", "/v1/models"):
        answer = server.http.get(path, headers={"authorization": "Bearer wrong"})
        check(schema, path, answer, 401)


def test_jobs_are_as_described(
    server: Server, schema: BaseSchema, document: dict[str, Any]
) -> None:
    submitted = server.transcribe(
        SPEECH,
        **CHUNK,
        **{
            "async": "true",
            "response_format": "diarized_json",
            "known_speaker_names[]": "Ada",
            "known_speaker_references[]": VOICE,
        },
    )
    job = check(schema, TRANSCRIPTIONS, submitted, 202)

    events = server.http.get(job["events_url"], params={"text": "true"})
    check(schema, f"{JOBS}/events", events)
    check_events(document, f"{JOBS}/events", "get", events)
    check(schema, f"{JOBS}/status", server.http.get(job["status_url"]))
    for output in (None, "json", "verbose_json", "vtt_json", "srt", "vtt", "aud", "text"):
        asked = {"response_format": output} if output else {}
        check(schema, f"{JOBS}/result", server.http.get(job["result_url"], params=asked))
    wrong = server.http.get(job["result_url"], params={"response_format": "pdf"})
    check(schema, f"{JOBS}/result", wrong, 400)
    check(schema, TRANSCRIPTIONS, server.http.get(TRANSCRIPTIONS, params={"limit": 1}))
    check(schema, TRANSCRIPTIONS, server.http.get(TRANSCRIPTIONS, params={"limit": 0}), 400)
    check(schema, TRANSCRIPTIONS, server.http.get(TRANSCRIPTIONS, params={"after": "x"}), 404)
    gone = f"{TRANSCRIPTIONS}/{job['request_id']}"
    check(schema, JOBS, server.http.delete(gone))
    check(schema, JOBS, server.http.delete(gone), 404)


def test_a_failed_job_is_as_described(server: Server, schema: BaseSchema) -> None:
    job = server.transcribe(b"no audio", **{"async": "true"}).json()
    server.http.get(job["events_url"])

    status = check(schema, f"{JOBS}/status", server.http.get(job["status_url"]))
    check(schema, f"{JOBS}/result", server.http.get(job["result_url"]), 409)

    assert status["error"]["code"] == "invalid_audio"


def test_models_are_as_described(server: Server, schema: BaseSchema) -> None:
    http = server.http
    check(schema, "/v1/models", http.get("/v1/models"))
    check(schema, "/v1/models/{model_id}", http.get("/v1/models/whisper-1"))
    check(schema, "/v1/models/{model_id}", http.get("/v1/models/none/such"), 404)
    for stage, named in (
        ("models", {"model": "tiny"}),
        ("align_models", {"language": "de"}),
        ("diarize_models", {}),
    ):
        check(schema, "/{stage}/load", http.post(f"/{stage}/load", data=named))
        check(schema, "/{stage}/list", http.get(f"/{stage}/list"))
        check(schema, "/{stage}/unload", http.post(f"/{stage}/unload", params=named))
        check(schema, "/{stage}/unload", http.post(f"/{stage}/unload", params=named), 404)
    check(schema, "/{stage}/load", http.post("/models/load"), 400)
    check(schema, "/{stage}/list", http.get("/no_models/list"), 404)


def test_every_model_of_openais_sdk_is_listed(server: Server) -> None:
    listed = {model["id"] for model in server.http.get("/v1/models").json()["data"]}

    assert set(get_args(AudioModel)) <= listed


def test_the_server_is_as_described(server: Server, schema: BaseSchema) -> None:
    for path in ("/healthcheck", "/ready", "/info"):
        check(schema, path, server.http.get(path))


def test_reflectors_answers_are_as_described(parakeet_server: Server, schema: BaseSchema) -> None:
    http = parakeet_server.http
    file = ("a.wav", SPEECH)
    several = http.post(TRANSCRIPTIONS, files=[("files", file), ("files", file)])
    check(schema, TRANSCRIPTIONS, several)
    check(schema, TRANSCRIPTIONS, http.post(TRANSCRIPTIONS, files={"files[]": file}))
    check(schema, "/transcribe", http.post("/transcribe", files={"file": file}))
    check(schema, "/diarize", http.post("/diarize", files={"file": file}))
    check(schema, "/diarize", http.post("/diarize"), 400)
    private = {"audio_file_url": "http://169.254.169.254/a.wav"}
    check(schema, FROM_URL, http.post(FROM_URL, json=private), 400)
    languages = {"source_language": "fr", "target_language": "en"}
    translated = http.post("/translate", params={"text": "Le chat."}, json=languages)
    check(schema, "/translate", translated)
    check(schema, "/translate", http.post("/translate", json=languages), 400)
    generated = http.post("/llm", json={"prompt": "a", "gen_cfg": {"max_new_tokens": 2}})
    check(schema, "/llm", generated)


# -- generated requests -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_requests_are_answered_as_described(
    schema: BaseSchema, mode: GenerationMode
) -> None:
    seen: dict[str, Counter[int]] = defaultdict(Counter)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if not any(operation.iter_parameters()) and not operation.body:
            continue
        if operation.path.startswith("/reflector"):  # its twin at the root is asked
            continue

        @seed(2026)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def send(case: Case[Any]) -> None:
            answer = case.call(timeout=60)
            checks = CONFORMANCE
            if answer.status_code in RIGHT_FAILURES:
                assert answer.json()["error"]["code"] in RIGHT_FAILURES[answer.status_code]
            else:
                checks = [*checks, not_a_server_error]
            case.validate_response(answer, checks=checks)
            seen[case.operation.label][answer.status_code] += 1

        with suppress(Unsatisfiable):  # no value of a free path parameter is wrong
            send()
    assert all(seen[f"POST {path}"].total() >= EXAMPLES for path in BODIES)
