"""The model cache: loads each model once, and evicts idle ones by TTL and memory (LRU).

A loaded model is a `Lane`. Requests hold leases; a model with leases is never unloaded. Used on
the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from ..answers.server import LoadedModel
from ..backends import ModelKey, import_vendors, load_model
from ..backends.base import Capabilities, Stage
from ..errors import Conflict, ModelUnavailable
from ..setting_types import NonNegativeFloat, NonNegativeInt, PositiveInt, Section
from .batch_policy import BatchLimits
from .fair_semaphore import FairSemaphore
from .lane import Lane
from .lane_worker import Place
from .loading import Device, ModelLoader
from .observation import ObserveModel, unobserved_model

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 30.0
"""Seconds that an unloading model has for its last batch, before requests for it are refused."""

State = Literal["loading", "ready"]


class SchedulerSettings(Section):
    """Batches."""

    max_wait_ms: NonNegativeFloat = Field(
        4.0, description="Milliseconds that an idle model waits for more windows for a batch."
    )
    concurrent_per_device: PositiveInt = Field(
        2, description="Maximum number of models that compute on one device at a time."
    )


class PoolSettings(Section):
    """Loaded models."""

    ttl: Annotated[float, Field(ge=-1, allow_inf_nan=False)] = Field(
        300.0, description="Seconds until an idle model is unloaded; -1 disables it."
    )
    memory_bytes: NonNegativeInt = Field(
        0,
        description="Maximum memory of loaded models in bytes; beyond it the least recently used "
        "idle ones are unloaded. 0 disables it.",
    )


@dataclass(kw_only=True, slots=True, eq=False)
class ModelStatus:
    """A model that is loaded or loading; `leases` is the number of requests that hold it."""

    key: ModelKey
    devices: Sequence[Device]
    lane: Lane[Any]
    loader: ModelLoader
    last_used: float
    leases: int = 0

    @property
    def ready(self) -> bool:
        """Whether it is loaded, and not being unloaded."""
        return self.lane.loaded.done() and not self.lane.closed

    @property
    def state(self) -> State:
        """Its state in lists."""
        return "ready" if self.ready else "loading"

    @property
    def idle(self) -> bool:
        """Whether it can be unloaded."""
        return self.ready and not self.leases

    @property
    def memory_bytes(self) -> int:
        """Memory that it takes; 0 before its first load."""
        return self.loader.size(self.key)

    @property
    def waiting(self) -> int:
        """Number of entries in its queue."""
        return len(self.lane)


class Models(Protocol):
    """The models of this process, or of the workers that compute for it."""

    def loaded(self, stage: Stage) -> list[LoadedModel]:
        """Return the models of a stage that are loaded or loading."""

    async def load(self, key: ModelKey) -> None:
        """Load a model and keep it like an idle one."""

    async def unload(self, key: ModelKey) -> bool:
        """Unload a model; False if it was not loaded.

        Raises:
            Conflict: it is in use or loading.
        """


class ModelPool:
    """Leases models by key, loads missing ones and unloads idle ones.

    A model for GPUs is loaded on each of `gpus` (indices), or if there are none, on that of its
    specification.
    """

    def __init__(
        self,
        settings: PoolSettings,
        scheduling: SchedulerSettings,
        *,
        gpus: Sequence[int] = (),
        close_timeout: float = CLOSE_TIMEOUT,
        load: Callable[[ModelKey], object] = load_model,
        import_vendors: Callable[[ModelKey], None] = import_vendors,
        observe: ObserveModel = unobserved_model,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._scheduling = scheduling
        self._gpus = gpus
        self._close_timeout = close_timeout
        self._observe = observe
        self._clock = clock
        self._models: dict[ModelKey, ModelStatus] = {}
        self._semaphores: dict[Device, FairSemaphore] = {}
        self._closing: dict[ModelKey, asyncio.Future[None]] = {}
        self._loader = ModelLoader(
            load, import_vendors, evict_idle=self._evict_idle, observe=observe, clock=clock
        )

    @asynccontextmanager
    async def lease(self, key: ModelKey) -> AsyncIterator[Lane[Any]]:
        """Hold a loaded model's lane; concurrent leases share one load.

        Raises:
            ServiceError: the model cannot be loaded. The next lease tries again.
        """
        while (closing := self._closing.get(key)) is not None:
            # Two of the same model might not fit into memory.
            if not await self._ends_in_time([closing]):
                raise ModelUnavailable(
                    "the model is being unloaded, and its last batch is still running; "
                    "try again later",
                    retry_after=self._close_timeout,
                )
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
        """Load a model and keep it like an idle one."""
        async with self.lease(key):
            pass

    async def unload(self, key: ModelKey) -> bool:
        """Unload a model; False if it was not loaded.

        Raises:
            Conflict: the model is in use or loading, or its last batch does not end in time.
        """
        entry = self._models.get(key)
        if entry is None:
            return False
        if entry.leases:
            raise Conflict(f"the model is in use by {entry.leases} request(s); try again later")
        if not entry.ready:
            raise Conflict("the model is still loading; try again when it is loaded")
        if not await self._ends_in_time([self._begin_close(entry)]):
            raise Conflict("the model's last batch is still running; it is unloaded after that")
        return True

    def loaded(self, stage: Stage) -> list[LoadedModel]:
        return [_described(each) for each in self.statuses() if each.key.stage == stage]

    def statuses(self) -> list[ModelStatus]:
        """The state of all models that are loaded or loading."""
        return list(self._models.values())

    def cancel(self, request_id: str) -> int:
        """Remove a request's waiting entries from all lanes, and return their number."""
        return sum(entry.lane.cancel(request_id) for entry in self._models.values())

    def sweep(self) -> None:
        """Start unloading the models that have been idle for longer than the TTL."""
        oldest = self._clock() - self._settings.ttl
        for entry in list(self._models.values()):
            if entry.leases:
                continue
            self._forget_dead(entry)
            if self._settings.ttl >= 0 and entry.idle and entry.last_used < oldest:
                logger.info("unloading %s: idle", entry.key)
                self._begin_close(entry)

    async def sweep_forever(self, interval: float = 5.0) -> None:
        """Call `sweep` every `interval` seconds until cancelled."""
        while True:
            await asyncio.sleep(interval)
            self.sweep()

    async def close(self, grace: float | None = None) -> None:
        """Unload all models, in use or not, and wait up to `grace` seconds for them."""
        for entry in list(self._models.values()):
            self._begin_close(entry)
        if self._closing:
            await asyncio.wait(self._closing.values(), timeout=grace)

    def _begin(self, key: ModelKey) -> ModelStatus:
        loop = asyncio.get_running_loop()
        devices = self._devices_of(key)
        logger.info(
            "loading %s on %s", key, ", ".join(f"{kind}:{index}" for kind, index in devices)
        )
        lane = Lane(
            str(key),
            [
                Place(
                    load=partial(self._loader.load, key, device, loop),
                    device=self._semaphore(key, device),
                )
                for device in devices
            ],
            limits=partial(_limits, key, self._scheduling),
            observe=partial(self._observe, key),
        )
        entry = ModelStatus(
            key=key, devices=devices, lane=lane, loader=self._loader, last_used=self._clock()
        )
        # Not done by the waiting requests, because all of them may be cancelled by then.
        lane.loaded.add_done_callback(
            lambda loaded: loop.call_soon_threadsafe(self._load_ended, entry, loaded.exception())
        )
        return entry

    def _semaphore(self, key: ModelKey, device: Device) -> FairSemaphore:
        """What limits a model's computing on a device.

        Voice activity takes milliseconds on one thread, and live sessions need it for every half
        second of audio: it waits for no other model.
        """
        if key.stage == "vad":
            return FairSemaphore(1)
        return self._semaphores.setdefault(
            device, FairSemaphore(self._scheduling.concurrent_per_device)
        )

    def _devices_of(self, key: ModelKey) -> list[Device]:
        """The devices that get a copy of a model; of a voice detector, one computes enough."""
        spec = key.spec
        many = self._gpus and spec.device != "cpu" and key.stage != "vad"
        return [(spec.device, index) for index in (self._gpus if many else [spec.device_index])]

    def _load_ended(self, entry: ModelStatus, error: BaseException | None) -> None:
        if error is not None:
            self._forget_dead(entry)
            return
        logger.info("loaded %s", entry.key)
        self._make_room(keep=entry)

    def _forget_dead(self, entry: ModelStatus) -> None:
        """Remove a model that could not be loaded; the next lease tries again."""
        if entry.lane.closed and self._models.get(entry.key) is entry:
            del self._models[entry.key]

    async def _evict_idle(self, key: ModelKey, device: Device) -> bool:
        """Unload the other idle models on a device; whether memory was freed."""
        idle = [
            entry
            for entry in self._models.values()
            if entry.key != key and device in entry.devices and entry.idle
        ]
        closing = [self._begin_close(entry) for entry in idle]
        return bool(closing) and await self._ends_in_time(closing)

    def _make_room(self, keep: ModelStatus) -> None:
        """Unload the least recently used idle models until the others fit the memory budget."""
        budget = self._settings.memory_bytes
        if not budget:
            return
        used = sum(entry.memory_bytes for entry in self._models.values())
        for entry in sorted(self._models.values(), key=lambda entry: entry.last_used):
            if used <= budget:
                return
            if entry is not keep and entry.idle:
                logger.info("unloading %s: over the memory budget", entry.key)
                used -= entry.memory_bytes
                self._begin_close(entry)

    def _begin_close(self, entry: ModelStatus) -> asyncio.Future[None]:
        """Close a model's lane in the background; the model is not loaded again until then."""
        del self._models[entry.key]
        closing = self._closing[entry.key] = asyncio.wrap_future(entry.lane.close())
        closing.add_done_callback(lambda _: self._closing.pop(entry.key))
        return closing

    async def _ends_in_time(self, closing: Collection[asyncio.Future[None]]) -> bool:
        """Wait up to `close_timeout` seconds until models are closed; whether they are."""
        _, pending = await asyncio.wait(closing, timeout=self._close_timeout)
        return not pending


