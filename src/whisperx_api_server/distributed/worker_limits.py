"""How much work a worker takes, and how often a run is tried; pure.

The bound on the audio in hand keeps batches full and leaves the rest of the queue to the others.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..domain import Upload
from ..setting_types import NonNegativeFloat, Section, UserPath
from ..text_service import TextRequest
from .stored import AnyRequest

MOST_RUNS = 64
"""Maximum number of runs that a worker has in hand."""

FULL_BATCHES = 3
"""Batches of work that a worker has in hand by default: one runs, one waits, one is decoded."""

WINDOW_SECONDS = 30.0

LONGEST_PAUSE = 0.1
"""Seconds before the next record is taken while the hand is almost full: a worker that has less in
hand is faster, and gets the record."""

BYTES_PER_SECOND = 32_000
"""Of 16 kHz PCM. Most files have fewer: a recording counts as shorter until it is opened."""

UNKNOWN_SECONDS = 60.0
"""Assumed seconds of a recording of unknown size, until it is opened."""


class WorkerSettings(Section):
    """Workers (`MODE=kafka`)."""

    prefetch_seconds: NonNegativeFloat | None = Field(
        None,
        description="Seconds of audio that a worker takes from the queue at a time; unset is three "
        "full batches of the transcription model. A larger value leaves less for other workers; a "
        "smaller one leaves batches partly empty.",
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(
        8001, description="Port of a worker's /healthcheck, /ready and /metrics."
    )
    gpu_locks: UserPath | None = Field(
        None,
        description="Directory of lock files that the workers of one machine share: each takes a "
        "GPU that no other has, unless WHISPER__DEVICE_INDEX is set. Unset takes GPU 0; "
        "compose-kafka.yaml sets /gpus.",
    )


def prefetch_limit(setting: float | None, batch_limit: int) -> float:
    """Seconds of audio up to which a worker takes more; `batch_limit` is its transcriber's."""
    return FULL_BATCHES * batch_limit * WINDOW_SECONDS if setting is None else setting


def has_room(*, seconds: float, runs: int, limit: float) -> bool:
    """Whether a worker with that much in hand takes another run; an idle one always does."""
    return not runs or (runs < MOST_RUNS and seconds < limit)


def pause(*, seconds: float, limit: float) -> float:
    """Seconds to wait before the next record is taken."""
    return LONGEST_PAUSE * min(1.0, seconds / limit) if limit else 0.0


TEXT_SECONDS = 5.0
"""What a text counts as."""


def assumed_seconds(request: AnyRequest) -> float:
    """The length of a recording that is not opened yet."""
    if isinstance(request, TextRequest):
        return TEXT_SECONDS
    if isinstance(request.source, Upload) and request.source.size:
        return request.source.size / BYTES_PER_SECOND
    return UNKNOWN_SECONDS


def is_suspect(count: int) -> bool:
    """Whether a record that was delivered that often may have stopped the worker that had it.

    A worker computes one suspect at a time: the runs beside it in the crash are not tried
    together with it again.
    """
    return count > 1


MOST_DELIVERIES = 4
"""Deliveries after which a record is replaced: a broker drops it after 5, by default."""


def may_try(deaths: int, most: int) -> bool:
    """Whether a run may be tried once more after that many workers have died with it."""
    return deaths < most


MOST_FULL_DISKS = 10
"""Times that a recording may be too large for the disk of a worker that has room for others."""


def may_fit(full_disks: int) -> bool:
    """Whether a recording that did not fit on so many disks is handed on to another worker."""
    return full_disks < MOST_FULL_DISKS
