"""Open a Kafka cluster: check the brokers, make the topics, then one log and queues."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from ..errors import Unavailable
from .connection import KafkaSettings, check_brokers, client_options
from .log import KafkaLog
from .protocols import ClusterError
from .share import ShareQueue
from .topics import make_topics, topics


class Kafka:
    """A cluster whose topics exist; `log` is shared, each queue is opened once per process."""

    def __init__(
        self, *, settings: KafkaSettings, options: Mapping[str, object], log: KafkaLog
    ) -> None:
        self.log = log
        self._settings = settings
        self._options = options

    def queue(self, topic: str) -> ShareQueue:
        """The queue of a topic that has a share group; close it before the cluster."""
        (group,) = (each.group for each in topics(self._settings.queues) if each.name == topic)
        prefix = self._settings.prefix
        return ShareQueue(
            options=self._options,
            topic=f"{prefix}.{topic}",
            group=f"{prefix}.{group}",
            send=partial(self.log.send, topic),
        )


@asynccontextmanager
async def open_kafka(settings: KafkaSettings) -> AsyncIterator[Kafka]:
    """Connect; the log is closed at the end.

    Raises:
        ClusterError: one line that names the setting: no broker answers, it refuses the client,
            it has no share groups, or it does not make the topics.
    """
    options = client_options(settings)
    await check_brokers(options)
    await make_topics(options, settings)
    log = KafkaLog(options=options, prefix=settings.prefix)
    try:
        await log.open()
    except Unavailable as error:
        raise ClusterError("KAFKA__BOOTSTRAP_SERVERS: the connection was lost") from error
    try:
        yield Kafka(settings=settings, options=options, log=log)
    finally:
        await log.close()
