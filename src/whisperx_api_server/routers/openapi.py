"""The OpenAPI document: what FastAPI cannot see of the forms, the formats, the events, the errors.

Bodies are parsed by hand (`multipart`, `forms`), so FastAPI knows none of their fields: they are
described here from the same models that check them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from types import ModuleType
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel, TypeAdapter

from ..answers import asr, jobs, openai, reflector, server
from ..answers import errors as error_answers
from ..answers.errors import Error
from ..domain import OutputFormat
from ..fields.common import ResultForm
from ..fields.transcription import ServerVad, TranscriptionForm
from ..fields.translation import TranslationForm
from ..formats.render import MEDIA_TYPES

Json = dict[str, Any]
Responses = dict[int | str, Json]

REFERENCE = "#/components/schemas/{model}"

ERRORS: Mapping[int, str] = {
    400: "A field is missing or has a value that it cannot have, or the file is no audio.",
    401: "No API key, or a wrong one.",
    404: "There is nothing under that name: no such job, model or path.",
    408: "The client stopped sending its request.",
    409: "Not now: the job has no result, or the model is in use.",
    413: "The upload, the recording or a field is over its limit.",
    422: "Each field is fine, but not together with the others.",
    429: "The queue is full; `Retry-After` says when to come again.",
    500: "The server failed on this request.",
    501: "A stage's packages are not installed, or its setting is missing; the message names it.",
    503: "For the moment only: the server shuts down, a model cannot be had, or memory is short.",
}

RUN_ERRORS = (400, 404, 408, 413, 422, 429, 501, 503)
"""How a recording may fail to become a transcript, or to be taken at all."""

TEXT_ERRORS = (400, 404, 408, 413, 429, 501, 503)
"""How a text may fail to become another."""

TAGS = [
    {"name": "audio", "description": "OpenAI's audio API."},
    {"name": "jobs", "description": "Transcriptions that one watches, leaves and cancels."},
    {"name": "models", "description": "What can be asked for, and what is loaded."},
    {"name": "asr", "description": "The API of whisper-asr-webservice, for Bazarr and others."},
    {"name": "reflector", "description": "What Reflector asks of its GPU servers."},
    {"name": "system", "description": "Is it alive, is it ready, what is it doing."},
]

_REQUEST_ID = {
    "description": "The request's id; a client's own `X-Request-ID` comes back.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {
    "description": "Seconds; sent where the server can tell.",
    "schema": {"type": "integer", "minimum": 0},
}

_WORDS = "red door house."
_EXAMPLES: Mapping[OutputFormat, tuple[str, str]] = {
    "text": (_WORDS, f"{_WORDS}\n"),
    "srt": ("one cue", f"1\n00:00:00,000 --> 00:00:01,200\n{_WORDS}\n\n"),
    "vtt": ("one cue", f"WEBVTT\n\n00:00:00.000 --> 00:00:01.200\n{_WORDS}\n"),
    "aud": ("Audacity's label track", f"0.000000\t1.200000\t{_WORDS}\n"),
}

EVENTS = (openai.TextDelta, openai.DiarizedSegment, openai.TextDone, Error)
"""What a transcript's stream may hold before `[DONE]`."""


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


def answers(model: Any, *statuses: int) -> Responses:
    """A JSON answer of that shape, or one of those errors."""
    return {200: {"content": json_content(model)}, **errors(*statuses)}


def transcripts(*json_models: Any, statuses: Iterable[int], stream: bool = False) -> Responses:
    """A transcript in any format (`application/json` is of several), or one of those errors."""
    content = json_content(*json_models)
    for name, (summary, example) in _EXAMPLES.items():
        media_type = MEDIA_TYPES[name].partition(";")[0]
        held = content.setdefault(media_type, {"schema": {"type": "string"}, "examples": {}})
        held["examples"][name] = {"summary": summary, "value": example}
    if stream:
        content |= event_stream(*EVENTS)
    described = {"description": "The transcript, in the format asked for.", "content": content}
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
    statuses=RUN_ERRORS,
    stream=True,
)
REFLECTOR_TRANSCRIPTION: Responses = {
    200: {"content": json_content(reflector.ReflectorFile, reflector.ReflectorFiles)},
    **errors(*RUN_ERRORS),
}
TRANSLATION: Responses = transcripts(*_FORMATS, statuses=RUN_ERRORS)
_ASR_TEXT = {"text/plain": {"schema": {"type": "string"}}}
ASR: Responses = {
    200: {
        "description": "The transcript, in the format asked for.",
        "content": json_content(asr.AsrTranscript) | _ASR_TEXT,
    },
    **errors(*RUN_ERRORS),
}
JOB_RESULT: Responses = transcripts(
    *_FORMATS, openai.DiarizedTranscription, statuses=(400, 404, 409, 422)
)
JOB_EVENTS: Responses = {
    200: {
        "description": "The job, now and after each change.",
        "content": event_stream(jobs.JobEvent),
    },
    **errors(404),
}


# -- bodies -----------------------------------------------------------------------------------


