"""The events that the server sends, named and shaped as in `openai/types/realtime`."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..answers.errors import ErrorDetail
from ..answers.openai import Logprob, SpokenLanguage
from ..errors import ServiceError
from ..formats.openai_json import error_detail


def new_id(prefix: str) -> str:
    """An id as OpenAI writes them, such as item_5f1c…"""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


class ServerEvent(BaseModel):
    """An event that the server sends."""

    type: str
    event_id: str = Field(default_factory=lambda: new_id("event"))


class SessionEvent(ServerEvent):
    type: Literal["session.created", "session.updated", "transcription_session.updated"]
    session: dict[str, Any]


class SpeechStarted(ServerEvent):
    """`audio_start_ms` counts all audio of the session."""

    type: Literal["input_audio_buffer.speech_started"] = "input_audio_buffer.speech_started"
    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerEvent):
    type: Literal["input_audio_buffer.speech_stopped"] = "input_audio_buffer.speech_stopped"
    audio_end_ms: int
    item_id: str


class Committed(ServerEvent):
    type: Literal["input_audio_buffer.committed"] = "input_audio_buffer.committed"
    item_id: str
    previous_item_id: str | None


class Cleared(ServerEvent):
    type: Literal["input_audio_buffer.cleared"] = "input_audio_buffer.cleared"


class ItemContent(BaseModel):
    type: Literal["input_audio"] = "input_audio"
    transcript: None = None


class ConversationItem(BaseModel):
    id: str
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["message"] = "message"
    status: Literal["completed"] = "completed"
    role: Literal["user"] = "user"
    content: list[ItemContent] = [ItemContent()]


class ItemAdded(ServerEvent):
    """`conversation.item.created` is its name in the beta API."""

    type: Literal["conversation.item.added", "conversation.item.created"]
    item: ConversationItem
    previous_item_id: str | None


class Delta(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str


class DurationUsage(BaseModel):
    type: Literal["duration"] = "duration"
    seconds: float


class Completed(ServerEvent):
    """`transcript` is the deltas of the item, joined."""

    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    languages: list[SpokenLanguage]
    logprobs: list[Logprob] | None
    usage: DurationUsage


class Failed(ServerEvent):
    type: Literal["conversation.item.input_audio_transcription.failed"] = (
        "conversation.item.input_audio_transcription.failed"
    )
    item_id: str
    content_index: int = 0
    error: ErrorDetail


class ClientError(ErrorDetail):
    """`event_id` is that of the client's event."""

    event_id: str | None


class ErrorEvent(ServerEvent):
    type: Literal["error"] = "error"
    error: ClientError


def error_event(error: ServiceError, event_id: str | None) -> ErrorEvent:
    """The answer to a client's event that cannot be honoured."""
    return ErrorEvent(error={**error_detail(error.failure()), "event_id": event_id})
