"""The OpenAPI document: forms, formats, events and errors, which FastAPI cannot see.

Bodies are parsed by hand (`multipart`, `forms`). They are described here by the models that
validate them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from threading import Lock
from types import ModuleType
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, TypeAdapter

from ..answers import asr, jobs, openai, reflector, server
from ..answers import errors as error_answers
from ..answers.errors import Error
from ..domain import OutputOptions, Segment, Transcript
from ..fields.rules import TRANSLATED
from ..fields.transcription import FilesForm, ServerVad, TranscriptionForm
from ..formats.render import render
from ..live.messages import ExpiresAfter
from ..output_formats import FORMATS

Json = dict[str, Any]
Responses = dict[int | str, Json]

REFERENCE = "#/components/schemas/{model}"

ERRORS: Mapping[int, str] = {
    400: "A field is missing or has a value that it cannot have, or the file is not audio.",
    401: "No API key, or a wrong one.",
    404: "There is no job, model or path with that name.",
    408: "The client stalled while it sent the request.",
    409: "The job has no result yet, or the model is in use.",
    413: "The upload, the recording or a field is over its limit.",
    422: "The fields are valid, but cannot be combined.",
    426: "The path needs a WebSocket.",
    429: "The queue is full; retry after `Retry-After` seconds.",
    500: "The server failed on this request.",
    501: "A stage's packages are not installed, or its setting is missing; the message names it.",
    503: "A temporary failure: the server shuts down, a model is unavailable, or memory is short.",
}

RUN_ERRORS = (400, 404, 408, 413, 422, 429, 501, 503)
"""Statuses of a transcription that fails or is refused."""

TEXT_ERRORS = (400, 404, 408, 413, 429, 501, 503)
"""Statuses of a text request that fails or is refused."""

TAGS = [
    {"name": "audio", "description": "OpenAI's audio API."},
    {
        "name": "jobs",
        "description": "Transcriptions in the background.",
    },
    {"name": "models", "description": "Models that requests can name, and the loaded ones."},
    {"name": "asr", "description": "The API of whisper-asr-webservice, for Bazarr and others."},
    {"name": "reflector", "description": "The API of Reflector's GPU servers."},
    {"name": "system", "description": "Health, readiness, state."},
]

_REQUEST_ID = {
    "description": "The request's id, which is the client's `X-Request-ID` if it sent one.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {
    "description": "Seconds until a retry may succeed, if known.",
    "schema": {"type": "integer", "minimum": 0},
}

_EXAMPLE = Transcript(
    task="transcribe",
    language="en",
    languages=("en",),
    duration=1.2,
    segments=(Segment(start=0.0, end=1.2, text="red door house.", language="en"),),
)

EVENTS = (openai.TextDelta, openai.DiarizedSegment, openai.TextDone, Error)
"""The events of a transcript's stream before `[DONE]`."""


# -- references -------------------------------------------------------------------------------


def _ref(model: Any) -> Json:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def json_content(*models: Any) -> Json:
    """JSON content of one of these shapes."""
    schemas = [_ref(model) for model in models]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"application/json": {"schema": schema}}


# -- answers ----------------------------------------------------------------------------------


def errors(*statuses: int) -> Responses:
    """The error answers of a route behind a key: those statuses, 401 and 500."""
    return {
        status: {"description": ERRORS[status], "content": json_content(Error)}
        for status in sorted({*statuses, HTTPStatus.UNAUTHORIZED, HTTPStatus.INTERNAL_SERVER_ERROR})
    }


def answers(*models: Any, others: Json | None = None) -> Responses:
    """An answer in JSON of one of those shapes, or as `others`, by media type; and its errors."""
    return {200: {"content": json_content(*models) | (others or {})}, **errors(*RUN_ERRORS)}


def transcripts(
    *json_models: Any, statuses: Iterable[int] = RUN_ERRORS, stream: bool = False
) -> Responses:
    """A transcript in any format (`application/json` is of several), or one of those errors."""
    content = json_content(*json_models)
    for name, kind in FORMATS.items():
        media_type = kind.media_type.partition(";")[0]
        held = content.setdefault(media_type, {"schema": {"type": "string"}, "examples": {}})
        if media_type != "application/json":
            example = render(_EXAMPLE, OutputOptions(format=name)).body
            held["examples"][name] = {"value": example}
    if stream:
        content |= event_stream(*EVENTS)
    described = {"description": "The transcript in the requested format.", "content": content}
    return {200: described, **errors(*statuses)}


def event_stream(*models: Any) -> Json:
    """The content of a stream of such events; OpenAPI 3.1 describes a stream by each event."""
    json_data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_ref(model) for model in models]},
    }
    data = {"anyOf": [json_data, {"const": "[DONE]"}], "description": "`[DONE]` is the last."}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {"text/event-stream": {"schema": event}}


SUBMITTED: Responses = {
    202: {"description": "With `async`: the job.", "content": json_content(jobs.JobStatus)}
}
_FORMATS = (openai.Transcription, openai.VerboseTranscription, openai.VttTranscription)
TRANSCRIPTION: Responses = SUBMITTED | transcripts(
    *_FORMATS,
    openai.DiarizedTranscription,
    reflector.ReflectorFile,
    reflector.ReflectorFiles,
    stream=True,
)
TRANSLATION: Responses = transcripts(*_FORMATS)
JOB_RESULT: Responses = transcripts(
    *_FORMATS, openai.DiarizedTranscription, statuses=(400, 404, 409, 422)
)
JOB_EVENTS: Responses = {
    200: {
        "description": "The job, now and after each change.",
        "content": event_stream(jobs.JobEvent, openai.TextDelta),
    },
    **errors(400, 404),
}


