"""Logging with the request's id and client in every line."""

from __future__ import annotations

import logging
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that is being served; what it logs carries it."""

FORMAT = "%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"

NOISY = ("httpx", "httpcore", "multipart", "python_multipart", "asyncio")
"""Libraries that log at INFO what is ours to say."""


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure_logging(level: str) -> None:
    """Log to standard error, ours and the vendors' alike, from `level` up."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(_RequestIdFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
