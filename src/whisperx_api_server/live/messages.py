"""The events that clients send to OpenAI's realtime transcription session, and its configuration.

The GA names are those of `openai/types/realtime`. Events of the beta API
(`transcription_session.update` with `input_audio_format` and so on) are translated at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import InvalidRequest, MissingParameter, TooLarge

LOGPROBS = "item.input_audio_transcription.logprobs"

MANUAL_MODELS = ("gpt-realtime-whisper", "gpt-live-transcribe")
"""OpenAI's models without turn detection: their clients commit each turn."""

MAX_SESSION = 16 * 1024
"""Maximum size of a session's configuration, in characters of JSON."""

# -- the session ------------------------------------------------------------------------------


class _Part(BaseModel):
    """A part of the session; fields that this server has no use for are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class PcmFormat(_Part):
    """16-bit little-endian mono PCM."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000, 16000, 8000] = 24000


class MuLawFormat(_Part):
    """G.711 µ-law, 8 kHz."""

    type: Literal["audio/pcmu"]


class ALawFormat(_Part):
    """G.711 A-law, 8 kHz."""

    type: Literal["audio/pcma"]


AudioFormat = Annotated[PcmFormat | MuLawFormat | ALawFormat, Field(discriminator="type")]


class TurnDetection(_Part):
    """`server_vad`: a turn begins with speech and ends with silence.

    Without a `threshold` the detector has its own, as for uploads.
    """

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=5000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] = 500


Text = Annotated[str, Field(max_length=10_000)]


class Transcribing(_Part):
    """How speech is transcribed; the names are those of `/v1/audio/transcriptions`."""

    model: Annotated[str, Field(max_length=200)] | None = None
    language: Text | None = None
    languages: Annotated[list[Text], Field(max_length=20)] = []
    prompt: Text | None = None
    keywords: Annotated[list[Text], Field(max_length=200)] = []


class AudioInput(_Part):
    format: AudioFormat = PcmFormat()
    noise_reduction: None = None
    """Always null: Whisper and Parakeet hear noisy speech best as it is."""
    transcription: Transcribing = Transcribing()
    turn_detection: TurnDetection | None = TurnDetection(type="server_vad")


class SessionAudio(_Part):
    input: AudioInput = AudioInput()


class SessionConfig(_Part):
    """A transcription session's configuration."""

    type: Literal["transcription"] = "transcription"
    audio: SessionAudio = SessionAudio()
    include: Annotated[
        list[Literal["item.input_audio_transcription.logprobs"]], Field(max_length=10)
    ] = []

    def described(self, session_id: str) -> dict[str, Any]:
        """The session object that the server sends."""
        return {
            **self.model_dump(mode="json"),
            "id": session_id,
            "object": "realtime.transcription_session",
        }

    def updated(self, change: Mapping[str, Any]) -> SessionConfig:
        """This configuration with the fields that a client sent; the others stay.

        Raises:
            InvalidRequest: naming the field at fault.
            TooLarge: of more than `MAX_SESSION`.
        """
        if change.get("type", "transcription") != "transcription":
            raise InvalidRequest(
                "only transcription sessions are served here: send session.type 'transcription'",
                param="session.type",
            )
        given = _object(_object(change, "audio"), "input")
        asked = _object(given, "transcription")
        current = self.audio.input
        audio = {**current.model_dump(), **{key: given[key] for key in given}}
        audio["transcription"] = {
            **current.transcription.model_dump(),
            # null gives a field its default again
            **{key: value for key, value in asked.items() if value is not None or key in _CLEARED},
        }
        audio["noise_reduction"] = None
        if audio["format"] is None:
            audio["format"] = current.format.model_dump()
        if "turn_detection" not in given and asked.get("model") in MANUAL_MODELS:
            audio["turn_detection"] = None
        include = change.get("include")
        updated = _validated(
            SessionConfig,
            {
                "audio": {"input": audio},
                "include": self.include if include is None else include,
            },
            prefix="session",
        )
        if len(updated.model_dump_json()) > MAX_SESSION:
            raise TooLarge(
                f"a session has at most {MAX_SESSION} characters of JSON: send fewer keywords or a "
                "shorter prompt",
                param="session",
            )
        return updated


