"""Fair queue that forms batches; pure (no threads, no clock).

Entries are grouped by client, then by request. A batch starts with the request whose turn it is
and is filled in rounds, one entry per request and round, so that a request with one window joins
beside a request with a thousand. Rounds after the first can be limited (`may_extend`), because
each further entry makes the batch longer for all others. Drafts keep their place while an
urgent entry waits: the urgent entry passes only drafts.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence

from .work import AnyEntry


class BatchQueue:
    """Waiting entries: FIFO within a request, round-robin across requests.

    Turns rotate over clients, then over each client's requests: a client with many requests
    gets as many turns as a client with one. Not thread-safe: the owner locks.
    """

    def __init__(self) -> None:
        # Both levels are in order of turn: the first was served least recently.
        self._clients: OrderedDict[str, OrderedDict[str, deque[AnyEntry]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def requests(self) -> int:
        """How many requests have entries waiting."""
        return sum(len(requests) for requests in self._clients.values())

    def add(self, entry: AnyEntry) -> None:
        """Append an entry to its request, or prepend a repeated one.

        A new request gets the last turn.
        """
        requests = self._clients.setdefault(entry.client, OrderedDict())
        queue = requests.setdefault(entry.request_id, deque())
        if entry.repeated:
            queue.appendleft(entry)
        else:
            queue.append(entry)
        self._count += 1

    def waits(self, client: str, request_id: str) -> bool:
        """Whether a request has entries waiting."""
        return request_id in self._clients.get(client, ())

    def remove(self, client: str, request_id: str, future: object) -> AnyEntry | None:
        """Remove and return the entry of a request with this future; None if it does not wait."""
        if not self.waits(client, request_id):
            return None
        queue = self._clients[client][request_id]
        removed = next((entry for entry in queue if entry.future is future), None)
        if removed is not None:
            queue.remove(removed)
            self._count -= 1
            self._drop_if_empty(client, request_id)
        return removed

    def cancel(self, request_id: str) -> list[AnyEntry]:
        """Remove and return all entries of a request."""
        removed: list[AnyEntry] = []
        for client in list(self._clients):
            requests = self._clients[client]
            removed.extend(requests.pop(request_id, ()))
            if not requests:
                del self._clients[client]
        self._count -= len(removed)
        return removed

    def take(
        self,
        max_batch: int,
        max_padded_seconds: float | None = None,
        may_extend: Callable[[Sequence[AnyEntry], AnyEntry], bool] = lambda _batch, _entry: True,
        worker: object | None = None,
    ) -> list[AnyEntry]:
        """Take the next batch: at most `max_batch` entries of one work and key.

        A batch's padded seconds are its longest entry's times its size; the first entry is taken
        regardless of its length. `may_extend(batch, entry)` says whether an entry joins whose
        request is already in the batch. An entry for another worker than `worker` keeps its place,
        and so do those behind it in its request.
        """
        batch: list[AnyEntry] = []
        served: set[str] = set()
        urgent = any(entry.urgent and _is_for(worker, entry) for entry in self._heads())

        def may_join(entry: AnyEntry) -> bool:
            if urgent and entry.draft:
                return False
            return (
                _is_for(worker, entry)
                and _fits(entry, batch, max_padded_seconds)
                and (entry.request_id not in served or may_extend(batch, entry))
            )

        progress = True
        while progress:
            progress = False
            for client in list(self._clients):
                if len(batch) == max_batch:
                    break
                entry = self._pick(client, may_join)
                if entry is not None:
                    batch.append(entry)
                    served.add(entry.request_id)
                    progress = True
        self._count -= len(batch)
        return batch

    def _pick(self, client: str, may_join: Callable[[AnyEntry], bool]) -> AnyEntry | None:
        """Take a client's next entry that may join; its client and request get the last turn."""
        requests = self._clients[client]
        for request_id, queue in requests.items():
            if not may_join(queue[0]):
                continue
            entry = queue.popleft()
            requests.move_to_end(request_id)
            self._clients.move_to_end(client)
            self._drop_if_empty(client, request_id)
            return entry
        return None

    def _drop_if_empty(self, client: str, request_id: str) -> None:
        requests = self._clients[client]
        if not requests[request_id]:
            del requests[request_id]
        if not requests:
            del self._clients[client]

    def has_work(self, worker: object) -> bool:
        """Whether a worker would find an entry."""
        return any(_is_for(worker, entry) for entry in self._heads())

    def release(self, worker: object) -> None:
        """Let any worker take the entries that were for this one."""
        for entry in self._entries():
            if entry.worker is worker:
                entry.worker = None

    def peek(self, count: int) -> list[AnyEntry]:
        """Approximately the next `count` entries in order, without removing them."""
        order: list[AnyEntry] = []
        depth = 0
        queues = [queue for requests in self._clients.values() for queue in requests.values()]
        while len(order) < count and queues:
            order.extend(queue[depth] for queue in queues)
            depth += 1
            queues = [queue for queue in queues if len(queue) > depth]
        return order[:count]

    def drain(self) -> list[AnyEntry]:
        """Remove and return all entries."""
        removed = list(self._entries())
        self._clients.clear()
        self._count = 0
        return removed

    def _heads(self) -> Iterator[AnyEntry]:
        """The next entry of each request."""
        for requests in self._clients.values():
            for queue in requests.values():
                yield queue[0]

    def _entries(self) -> Iterator[AnyEntry]:
        for requests in self._clients.values():
            for queue in requests.values():
                yield from queue


def _is_for(worker: object | None, entry: AnyEntry) -> bool:
    return entry.worker is None or entry.worker is worker


def _fits(entry: AnyEntry, batch: list[AnyEntry], max_padded_seconds: float | None) -> bool:
    """Whether an entry may join a batch by work and key, the entries' limits and the padding."""
    if not batch:
        return True
    if (entry.work, entry.key) != (batch[0].work, batch[0].key):
        return False
    size = len(batch) + 1
    together = [entry, *batch]
    if any(each.max_batch is not None and size > each.max_batch for each in together):
        return False
    longest = max(each.padded_seconds for each in together)
    return max_padded_seconds is None or size * longest <= max_padded_seconds