# -- queries and bodies -----------------------------------------------------------------------


def query(model: type[BaseModel]) -> Json:
    """The fields of a model, in the query."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in fields(model).items()
        ]
    }


def form(fields: Json, *, files: Json | None = None, sources: Iterable[str] = ()) -> Json:
    """A form with fields and files. Where there are `sources`, one of them must be sent."""
    schema: Json = {"type": "object", "properties": (files or {}) | fields}
    if required := [{"required": [name]} for name in sources]:
        schema["oneOf"] = required
    kinds = ["multipart/form-data", *([] if files else ["application/x-www-form-urlencoded"])]
    content = {kind: {"schema": schema} for kind in kinds}
    return {"requestBody": {"content": content, "required": bool(required)}}


def fields(model: type[BaseModel]) -> Json:
    """The schema of each of a model's fields."""
    properties = model.model_json_schema(ref_template=REFERENCE)["properties"]
    return {name: _field(schema) for name, schema in properties.items()}


def _field(schema: Json) -> Json:
    """A form's field, which can be absent but not null."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    choices = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(choices) == 1:
        del schema["anyOf"]
        return {**choices[0], **schema}
    return schema | {"anyOf": choices} if choices else schema


def file(description: str = "The recording: anything that ffmpeg reads.") -> Json:
    """A field that is a file."""
    return {"type": "string", "format": "binary", "description": description}


FILE = {"file": file()}
SOURCES = ("file", "audio_url")
SPEECH_BODY = form(fields(TranscriptionForm), files=FILE, sources=SOURCES)
TRANSLATION_BODY = form(
    {name: each for name, each in fields(TranscriptionForm).items() if name in TRANSLATED},
    files=FILE,
    sources=SOURCES,
)
_FILES = {"type": "array", "items": file("A recording.")}
TRANSCRIPTION_BODY = form(
    fields(TranscriptionForm) | fields(FilesForm),
    files=FILE
    | {
        "files": _FILES | {"description": "Reflector's way to send several recordings."},
        "files[]": _FILES | {"description": "The same."},
    },
    sources=(*SOURCES, "files", "files[]"),
)


def json_body(model: type[BaseModel], *, in_query: bool = False) -> Json:
    """A body in JSON, which the route reads and checks; its fields may also be `in_query`."""
    described = model.model_json_schema(ref_template=REFERENCE)
    if in_query:
        described.pop("required")
    content = {"application/json": {"schema": described}}
    body: Json = {"requestBody": {"content": content, "required": not in_query}}
    return body | (query(model) if in_query else {})


_WEBHOOK: Json = {
    "summary": "A job has ended",
    "description": "Sent to `callback_url`; tried again until it is answered with success.",
    "requestBody": {"content": json_content(jobs.WebhookEvent), "required": True},
    "responses": {"2XX": {"description": "Received."}},
}


# -- the document -----------------------------------------------------------------------------


class DescribedApi(FastAPI):
    """FastAPI with the OpenAPI document completed."""

    def setup(self) -> None:
        """Serve the document, which is made on a thread: it takes 0.2 s of CPU time."""
        making = Lock()

        def document(_: Request) -> JSONResponse:
            with making:
                return JSONResponse(self.openapi())

        assert self.openapi_url is not None
        self.add_route(self.openapi_url, document, include_in_schema=False)

    def openapi(self) -> Json:
        """The document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["tags"] = TAGS
            document["webhooks"] = {"transcription": {"post": _WEBHOOK}}
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(_components())
            for unused in ("HTTPValidationError", "ValidationError"):
                components.pop(unused, None)
            for path in document["paths"].values():
                for operation in path.values():
                    _complete(operation)
        return cast("Json", self.openapi_schema)


def _complete(operation: Json) -> None:
    """Drop FastAPI's own answer to invalid parameters: ours is 400."""
    answered = operation["responses"]
    invalid = answered.get("422", {}).get("content", {}).get("application/json", {})
    if invalid.get("schema") == {"$ref": REFERENCE.format(model="HTTPValidationError")}:
        del answered["422"]
    for status, response in answered.items():
        content = response.get("content", {}).get("application/json", {})
        if "$ref" in content.get("schema", {}):  # FastAPI adds its own guess beside it
            content["schema"] = {"$ref": content["schema"]["$ref"]}
        response["headers"] = {"x-request-id": _REQUEST_ID}
        if status in ("429", "503"):
            response["headers"]["Retry-After"] = _RETRY_AFTER


def _defined_in(module: ModuleType) -> list[Any]:
    return [
        each
        for each in vars(module).values()
        if getattr(each, "__module__", None) == module.__name__
    ]


def _components() -> Json:
    """The shapes that the document refers to by name; answers have no other keys."""
    modules = (asr, error_answers, jobs, openai, reflector, server)
    described = [
        ServerVad,
        ExpiresAfter,
        *(each for module in modules for each in _defined_in(module)),
    ]
    _, schemas = TypeAdapter.json_schemas(
        [(each.__name__, "validation", TypeAdapter(each)) for each in described],
        ref_template=REFERENCE,
    )
    components = cast("Json", schemas["$defs"])
    for schema in components.values():
        schema["additionalProperties"] = False
    return components
