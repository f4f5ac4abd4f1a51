"""Sets up logging, with the request id in every line."""

from __future__ import annotations

import logging
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""Id of the current request, for its log lines."""

FORMAT = "%(asctime)s %(levelname)s [%(request_id)s] %(name)s: %(message)s"

NOISY = ("httpx", "httpcore", "multipart", "python_multipart", "asyncio")
"""Libraries whose INFO messages repeat ours."""

RETRYING = ("aiokafka",)
"""Libraries that log an error for each of many retries; our own warnings report a lost broker."""


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure_logging(level: str) -> None:
    """Log to standard error from `level` up, including messages of vendor packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.addFilter(_RequestIdFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in RETRYING:
        logging.getLogger(name).setLevel(logging.CRITICAL)
