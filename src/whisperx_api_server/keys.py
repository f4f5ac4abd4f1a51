"""Authentication: API keys and their client names."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigurationError, Unauthorized

logger = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
"""The client name if no key is required."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """A client, and the digest of the key that it sent; empty if no key is required."""

    client: str
    digest: bytes = b""


class KeyRing:
    """Checks API keys: one from the settings, and those of a file that is reloaded when it changes.

    If the file becomes unreadable, its last valid keys stay in force. Keys are stored and compared
    as digests, in constant time.
    """

    def __init__(self, *, api_key: str | None, file: Path | None) -> None:
        """Raises: ConfigurationError: the file cannot be read."""
        self._own = {_digest(api_key): "default"} if api_key else {}
        self._file = file
        self._version: tuple[int, int, int] | None = None
        self._from_file: dict[bytes, str] = {}
        self._refresh()

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._own) or self._file is not None

    def caller(self, authorization: bytes | None) -> Caller:
        """The client and the digest of an `Authorization` header's bearer key.

        Raises:
            Unauthorized: a key is required, and this one is missing or invalid.
        """
        if not self.required:
            return Caller(client=ANONYMOUS)
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise Unauthorized("no API key was sent: send 'Authorization: Bearer <key>'")
        digest, found = _digest(key.strip()), None
        for known, name in self._current().items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            raise Unauthorized("the API key is not valid")
        return Caller(client=found, digest=digest)

    def is_valid(self, caller: Caller) -> bool:
        """Whether the key that a client sent before is still its key."""
        if not self.required:
            return caller == Caller(client=ANONYMOUS)
        return self._current().get(caller.digest) == caller.client

    def _current(self) -> dict[bytes, str]:
        """The clients by their keys' digests."""
        try:
            self._refresh()
        except ConfigurationError as error:
            logger.error("%s; the last valid keys stay in force", error)
        return self._own | self._from_file

    def _refresh(self) -> None:
        """Read the key file if it has changed.

        Raises:
            ConfigurationError: it cannot be read.
        """
        if self._file is None:
            return
        try:
            status = self._file.stat()
            version = status.st_mtime_ns, status.st_size, status.st_ino
            if version == self._version:
                return
            self._version = version
            content = json.loads(self._file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"API_KEYS_FILE cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError("API_KEYS_FILE is not valid JSON") from error
        if not isinstance(content, dict) or not all(
            key and isinstance(name, str) and name for key, name in content.items()
        ):
            raise ConfigurationError("API_KEYS_FILE must be a JSON object of key to client name")
        self._from_file = {_digest(key): name for key, name in content.items()}


def _digest(key: str | bytes) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
