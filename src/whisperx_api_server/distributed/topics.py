"""The topics of MODE=kafka and the groups of its queues, made at start."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .connection import KafkaSettings
from .protocols import ClusterError

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient

logger = logging.getLogger(__name__)

_HOUR = 3_600_000
_CREATE_MS = 30_000
_ALREADY_EXISTS = 36
_PARTITIONS = 8
_DELIVERIES = "10"  # the most that brokers allow by default


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A topic, named without the prefix; `group` is the share group of a queue.

    A queue has one partition, which all members of its group share: the assignor would divide
    several, and a busy member would hold up its own.
    """

    name: str
    partitions: int = 1
    config: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None


def queue_name(number: int) -> str:
    """The topic of a queue of runs; the version changes with its messages' format."""
    return f"queue.v1.{number}"


class QueueChoice:
    """Chooses the queues of requests, so that a flood of one client does not delay another's.

    Each client has two queues for its requests and two for its jobs, by a hash of its name. A
    request goes to the one in which this process has less of other clients.
    """

    def __init__(self, queues: int) -> None:
        self._under_way: list[Counter[str]] = [Counter() for _ in range(queues)]

    @contextmanager
    def of(self, client: str, waits: bool) -> Iterator[int]:
        """The number of a request's queue; the request is under way while the context is open."""
        name = f"{client}\n{waits}"

        def of_others(number: int) -> int:
            return self._under_way[number].total() - self._under_way[number][name]

        number = min(self._two_of(name), key=of_others)
        self._under_way[number][name] += 1
        try:
            yield number
        finally:
            self._under_way[number] -= Counter([name])  # without names that have none left

    def _two_of(self, name: str) -> tuple[int, int]:
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        count = len(self._under_way)
        first = int.from_bytes(digest[:8]) % count
        second = first + 1 + int.from_bytes(digest[8:]) % max(1, count - 1)
        return first, second % count


def topics(queues: int) -> list[Topic]:
    """All topics of a cluster with a number of queues."""
    compacted = {
        "cleanup.policy": "compact",
        "segment.ms": str(_HOUR),
        "min.cleanable.dirty.ratio": "0.1",
    }
    return [
        *(
            Topic(name=queue_name(number), config=_kept(7 * 24), group=f"workers.v1.{number}")
            for number in range(queues)
        ),
        Topic(name="events", partitions=_PARTITIONS, config=_kept(24)),
        Topic(name="control", config=_kept(1)),
        Topic(name="members", config=compacted),
        Topic(name="dead", config=_kept(7 * 24)),
    ]


def _kept(hours: int) -> dict[str, str]:
    """Whole segments are deleted, so a segment is not longer than what it keeps."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(hours * _HOUR),
        "segment.ms": str(min(hours, 24) * _HOUR),
    }


async def make_topics(options: Mapping[str, object], settings: KafkaSettings) -> None:
    """Create the topics that are absent, and configure the groups of queues.

    Raises:
        ClusterError: the broker refuses it.
    """
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError

    from .rpc_formats import RpcError

    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        await _create(client, settings)
        await _configure_groups(client, settings)
    except (KafkaError, RpcError) as error:
        raise ClusterError(
            f"the broker refuses to create topics and share groups: {error}"
        ) from error
    finally:
        await client.close()


async def _create(client: AIOKafkaClient, settings: KafkaSettings) -> None:
    from aiokafka.protocol.admin import CreateTopicsRequest

    request = CreateTopicsRequest(
        create_topic_requests=[
            (
                f"{settings.prefix}.{topic.name}",
                topic.partitions,
                settings.replication,
                [],
                list(topic.config.items()),
            )
            for topic in topics(settings.queues)
        ],
        timeout=_CREATE_MS,
        validate_only=False,
    )
    answer = await client.send(client.get_random_node(), request)
    for name, code, message in answer.topic_errors:
        if code not in (0, _ALREADY_EXISTS):
            raise ClusterError(f"the broker does not create the topic {name}: {message}")


async def _configure_groups(client: AIOKafkaClient, settings: KafkaSettings) -> None:
    """Set what must hold before the first record: a new group would skip earlier ones."""
    from .rpc import alter_group_configs
    from .rpc_formats import RpcError

    groups = [
        f"{settings.prefix}.{topic.group}" for topic in topics(settings.queues) if topic.group
    ]
    essential = {
        "share.auto.offset.reset": "earliest",
        "share.record.lock.duration.ms": str(round(settings.lock_seconds * 1000)),
    }
    await alter_group_configs(client, groups, essential)
    # Workers replace a record before; one beyond the limit would vanish without an error.
    try:
        await alter_group_configs(client, groups, {"share.delivery.count.limit": _DELIVERIES})
    except RpcError as error:  # Apache Kafka 4.2 has it as a setting of the broker, 5 by default
        logger.info("The broker's own limit of deliveries holds: %s", error)