async def until_loaded(lane: Lane[Any]) -> None:
    """Wait until a lane's model is loaded, at first or again after its thread died.

    Raises:
        ServiceError: the model could not be loaded.
    """
    if not lane.loaded.done():
        loaded = asyncio.wrap_future(lane.loaded)
        # A cancelled waiter must not cancel the load for others; asyncio logs errors that are
        # never retrieved.
        loaded.add_done_callback(lambda future: future.exception())
        await asyncio.shield(loaded)
    elif (error := lane.loaded.exception()) is not None:
        raise error


def _limits(key: ModelKey, scheduling: SchedulerSettings, model: Any) -> BatchLimits:
    """Return the limits of the specification, reduced to the engine's own."""
    can: Capabilities = model.capabilities if key.stage == "transcription" else Capabilities()
    batch = min(key.spec.max_batch, can.max_batch or key.spec.max_batch)
    return BatchLimits(
        max_batch=batch,
        max_padded_seconds=batch * can.max_window,
        max_wait=scheduling.max_wait_ms / 1000,
    )


def _described(status: ModelStatus) -> LoadedModel:
    spec = status.key.spec
    body: LoadedModel = {
        "model": spec.name,
        "backend": status.key.backend,
        "device": spec.device,
        "state": status.state,
        "requests": status.leases,
        "waiting": status.waiting,
        "memory_bytes": status.memory_bytes,
    }
    if spec.language:
        body["language"] = spec.language
    return body
