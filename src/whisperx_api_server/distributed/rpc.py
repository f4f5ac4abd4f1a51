"""The requests that aiokafka lacks: share groups (KIP-932) and their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.record.memory_records import MemoryRecords

from .rpc_formats import (
    ALTER_CONFIGS,
    HEARTBEAT,
    METADATA,
    SHARE_ACKNOWLEDGE,
    SHARE_FETCH,
    RpcError,
)

UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH, INVALID_RECORD_STATE = 25, 110, 121

_GROUP_RESOURCE, _SET = 32, 0
_RECORD_LIMIT = 1  # of AcquireMode: whole batches otherwise
_MAX_BYTES = 8 << 20


class Acknowledge(IntEnum):
    """What becomes of an acquired record."""

    ACCEPT = 1
    RELEASE = 2
    RENEW = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """A topic's id, and the broker that leads its first partition."""

    id: bytes
    leader: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupMembership:
    """A member of a share group; `assigned` is None where an answer does not tell it."""

    epoch: int
    interval: float
    assigned: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareSession:
    """A share session as the next request names it; `epoch` 0 opens it."""

    group: str
    member: str
    topic: Topic
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquired:
    """A record that a share fetch locked, and how often it was locked until now."""

    offset: int
    value: bytes
    count: int


async def describe_topic(client: AIOKafkaClient, name: str) -> Topic:
    """Ask a broker for a topic of one partition."""
    request = {"topics": [{"id": bytes(16), "name": name}], "create": False, "operations": False}
    answer = await client.send(client.get_random_node(), METADATA(request))
    (topic,) = answer["topics"]
    _raise_for(topic["error"], None)
    (partition,) = topic["partitions"]
    _raise_for(partition["error"], None)
    return Topic(id=topic["id"], leader=partition["leader"])


async def beat(
    client: AIOKafkaClient, coordinator: int, group: str, member: str, epoch: int, topic: str
) -> GroupMembership:
    """Join a group (epoch 0), stay in it, or leave it (epoch -1)."""
    request = {
        "group": group,
        "member": member,
        "epoch": epoch,
        "rack": None,
        "topics": None if epoch else [topic],
    }
    call = HEARTBEAT(request)
    answer = await client.send(coordinator, call, group=ConnectionGroup.COORDINATION)
    _raise_for(answer["error"], answer["message"])
    assignment = answer["assignment"]
    return GroupMembership(
        epoch=answer["epoch"],
        interval=answer["interval"] / 1000,
        assigned=None if assignment is None else bool(assignment["topics"]),
    )


async def fetch(
    client: AIOKafkaClient, session: ShareSession, limit: int, wait: float
) -> list[Acquired]:
    """Lock at most `limit` records; the broker waits at most `wait` seconds for the first."""
    opens = [{"id": session.topic.id, "partitions": [{"index": 0, "acknowledgements": []}]}]
    request = {
        "group": session.group,
        "member": session.member,
        "epoch": session.epoch,
        "wait": round(wait * 1000),
        "min_bytes": 1,
        "max_bytes": _MAX_BYTES,
        "max_records": limit,
        "batch": limit,
        "mode": _RECORD_LIMIT,
        "renew": False,
        "topics": opens if session.epoch == 0 else [],
        "forgotten": [],
    }
    answer = await client.send(session.topic.leader, SHARE_FETCH(request))
    _raise_for(answer["error"], answer["message"])
    acquired: list[Acquired] = []
    for topic in answer["topics"]:
        for partition in topic["partitions"]:
            _raise_for(partition["error"], partition["message"])
            acquired += _records(partition)
    return acquired


def _records(partition: Mapping[str, Any]) -> Iterable[Acquired]:
    """The locked records among those of the batches, which are sent whole."""
    counts = {
        offset: each["count"]
        for each in partition["acquired"]
        for offset in range(each["first"], each["last"] + 1)
    }
    batches = MemoryRecords(partition["records"] or b"")
    while batches.has_next():
        for record in batches.next_batch():
            if record.offset in counts:
                count = counts[record.offset]
                yield Acquired(offset=record.offset, value=record.value, count=count)


async def acknowledge(
    client: AIOKafkaClient, session: ShareSession, offsets: Sequence[int], kind: Acknowledge
) -> bool:
    """Accept, release or renew records; False, for all of them, if the lock of one is lost."""
    batches = [{"first": offset, "last": offset, "kinds": [kind]} for offset in offsets]
    request = {
        "group": session.group,
        "member": session.member,
        "epoch": session.epoch,
        "renew": kind is Acknowledge.RENEW,
        "topics": [
            {"id": session.topic.id, "partitions": [{"index": 0, "acknowledgements": batches}]}
        ],
    }
    answer = await client.send(session.topic.leader, SHARE_ACKNOWLEDGE(request))
    _raise_for(answer["error"], answer["message"])
    for topic in answer["topics"]:
        for partition in topic["partitions"]:
            if partition["error"] == INVALID_RECORD_STATE:
                return False
            _raise_for(partition["error"], partition["message"])
    return True


async def alter_group_configs(
    client: AIOKafkaClient, groups: Sequence[str], configs: Mapping[str, str]
) -> None:
    """Set configurations of groups, which need not exist yet."""
    entries = [{"name": name, "operation": _SET, "value": value} for name, value in configs.items()]
    request = {
        "resources": [
            {"type": _GROUP_RESOURCE, "name": group, "configs": entries} for group in groups
        ],
        "validate": False,
    }
    answer = await client.send(client.get_random_node(), ALTER_CONFIGS(request))
    for each in answer["resources"]:
        _raise_for(each["error"], each["message"])


def _raise_for(code: int, message: str | None) -> None:
    if code:
        raise RpcError(code, message)
