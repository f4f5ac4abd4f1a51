"""Short-lived keys for web pages, which open live sessions and nothing else."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Overloaded, TooLarge
from .messages import SessionConfig

MAX_SECRETS = 10_000
"""Maximum number of client secrets that are valid at a time."""

MAX_SESSION = 16 * 1024
"""Maximum size of the session that a secret begins with, in characters of JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSecret:
    """The client that a secret stands for, its end in seconds since the epoch, and its session."""

    client: str
    expires_at: float
    session: SessionConfig


class ClientSecrets:
    """The secrets of this process, by their digests; they end with it."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: dict[bytes, ClientSecret] = {}

    def issue(
        self, client: str, seconds: float, session: SessionConfig
    ) -> tuple[str, ClientSecret]:
        """Make a secret for a client, which begins its sessions with that configuration.

        Raises:
            TooLarge: a session of more than `MAX_SESSION`.
            Overloaded: too many are valid.
        """
        if len(session.model_dump_json()) > MAX_SESSION:
            raise TooLarge(
                f"the session of a client secret has at most {MAX_SESSION} characters: send the "
                "rest by session.update",
                param="session",
            )
        now = self._clock()
        self._known = {key: each for key, each in self._known.items() if each.expires_at > now}
        if len(self._known) >= MAX_SECRETS:
            raise Overloaded("too many client secrets are valid; try again later", retry_after=60)
        value = f"ek_{secrets.token_urlsafe(32)}"
        secret = ClientSecret(client=client, expires_at=now + seconds, session=session)
        self._known[_digest(value.encode())] = secret
        return value, secret

    def find(self, value: bytes) -> ClientSecret | None:
        """The secret with that value, while it is valid."""
        secret = self._known.get(_digest(value))
        return secret if secret is not None and secret.expires_at > self._clock() else None


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
