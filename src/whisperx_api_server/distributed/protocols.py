"""Protocols of MODE=kafka: a shared queue, a log of messages, a bucket of objects.

`share`, `log` and `bucket` implement them over Kafka and S3; the tests have an implementation in
memory. All methods are coroutines of one event loop and may be called concurrently. They raise
`ClusterUnavailable` while the broker or the store cannot be reached; a later call may succeed,
nothing has to be opened again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..errors import ConfigurationError, Unavailable


class ClusterError(ConfigurationError):
    """The broker or the bucket cannot be used; the message is one line that names the remedy."""


class ClusterUnavailable(Unavailable):
    """The broker or the bucket cannot be reached, or is full; a later call may succeed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A record that this consumer has taken and holds a lock on.

    `count` is how often the record was taken without being accepted, this time included. It is
    not an attempt number: a restart of the broker resets it, `release` increases it.
    `handle` belongs to the queue.
    """

    value: bytes
    count: int
    handle: object


class Queue(Protocol):
    """One shared queue: a record is with one consumer at a time, and gone once it is accepted.

    A lock ends by `accept`, `release`, `close`, the end of the consumer's process, or after the
    queue's lock time without `renew`; except after `accept`, the record is delivered again.
    """

    async def send(self, value: bytes) -> None:
        """Append a record; returns when the broker has stored it."""

    async def take(self, limit: int, *, wait: float) -> Sequence[Delivery]:
        """Take at most `limit` records, oldest first; wait at most `wait` seconds for the first.

        One call at a time. If it is cancelled, the records it would have returned are released.
        Returns an empty sequence also while the consumer reconnects.
        """

    async def renew(self, deliveries: Iterable[Delivery]) -> Sequence[Delivery]:
        """Lock the records for another lock time; returns those whose lock is lost.

        A lost record is delivered again, here or elsewhere. That another consumer holds it is
        not certain: after a restart of the broker every lock is lost.
        """

    async def accept(self, delivery: Delivery) -> bool:
        """Remove the record from the queue; False if the lock was lost before."""

    async def release(self, delivery: Delivery) -> None:
        """Hand the record back at once; its next delivery has a count that is one higher."""

    async def close(self) -> None:
        """Leave the queue; the records that are held are released at once."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Position:
    """The place of a message in a topic."""

    partition: int
    offset: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message of a topic; a `value` of None deletes the key (tombstone)."""

    topic: str
    key: str
    value: bytes | None
    position: Position


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A reader has returned all that the topic had when the reader was opened."""


class Log(Protocol):
    """Topics, named without the prefix; messages of one key stay in order."""

    async def append(self, topic: str, key: str, value: bytes | None) -> Position:
        """Append a message; returns when the broker has stored it."""

    def read(
        self, topic: str, *, since: Literal["earliest", "latest"] | Position
    ) -> AsyncGenerator[Message | CaughtUp, None]:
        """Read a topic without end, `CaughtUp` once among the messages.

        `since` a Position reads that partition alone, from that message on (from the oldest, if
        it was deleted). With `latest`, `CaughtUp` comes first: what is appended from then on is
        read. Close the generator (`aclosing`) to free its connection.
        """

    async def end_offsets(self, topic: str) -> Mapping[int, int]:
        """The offset of the next message of each partition."""

    async def close(self) -> None:
        """Send what waits to be sent and disconnect."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """The content of an object, and its version for `Bucket.replace`."""

    data: bytes
    etag: str


class Bucket(Protocol):
    """Objects by key, under one prefix that callers do not see."""

    async def create(self, key: str, data: bytes) -> bool:
        """Store an object unless the key exists; of all callers, one gets True.

        After `ClusterUnavailable` it may have been stored: read it, and compare.
        """

    async def put(self, key: str, data: bytes) -> None:
        """Store an object, in place of one that exists."""

    async def get(self, key: str) -> StoredObject | None:
        """Return an object whole; None if there is none."""

    async def replace(self, key: str, data: bytes, etag: str) -> str | None:
        """Store an object in place of the version `etag`; returns the new version.

        Returns None if the object has another version by now, or is gone.
        """

    async def upload(self, key: str, path: Path) -> None:
        """Store a file, streamed from disk."""

    async def download(self, key: str, path: Path) -> bool:
        """Write an object to a file, streamed; False, and no file, if there is none.

        Raises:
            DiskFull: the file does not fit.
        """

    async def list(self, prefix: str) -> Mapping[str, float]:
        """The keys below a prefix, which ends where a `/` follows: `runs/7` has `runs/7/end`.

        Each has the time at which the object was stored, in seconds since the epoch.
        """

    async def delete(self, prefix: str) -> None:
        """Delete the object of a key and all below it; none is fine."""
