"""Reads the memory of NVIDIA GPUs from NVML, the driver's library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence


class _Memory(ctypes.Structure):
    """NVML's nvmlMemory_t, in bytes."""

    _fields_: Sequence[tuple[str, type]] = [  # type: ignore[misc]
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Gpus:
    """The GPUs of this machine; none without an NVIDIA driver.

    NVML is loaded once, since that can take long enough to block the event loop; reading is fast.
    Source: https://docs.nvidia.com/deploy/nvml-api/
    """

    def __init__(self) -> None:
        self._nvml: ctypes.CDLL | None = None
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        if nvml.nvmlInit_v2() == 0:
            self._nvml = nvml

    def memory(self) -> dict[int, tuple[int, int]]:
        """The used and all bytes of each GPU by its index; a GPU that is lost is left out."""
        nvml, count, found = self._nvml, ctypes.c_uint(), {}
        if nvml is None or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return {}
        for index in range(count.value):
            device, memory = ctypes.c_void_p(), _Memory()
            if (
                nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
                and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
            ):
                found[index] = (memory.used, memory.total)
        return found