_CLEARED = ("model", "language", "prompt")
"""The fields of a transcription that null clears."""

# -- client events ----------------------------------------------------------------------------


class UpdateSession(BaseModel):
    type: Literal["session.update", "transcription_session.update"]
    session: dict[str, Any]

    def change(self) -> Mapping[str, Any]:
        """The part of the session that changes, in the names of the GA API."""
        return self.session if self.type == "session.update" else _from_beta(self.session)


class AppendAudio(BaseModel):
    type: Literal["input_audio_buffer.append"]
    audio: str


class CommitAudio(BaseModel):
    type: Literal["input_audio_buffer.commit"]


class ClearAudio(BaseModel):
    type: Literal["input_audio_buffer.clear"]


ClientEvent = UpdateSession | AppendAudio | CommitAudio | ClearAudio

_CLIENT_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(
    Annotated[ClientEvent, Field(discriminator="type")]
)


def read_message(text: str | bytes) -> dict[str, Any]:
    """The JSON object of a message.

    Raises:
        InvalidRequest: it is not one.
    """
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the message is not valid JSON") from error
    if not isinstance(message, dict):
        raise InvalidRequest("the message is not a JSON object")
    return message


def event_id_of(message: Mapping[str, Any]) -> str | None:
    """The id that the client gave its event; half a surrogate pair in it becomes `?`."""
    found = message.get("event_id")
    return found[:512].encode(errors="replace").decode() if isinstance(found, str) else None


def client_event(message: Mapping[str, Any]) -> ClientEvent:
    """The event in a message.

    Raises:
        InvalidRequest: an unknown event, or a field has an invalid value.
    """
    name = message.get("type")
    if name is None:
        raise MissingParameter("the event has no type", param="type")
    try:
        return _CLIENT_EVENT.validate_python(message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "union_tag_invalid":
            raise InvalidRequest(
                f"a transcription session has no event {str(name)[:80]!r}: send session.update or "
                "input_audio_buffer.append, .commit or .clear",
                param="type",
            ) from error
        raise _invalid(error, first["loc"][1:]) from error


def _from_beta(session: Mapping[str, Any]) -> Mapping[str, Any]:
    """A session of the beta API in the names of the GA API."""
    audio: dict[str, Any] = {}
    if (name := session.get("input_audio_format")) is not None:
        formats = {
            "pcm16": {"type": "audio/pcm", "rate": 24000},
            "g711_ulaw": {"type": "audio/pcmu"},
            "g711_alaw": {"type": "audio/pcma"},
        }
        if not isinstance(name, str) or name not in formats:
            raise InvalidRequest(
                f"input_audio_format must be one of {', '.join(formats)}",
                param="session.input_audio_format",
            )
        audio["format"] = formats[name]
    for old, new in (
        ("input_audio_transcription", "transcription"),
        ("turn_detection", "turn_detection"),
    ):
        if old in session:
            audio[new] = session[old]
    change: dict[str, Any] = {"audio": {"input": audio}}
    return change | {"include": session["include"]} if "include" in session else change


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object; empty if it is absent or null."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object", param=f"session.{name}")
    return value


def _validated(
    model: type[SessionConfig], values: Mapping[str, Any], *, prefix: str
) -> SessionConfig:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        # The tag of a union is in the location, but not in the client's object.
        place = [each for each in first["loc"] if not str(each).startswith("audio/")]
        raise _invalid(error, (prefix, *place)) from error


def _invalid(error: ValidationError, place: tuple[str | int, ...]) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(map(str, place))
    kind = MissingParameter if first["type"] == "missing" else InvalidRequest
    message = first["msg"].removeprefix("Value error, ")
    return kind(f"{param}: {message}", param=param)


class ExpiresAfter(BaseModel):
    """When a client secret ends."""

    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class ClientSecretBody(BaseModel):
    """The body of `POST /v1/realtime/client_secrets`."""

    expires_after: ExpiresAfter = ExpiresAfter()
    session: dict[str, Any] = Field(
        default_factory=dict, description="The transcription session that the secret begins with."
    )
