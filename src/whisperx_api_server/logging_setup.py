"""Sets up logging as text or JSON, with the request's or job's id in every line."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the current request or job, for its log lines."""

FORMAT = "%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"

FIELDS = "fields"
"""Attribute of a log record with further fields, which JSON lines show one by one."""

NOISY = ("httpx", "httpcore", "multipart", "python_multipart", "asyncio")
"""Libraries whose INFO messages repeat ours."""

RETRYING = ("aiokafka",)
"""Libraries that log an error for each of many retries; our own warnings report a lost broker."""


@dataclass(kw_only=True, slots=True)
class AccessNote:
    """What services add to the access log's line of the current request."""

    audio_seconds: float | None = None


access_note: ContextVar[AccessNote | None] = ContextVar("access_note", default=None)


def note_audio(seconds: float) -> None:
    """Note the length of the current request's recording for the access log."""
    note = access_note.get()
    if note is not None:
        note.audio_seconds = seconds


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "request_id": request_id.get(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str, form: Literal["text", "json"] = "text") -> None:
    """Log to standard error from `level` up, including messages of vendor packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    handler.addFilter(_RequestIdFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in RETRYING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
