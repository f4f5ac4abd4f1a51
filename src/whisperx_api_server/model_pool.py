"""The only model cache: models load once, stay while they are used, and go when idle too long.

A loaded model is a `Lane`. Whoever uses one holds a lease; a model with leases is never unloaded.
Used on the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .backends import ModelKey, load_model
from .backends.base import Stage
from .errors import Conflict, ModelUnavailable, ServiceError
from .gate import Gate
from .scheduler import Lane, LaneLimits

logger = logging.getLogger(__name__)

ALIGN_BATCH = 16
"""Segments that are aligned together; the aligner itself bounds the padded seconds."""

TRANSLATION_BATCH = 8
"""Pieces of text that are translated together, of one request or of several."""

State = Literal["loading", "ready"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolPolicy:
    """`ttl` in seconds, negative never unloads; `memory_bytes` 0 is no budget.

    `concurrent_per_device` models compute on one device at a time; `max_wait` is how many seconds
    an idle lane waits for company.
    """

    ttl: float = 300.0
    memory_bytes: int = 0
    concurrent_per_device: int = 2
    max_wait: float = 0.004


@dataclass(kw_only=True, slots=True, eq=False)
class _Loaded:
    key: ModelKey
    lane: Lane[Any]
    leases: int = 0
    last_used: float = 0.0

    @property
    def ready(self) -> bool:
        return self.lane.loaded.done() and not self.lane.closed


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """What `list` shows of a model."""

    key: ModelKey
    state: State
    leases: int
    memory_bytes: int
    waiting: int
    lane: Lane[Any]


class ModelPool:
    """Leases models by key, loading what is missing and unloading what nobody uses."""

    def __init__(
        self,
        policy: PoolPolicy,
        *,
        load: Callable[[ModelKey], object] = load_model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._load = load
        self._clock = clock
        self._models: dict[ModelKey, _Loaded] = {}
        self._sizes: dict[ModelKey, int] = {}
        self._gates: dict[tuple[str, int], Gate] = {}
        self._closing: dict[ModelKey, asyncio.Task[None]] = {}
        self._first_load = threading.Lock()
        self._known: set[tuple[str, Stage]] = set()

    @asynccontextmanager
    async def lease(self, key: ModelKey) -> AsyncIterator[Lane[Any]]:
        """Hold a model's lane, loaded; concurrent first leases load it once.

        Raises:
            ServiceError: why it cannot be loaded. A failed load is forgotten: the next try loads.
        """
        while (closing := self._closing.get(key)) is not None:
            # Loaded beside the one that goes, it might not fit.
            await asyncio.wait([closing])
        entry = self._models.get(key)
        if entry is None or entry.lane.closed:
            entry = self._models[key] = self._begin(key)
        entry.leases += 1
        try:
            await until_loaded(entry.lane)
            yield entry.lane
        finally:
            entry.leases -= 1
            entry.last_used = self._clock()
            if not entry.leases:
                self._forget_dead(entry)
                self._make_room(keep=entry)

    async def load(self, key: ModelKey) -> None:
        """Load a model and keep it as long as an idle one is kept."""
        async with self.lease(key):
            pass

    async def unload(self, key: ModelKey) -> bool:
        """Unload a model; False if it is not loaded.

        Raises:
            Conflict: it is in use.
        """
        entry = self._models.get(key)
        if entry is None:
            return False
        if entry.leases:
            raise Conflict(f"the model is in use by {entry.leases} request(s); try again later")
        await self._close(entry)
        return True

    def statuses(self) -> list[ModelStatus]:
        """All models that are loaded or loading."""
        return [
            ModelStatus(
                key=entry.key,
                state="ready" if entry.ready else "loading",
                leases=entry.leases,
                memory_bytes=self._sizes.get(entry.key, 0),
                waiting=len(entry.lane),
                lane=entry.lane,
            )
            for entry in self._models.values()
        ]

    def cancel(self, request_id: str) -> int:
        """Drop whatever waits for a request on any lane; how many entries were dropped."""
        return sum(entry.lane.cancel(request_id) for entry in self._models.values())

    async def sweep(self) -> None:
        """Unload what has been idle for longer than the time to live."""
        oldest = self._clock() - self._policy.ttl
        for entry in list(self._models.values()):
            if entry.leases:
                continue
            self._forget_dead(entry)
            if self._policy.ttl >= 0 and entry.ready and entry.last_used < oldest:
                logger.info("unloading %s: idle", entry.key)
                await self._close(entry)

    async def sweep_forever(self, interval: float = 5.0) -> None:
        """`sweep` every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(interval)
            await self.sweep()

    async def close(self, patience: float | None = None) -> None:
        """Unload everything, in use or not; what does not end within `patience` seconds stays."""
        for entry in list(self._models.values()):
            self._begin_close(entry, patience)
        if self._closing:
            await asyncio.wait(self._closing.values())

    def _begin(self, key: ModelKey) -> _Loaded:
        device = (key.spec.device, key.spec.device_index)
        gate = self._gates.setdefault(device, Gate(self._policy.concurrent_per_device))
        logger.info("loading %s on %s", key, key.spec.device)
        lane = Lane(
            str(key),
            lambda: self._load_measured(key),
            limits=lambda model: self._limits(key.stage, model),
            gate=gate,
        )
        entry = _Loaded(key=key, lane=lane, last_used=self._clock())
        # Not left to those who wait for it: they may all be gone when it is there.
        loop = asyncio.get_running_loop()
        lane.loaded.add_done_callback(
            lambda loaded: loop.call_soon_threadsafe(self._load_ended, entry, loaded.exception())
        )
        return entry

    def _load_ended(self, entry: _Loaded, error: BaseException | None) -> None:
        if error is not None:
            self._forget_dead(entry)
            return
        logger.info("loaded %s", entry.key)
        self._make_room(keep=entry)

    def _forget_dead(self, entry: _Loaded) -> None:
        """Forget a model that could not be loaded; the next lease tries again."""
        if entry.lane.closed and self._models.get(entry.key) is entry:
            del self._models[entry.key]

    def _load_measured(self, key: ModelKey) -> object:
        """Load on the lane's thread; what the process grew by meanwhile is the model's size."""
        before = _resident_bytes()
        try:
            model = self._load_in_turn(key)
        except ServiceError:
            raise
        except Exception as error:
            logger.exception("%s failed to load", key)
            raise ModelUnavailable(
                f"the model {Path(key.spec.name).name!r} failed to load; the server's log says why"
            ) from error
        # Memory that an earlier load left to the allocator does not show as growth again.
        self._sizes[key] = max(self._sizes.get(key, 0), _resident_bytes() - before)
        return model

    def _load_in_turn(self, key: ModelKey) -> object:
        """Load; the first model of each backend and stage while no other such load is under way.

        It imports the vendors' packages. Those import one another, and Python fails on such a
        circle when two threads enter it at different places, at worst for good: what was half
        imported stays so.
        """
        place = (key.backend, key.stage)
        if place in self._known:
            return self._load(key)
        with self._first_load:
            model = self._load(key)
        self._known.add(place)
        return model

    def _limits(self, stage: Stage, model: Any) -> LaneLimits:
        wait = self._policy.max_wait
        if stage == "transcription":
            batch = model.capabilities.max_batch
            return LaneLimits(
                max_batch=batch, max_cost=batch * model.capabilities.max_window, max_wait=wait
            )
        if stage == "alignment":
            return LaneLimits(max_batch=ALIGN_BATCH, max_cost=ALIGN_BATCH * 30.0, max_wait=wait)
        if stage == "translation":
            return LaneLimits(max_batch=TRANSLATION_BATCH, max_wait=wait)
        return LaneLimits()

    def _make_room(self, keep: _Loaded) -> None:
        """Let the least recently used idle models go until the rest fits the memory budget."""
        budget = self._policy.memory_bytes
        if not budget:
            return
        used = sum(self._sizes.get(key, 0) for key in self._models)
        for entry in sorted(self._models.values(), key=lambda entry: entry.last_used):
            if used <= budget:
                return
            if entry is not keep and entry.ready and not entry.leases:
                logger.info("unloading %s: over the memory budget", entry.key)
                used -= self._sizes.get(entry.key, 0)
                self._begin_close(entry)

    def _begin_close(self, entry: _Loaded, patience: float | None = None) -> asyncio.Task[None]:
        """Close a model's lane beside all else; until it is done nobody loads that model again."""
        del self._models[entry.key]
        task = asyncio.create_task(asyncio.to_thread(entry.lane.close, patience))
        self._closing[entry.key] = task
        task.add_done_callback(lambda _: self._closing.pop(entry.key))
        return task

    async def _close(self, entry: _Loaded) -> None:
        await asyncio.wait([self._begin_close(entry)])


async def until_loaded(lane: Lane[Any]) -> None:
    """Wait until a lane has its model, for the first time or, its thread having died, again.

    Raises:
        ServiceError: why it has none.
    """
    if not lane.loaded.done():
        loaded = asyncio.wrap_future(lane.loaded)
        # A waiter that is cancelled must not cancel the load, which others may wait for; asyncio
        # complains of errors that nobody looked at.
        loaded.add_done_callback(lambda future: future.exception())
        await asyncio.shield(loaded)
    elif (error := lane.loaded.exception()) is not None:
        raise error


def _resident_bytes() -> int:
    """The process's resident memory; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * resource.getpagesize()
