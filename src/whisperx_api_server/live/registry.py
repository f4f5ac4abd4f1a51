"""The live sessions of this server: how many there may be, in all and for each client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..active_requests import ActiveRequests
from ..catalog import Catalog
from ..errors import NotConfigured, Overloaded
from ..fields.transcription import FormDefaults
from ..pipeline.stages import Engines
from ..scheduling.model_pool import ModelPool
from .events import new_id
from .messages import SessionConfig
from .session import Session, SessionContext
from .settings import LiveSettings
from .transcriber import LiveRequest, Send

RETRY_AFTER = 30.0
"""Seconds after which a client that found no free session may try again."""


class LiveSessions:
    """Opens sessions, within the limits of the settings.

    `enabled` decides for settings that do not.
    """

    def __init__(
        self,
        settings: LiveSettings,
        *,
        enabled: bool,
        active: ActiveRequests,
        pool: ModelPool,
        catalog: Catalog,
        defaults: FormDefaults,
    ) -> None:
        self.settings = settings
        self._enabled = enabled
        self._active = active
        self._pool = pool
        self._catalog = catalog
        self._defaults = defaults
        self._clients: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Number of open sessions."""
        return self._clients.total()

    def ensure_enabled(self) -> None:
        """See whether live sessions are served at all.

        Raises:
            NotConfigured: the settings turn them off.
        """
        enabled = self.settings.enabled
        if not (self._enabled if enabled is None else enabled):
            raise NotConfigured(
                "live transcription is off: set REALTIME__ENABLED=true on the server"
            )

    @contextmanager
    def open(
        self, client: str, config: SessionConfig, send: Send, *, beta: bool
    ) -> Iterator[Session]:
        """A session, which counts until the context ends.

        Raises:
            NotConfigured: live sessions are not served.
            ShuttingDown: new sessions are not taken.
            Overloaded: the client, or all clients together, have too many.
            ServiceError: a session cannot be configured so.
        """
        self.ensure_enabled()
        self._active.ensure_accepting()
        self._check_limits(client)
        context = SessionContext(
            id=new_id("sess"),
            client=client,
            engines=self._engines,
            defaults=self._defaults,
            settings=self.settings,
            active=self._active,
        )
        session = Session(context, config, send, beta=beta)
        self._clients[client] += 1
        try:
            with self._active.track():
                yield session
        finally:
            self._clients[client] -= 1
            self._pool.cancel(context.id)

    def _engines(self, request: LiveRequest) -> Engines:
        return Engines(self._pool, self._catalog, request)

    def _check_limits(self, client: str) -> None:
        limits = self.settings
        if self._clients[client] >= limits.max_sessions_per_key:
            raise Overloaded(
                f"this API key has {self._clients[client]} live sessions, which is the maximum: "
                "close one first",
                retry_after=RETRY_AFTER,
            )
        if self.count >= limits.max_sessions:
            raise Overloaded(
                "the server has its maximum number of live sessions; try again later",
                retry_after=RETRY_AFTER,
            )
