"""Loads models on workers' threads, once more after an eviction, and measures them."""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends import ModelKey, free_device_memory
from ..backends.vendors import translate_memory_errors
from ..errors import InsufficientMemory, ModelUnavailable, ServiceError
from .observation import LoadFailed, ModelLoaded, ObserveModel
from .tracebacks import release_frames

logger = logging.getLogger(__name__)

Device = tuple[str, int]
"""A kind of device and its index: ("cuda", 0)."""


class ModelLoader:
    """Loads models, and knows how much memory each took.

    `evict_idle` unloads the other idle models on a device, and returns whether that freed memory.
    """

    def __init__(
        self,
        load: Callable[[ModelKey], object],
        import_vendors: Callable[[ModelKey], None],
        *,
        evict_idle: Callable[[ModelKey, Device], Coroutine[Any, Any, bool]],
        observe: ObserveModel,
        clock: Callable[[], float],
    ) -> None:
        self._load = load
        self._import_vendors = import_vendors
        self._evict_idle = evict_idle
        self._observe = observe
        self._clock = clock
        self._sizes: dict[ModelKey, int] = {}
        self._importing = threading.Lock()

    def size(self, key: ModelKey) -> int:
        """Return a model's memory in bytes; 0 before its first load."""
        return self._sizes.get(key, 0)

    def load(self, key: ModelKey, device: Device, loop: asyncio.AbstractEventLoop) -> object:
        """Load a model on this thread; the growth of the process is recorded as its size.

        Models are evicted on `loop`.

        Raises:
            ServiceError: it cannot be loaded.
        """
        before, begun = _resident_bytes(), self._clock()
        try:
            model = self._load_or_evict(key, device, loop)
        except ServiceError:
            self._observe(key, LoadFailed())
            raise
        except Exception as error:
            self._observe(key, LoadFailed())
            logger.exception("%s failed to load", key)
            raise ModelUnavailable(
                f"the model {key.name!r} failed to load; the server's log says why"
            ) from error
        # A repeated load may reuse memory that the allocator kept, and show less growth. Copies
        # load side by side: the last one sees the growth of all.
        self._sizes[key] = max(self.size(key), _resident_bytes() - before)
        self._observe(key, ModelLoaded(seconds=self._clock() - begun))
        return model

    def _load_or_evict(
        self, key: ModelKey, device: Device, loop: asyncio.AbstractEventLoop
    ) -> object:
        """Load a model; after an out-of-memory error, evict the device's idle models and retry.

        Vendor packages import each other in cycles, and such an import can fail, even permanently,
        if two threads enter the cycle at different places. So one thread imports them at a
        time. Downloads and loads may take minutes and run in parallel.
        """
        kind, index = device
        placed = replace(key, spec=replace(key.spec, device=kind, device_index=index))
        with self._importing:
            self._import_vendors(placed)
        too_large = f"{key} does not fit into the memory of {key.spec.device}: unload other models"
        try:
            with translate_memory_errors(too_large):
                return self._load(placed)
        except InsufficientMemory as error:
            release_frames(error)  # they refer to the partly loaded model
            evicted = asyncio.run_coroutine_threadsafe(self._evict_idle(key, device), loop)
            if not evicted.result():
                raise
        logger.info("loading %s again: idle models were unloaded", key)
        free_device_memory()
        with translate_memory_errors(too_large):
            return self._load(placed)


def _resident_bytes() -> int:
    """Resident memory of the process in bytes; 0 if the system does not report it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * resource.getpagesize()
