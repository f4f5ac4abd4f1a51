"""Posts signed events to a client's URL when its job has ended.

Deliveries follow the Standard Webhooks specification (https://www.standardwebhooks.com), which is
also OpenAI's: `client.webhooks.unwrap` of its SDK verifies them. The signature is the HMAC-SHA256
of id, timestamp and body.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..audio.urls import UrlFetcher
from ..errors import InvalidRequest, NotConfigured

logger = logging.getLogger(__name__)

BACK_OFF = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Seconds between attempts; after the last one the delivery fails."""

SECRET_PREFIX = "whsec_"


class Webhooks:
    """Signs and delivers events.

    `extra_headers`, read for each attempt, are sent too.
    """

    def __init__(
        self,
        fetcher: UrlFetcher,
        *,
        secret: str | None,
        back_off: Sequence[float] = BACK_OFF,
        extra_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._fetcher = fetcher
        self._secret = secret
        self._back_off = back_off
        self._extra_headers = extra_headers

    @property
    def enabled(self) -> bool:
        """Whether there is a signing key; without one, nothing is sent."""
        return self._secret is not None

    async def check(self, url: str) -> None:
        """Check that events can be delivered to a URL.

        Raises:
            NotConfigured: there is no signing key.
            InvalidRequest: the URL policy refuses it.
        """
        self._key()
        await self._fetcher.check(url, param="callback_url")

    async def deliver(self, url: str, event_id: str, event: Mapping[str, Any]) -> bool:
        """Post an event until a 2xx acknowledges it; returns whether one did.

        All attempts have the same `webhook-id`, so that a receiver can detect duplicates.

        Raises:
            NotConfigured: there is no signing key.
        """
        body = json.dumps(event, ensure_ascii=False).encode()
        for wait in (*self._back_off, None):
            try:
                status = await self._fetcher.post(
                    url, content=body, headers=self.headers(event_id, body)
                )
                if 200 <= status < 300:
                    return True
                reason = f"it answered {status}"
            except InvalidRequest as error:
                reason = error.message
            if wait is None:
                break
            logger.info("event %s is not delivered yet (%s)", event_id, reason)
            await asyncio.sleep(wait)
        logger.warning("event %s could not be delivered: %s", event_id, reason)
        return False

    def headers(self, event_id: str, body: bytes) -> dict[str, str]:
        """Return the headers of one attempt, with a current signature."""
        timestamp = str(int(time.time()))
        signed = b".".join((event_id.encode(), timestamp.encode(), body))
        digest = hmac.new(self._key(), signed, hashlib.sha256).digest()
        return {
            **self._extra_headers(),
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }

    def _key(self) -> bytes:
        """Decode the secret: base64 after `whsec_`, as in the specification, or plain text."""
        if self._secret is None:
            raise NotConfigured(
                "callback_url needs a key to sign with: set WEBHOOK_SECRET", param="callback_url"
            )
        if self._secret.startswith(SECRET_PREFIX):
            return base64.b64decode(self._secret.removeprefix(SECRET_PREFIX))
        return self._secret.encode()