def multipart(model: type[BaseModel], *, files: Json, required: list[Json] | None = None) -> Json:
    """A multipart body: the fields of a form, and files; one of `required` must hold."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    schema.pop("$defs", None)
    schema.pop("title", None)
    schema["properties"] = files | {
        name: _field(described) for name, described in schema["properties"].items()
    }
    if required:
        schema["oneOf"] = required
    content: Json = {"schema": schema}
    return {"requestBody": {"content": {"multipart/form-data": content}, "required": True}}


def _field(schema: Json) -> Json:
    """A form's field: absent is absent, there is no null."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    choices = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(choices) == 1:
        del schema["anyOf"]
        return {**choices[0], **schema}
    return schema | {"anyOf": choices} if choices else schema


def _query(properties: Json) -> list[Json]:
    return [
        {"name": name, "in": "query", "required": False, "schema": _field(schema)}
        for name, schema in properties.items()
    ]


def _file(description: str) -> Json:
    return {"type": "string", "format": "binary", "description": description}


FILE = {"file": _file("The recording: anything that ffmpeg reads.")}
_SOURCE = [{"required": ["file"]}, {"required": ["audio_url"]}]

_REFLECTOR_FILES = {"type": "array", "items": _file("A recording.")}
_REFLECTOR_FIELDS = {
    "files": _REFLECTOR_FILES | {"description": "Reflector's way to send several recordings."},
    "files[]": _REFLECTOR_FILES | {"description": "The same."},
    "batch": {
        "type": "boolean",
        "default": True,
        "description": "Reflector's: whether the files run side by side; chooses its answer.",
    },
}

TRANSCRIPTION_BODY = multipart(
    TranscriptionForm,
    files=FILE | _REFLECTOR_FIELDS,
    required=[*_SOURCE, {"required": ["files"]}, {"required": ["files[]"]}],
)
TRANSLATION_BODY = multipart(TranslationForm, files=FILE, required=_SOURCE)
SPEECH_BODY = multipart(TranscriptionForm, files=FILE, required=_SOURCE)


def audio_file(query: type[BaseModel]) -> Json:
    """A recording as `audio_file`, and fields in the query."""
    body = {
        "type": "object",
        "properties": {"audio_file": FILE["file"]},
        "required": ["audio_file"],
    }
    content = {"multipart/form-data": {"schema": body}}
    return {
        "parameters": _query(query.model_json_schema()["properties"]),
        "requestBody": {"content": content, "required": True},
    }


RESULT_QUERY: Json = {"parameters": _query(ResultForm.model_json_schema()["properties"])}

DIARIZATION_BODY: Json = {
    "requestBody": {
        "content": {"multipart/form-data": {"schema": {"type": "object", "properties": FILE}}},
        "description": "Absent with `audio_file_url`.",
    }
}

_MODEL_NAMES: Json = {
    "model": {"type": "string", "description": "For models and diarize_models."},
    "language": {"type": "string", "description": "For align_models."},
}
MODEL_NAME: Json = {
    "parameters": _query(_MODEL_NAMES),
    "requestBody": {
        "content": {
            media_type: {"schema": {"type": "object", "properties": _MODEL_NAMES}}
            for media_type in ("multipart/form-data", "application/x-www-form-urlencoded")
        },
        "description": "Instead of the query.",
    },
}


def json_body(model: type[BaseModel], *, in_query: bool = False) -> Json:
    """A body in JSON, which the route reads and checks; its fields may also be `in_query`."""
    described = model.model_json_schema(ref_template=REFERENCE)
    if in_query:
        described.pop("required")
    content = {"application/json": {"schema": described}}
    body: Json = {"requestBody": {"content": content, "required": not in_query}}
    return body | ({"parameters": _query(described["properties"])} if in_query else {})


_WEBHOOK: Json = {
    "summary": "A job has ended",
    "description": "Sent to `callback_url`; tried again until it is answered with success.",
    "requestBody": {"content": json_content(jobs.WebhookEvent), "required": True},
    "responses": {"2XX": {"description": "Received."}},
}


# -- the document -----------------------------------------------------------------------------


class DescribedApi(FastAPI):
    """FastAPI with the OpenAPI document completed."""

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
    """Drop the answer to invalid parameters that FastAPI would give: ours is the 400."""
    answered = operation["responses"]
    invalid = answered.get("422", {}).get("content", {}).get("application/json", {})
    if invalid.get("schema") == {"$ref": REFERENCE.format(model="HTTPValidationError")}:
        del answered["422"]
    for status, response in answered.items():
        content = response.get("content", {}).get("application/json", {})
        if "$ref" in content.get("schema", {}):  # beside it is what FastAPI takes a dict for
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
    """Everything that the document refers to by name."""
    modules = (asr, error_answers, jobs, openai, reflector, server)
    described = [ServerVad, *(each for module in modules for each in _defined_in(module))]
    _, schemas = TypeAdapter.json_schemas(
        [(each.__name__, "validation", TypeAdapter(each)) for each in described],
        ref_template=REFERENCE,
    )
    return cast("Json", schemas["$defs"])
