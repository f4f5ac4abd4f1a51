"""Settings of live transcription."""

from __future__ import annotations

from pydantic import Field

from ..setting_types import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class LiveSettings(Section):
    """Live transcription over /v1/realtime."""

    enabled: bool | None = Field(
        None,
        description="Whether to serve /v1/realtime, which needs models in this process; false "
        "answers 501. Unset is true with MODE=direct, false with MODE=kafka.",
    )
    max_sessions: PositiveInt = Field(
        64, description="Maximum number of live sessions; further ones get 429."
    )
    max_sessions_per_key: PositiveInt = Field(
        16, description="Maximum number of live sessions per API key; further ones get 429."
    )
    backlog_seconds: PositiveFloat = Field(
        120.0,
        description="Maximum seconds of a session's audio that wait for their transcript; further "
        "audio is refused.",
    )
    message_bytes: PositiveInt = Field(
        8 * 1024**2, description="Maximum size of a message in bytes; larger ones are refused."
    )
    idle_seconds: NonNegativeFloat = Field(
        600.0,
        description="Seconds without a message until a session is closed; 0 disables it.",
    )
    send_timeout: PositiveFloat = Field(
        20.0,
        description="Seconds that a client may take to receive an event before it is disconnected.",
    )
