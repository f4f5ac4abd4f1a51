"""Reads the memory of NVIDIA GPUs from NVML, the driver's library."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class _Memory(ctypes.Structure):
    """NVML's nvmlMemory_t, in bytes."""

    _fields_: Sequence[tuple[str, type]] = [  # type: ignore[misc]
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def gpu_memory() -> dict[int, tuple[int, int]]:
    """The used and all bytes of each GPU by its index; none where there is no NVIDIA driver.

    Source: https://docs.nvidia.com/deploy/nvml-api/
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return {}
    with _initialised(nvml) as ready:
        return dict(_each(nvml)) if ready else {}


@contextmanager
def _initialised(nvml: ctypes.CDLL) -> Iterator[bool]:
    ready = nvml.nvmlInit_v2() == 0
    try:
        yield ready
    finally:
        if ready:
            nvml.nvmlShutdown()


def _each(nvml: ctypes.CDLL) -> Iterator[tuple[int, tuple[int, int]]]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    for index in range(count.value):
        device, memory = ctypes.c_void_p(), _Memory()
        found = nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
        if found and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0:
            yield index, (memory.used, memory.total)
