"""Which waiting work goes into the next batch: fair, bounded, and pure (no threads, no clock).

Entries wait by client, then by request. A batch is begun by the request whose turn it is and
filled in rounds, one entry a request and round, so that a request with one window gets in beside
one with a thousand. Rounds after the first are *bulk*: they are bounded by a share that the
caller lowers while several requests compete, since what bulk adds to a batch, a newcomer waits for.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")


@dataclass(kw_only=True, slots=True, eq=False)
class Entry(Generic[P]):
    """One unit of work.

    `key`: only entries with equal keys share a batch. `cost` is in padded seconds. `max_batch`
    is the largest batch that this entry may be part of.
    """

    client: str
    request_id: str
    payload: P
    key: Hashable = None
    cost: float = 1.0
    max_batch: int = 1_000_000


class BatchQueue(Generic[P]):
    """Waiting entries, first in first out within a request, round-robin across requests.

    The rotation is over clients, then over each client's requests: a client with many requests
    gets no more turns than one with a single request. Not thread-safe: its owner locks.
    """

    def __init__(self) -> None:
        # Both levels in order of turn: the first has waited longest since it was last served.
        self._clients: OrderedDict[str, OrderedDict[str, deque[Entry[P]]]] = OrderedDict()
        self._count = 0
        self._cost = 0.0

    def __len__(self) -> int:
        return self._count

    @property
    def cost(self) -> float:
        """The sum of the waiting entries' costs."""
        return self._cost if self._count else 0.0

    @property
    def requests(self) -> int:
        """How many requests have something waiting."""
        return sum(len(requests) for requests in self._clients.values())

    def waiting(self, request_id: str) -> int:
        """How many entries of one request wait."""
        return sum(len(requests.get(request_id, ())) for requests in self._clients.values())

    def add(self, entry: Entry[P]) -> None:
        """Put an entry behind the others of its request; a new request comes last in turn."""
        requests = self._clients.setdefault(entry.client, OrderedDict())
        requests.setdefault(entry.request_id, deque()).append(entry)
        self._count += 1
        self._cost += entry.cost

    def cancel(self, request_id: str) -> list[Entry[P]]:
        """Take out all that waits for a request, and return it."""
        removed: list[Entry[P]] = []
        for client in list(self._clients):
            requests = self._clients[client]
            removed.extend(requests.pop(request_id, ()))
            if not requests:
                del self._clients[client]
        self._forget(removed)
        return removed

    def take(self, max_batch: int, max_cost: float, bulk: int = 1_000_000) -> list[Entry[P]]:
        """Take the next batch: at most `max_batch` entries of one key and `max_cost` together.

        The cost of a batch is that of its dearest entry times its size, for shorter ones are
        padded. The first entry is taken whatever it costs. `bulk` is the size from which on a
        request that is in the batch already gets no further entry into it.
        """
        batch: list[Entry[P]] = []
        served: set[str] = set()
        progress = True
        while progress and len(batch) < max_batch:
            progress = False
            for client in list(self._clients):
                entry = self._pick(client, batch, served, max_batch, max_cost, bulk)
                if entry is not None:
                    batch.append(entry)
                    served.add(entry.request_id)
                    progress = True
        self._forget(batch)
        return batch

    def _pick(
        self,
        client: str,
        batch: list[Entry[P]],
        served: set[str],
        max_batch: int,
        max_cost: float,
        bulk: int,
    ) -> Entry[P] | None:
        """The client's next entry that may join the batch; client and request go last in turn."""
        requests = self._clients[client]
        for request_id, queue in requests.items():
            if request_id in served and len(batch) >= bulk:
                continue
            if not _fits(queue[0], batch, max_batch, max_cost):
                continue
            entry = queue.popleft()
            requests.move_to_end(request_id)
            if not queue:
                del requests[request_id]
            self._clients.move_to_end(client)
            if not requests:
                del self._clients[client]
            return entry
        return None

    def peek(self, count: int) -> list[Entry[P]]:
        """About the next `count` entries in the order of taking; nothing is taken."""
        order: list[Entry[P]] = []
        depth = 0
        queues = [queue for requests in self._clients.values() for queue in requests.values()]
        while len(order) < count and queues:
            order.extend(queue[depth] for queue in queues)
            depth += 1
            queues = [queue for queue in queues if len(queue) > depth]
        return order[:count]

    def drain(self) -> list[Entry[P]]:
        """Take out everything."""
        removed = [
            entry
            for requests in self._clients.values()
            for queue in requests.values()
            for entry in queue
        ]
        self._clients.clear()
        self._forget(removed)
        return removed

    def _forget(self, entries: list[Entry[P]]) -> None:
        self._count -= len(entries)
        self._cost -= sum(entry.cost for entry in entries)


def _fits(entry: Entry[P], batch: list[Entry[P]], max_batch: int, max_cost: float) -> bool:
    if not batch:
        return True
    size = len(batch) + 1
    return (
        entry.key == batch[0].key
        and size <= min(max_batch, entry.max_batch, *(other.max_batch for other in batch))
        and size * max(entry.cost, *(other.cost for other in batch)) <= max_cost
    )
