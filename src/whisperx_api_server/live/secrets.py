"""Short-lived keys for web pages, which open live sessions and nothing else."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Overloaded
from ..keys import Caller, KeyRing
from .messages import SessionConfig

MAX_SECRETS = 10_000
"""Maximum number of client secrets that are valid at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSecret:
    """The key that a secret stands for, its end in seconds since the epoch, and its session."""

    caller: Caller
    expires_at: float
    session: SessionConfig


class ClientSecrets:
    """The secrets of this process, by their digests; they end with it, or with their key."""

    def __init__(self, keys: KeyRing, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._known: dict[bytes, ClientSecret] = {}

    def issue(
        self, caller: Caller, seconds: float, session: SessionConfig
    ) -> tuple[str, ClientSecret]:
        """Make a secret for a key, which begins its sessions with that configuration.

        Raises:
            Overloaded: too many are valid.
        """
        now = self._clock()
        self._known = {key: each for key, each in self._known.items() if each.expires_at > now}
        if len(self._known) >= MAX_SECRETS:
            raise Overloaded("too many client secrets are valid; try again later", retry_after=60)
        value = f"ek_{secrets.token_urlsafe(32)}"
        secret = ClientSecret(caller=caller, expires_at=now + seconds, session=session)
        self._known[_digest(value.encode())] = secret
        return value, secret

    def find(self, value: bytes) -> ClientSecret | None:
        """The secret with that value, while it and its key are valid."""
        secret = self._known.get(_digest(value))
        if secret is None or secret.expires_at <= self._clock():
            return None
        return secret if self._keys.is_valid(secret.caller) else None


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
