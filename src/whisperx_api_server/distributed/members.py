"""The replicas and workers that are alive, as their heartbeats say; pure."""

from __future__ import annotations

import time
from collections.abc import Callable

from .wire import Heartbeat

INTERVAL = 2.0
"""Seconds between two heartbeats of a member."""

SILENT = 10.0
"""Seconds without a heartbeat after which a member is gone."""

PATIENCE = 30.0
"""Seconds for which a request waits for a first worker, and a run for its replica."""


class Members:
    """A table of heartbeats. `clock` is in seconds since the epoch, as `Heartbeat.at` is."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last: dict[str, Heartbeat] = {}
        self._heard: dict[str, float] = {}
        self._began = clock()
        self._since = self._began
        """When a worker was last alive, or this table began."""
        self._latest = self._resumed = self._began
        """When the last heartbeat came, and the first one after a time without any."""

    def apply(self, member: str, beat: Heartbeat | None, *, old: bool = False) -> None:
        """Take a heartbeat, or a member's leave; `old` ones were sent before the table began.

        The sender's clock counts for those alone: clocks differ.
        """
        if beat is None:
            self._last.pop(member, None)
            self._heard.pop(member, None)
            return
        now = self._clock()
        if now - self._latest > SILENT / 2:  # the broker was away
            self._resumed = now
        self._latest = now
        self._last[member] = beat
        self._heard[member] = min(beat.at, now) if old else now
        if beat.role == "worker" and self.alive(member):
            self._since = max(self._since, self._heard[member])

    def alive(self, member: str) -> bool:
        """Whether a member was heard of lately."""
        return self.silence(member) < SILENT

    def silence(self, member: str) -> float:
        """Seconds since a member was heard of; since the table began, if it never was."""
        return self._clock() - self._heard.get(member, self._began)

    def is_gone(self, member: str, patience: float) -> bool:
        """Whether others were heard for so many seconds without that member.

        While the broker is away, none is gone.
        """
        heard = max(self._heard.get(member, self._began), self._resumed)
        return self._latest - heard > patience

    def all(self) -> list[Heartbeat]:
        """The last heartbeats of those that are alive, by name."""
        return [beat for member, beat in sorted(self._last.items()) if self.alive(member)]

    def workers(self) -> list[Heartbeat]:
        """Those of workers."""
        return [beat for beat in self.all() if beat.role == "worker"]

    def without_workers(self) -> float:
        """Seconds since the last worker was heard of; 0 while one is alive."""
        return 0.0 if self.workers() else self._clock() - self._since


class OtherReplicas:
    """The Others of a replica's admission control."""

    def __init__(self, name: str, members: Members) -> None:
        self._name = name
        self._members = members

    @property
    def seconds(self) -> float:
        return sum(
            each.seconds
            for each in self._members.all()
            if each.role == "replica" and each.member != self._name
        )

    @property
    def speed(self) -> float:
        """See `Others.speed`; 1 without a worker."""
        return sum(each.speed for each in self._members.workers()) or 1.0
