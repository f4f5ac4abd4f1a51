"""Keeps large blocks that were freed for the next allocation, instead of returning them at once."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # glibc's malloc.h

KEPT_BYTES = 512 * 1024**2
"""Maximum size of a block that is kept, and of the memory at the heap's end that is kept."""


def keep_freed_memory(environment: Mapping[str, str]) -> None:
    """Tune glibc's malloc for engines on a CPU; call it before the process has threads.

    By default, blocks of more than 64 MB are mapped and unmapped each time, as Whisper's attention
    over 30 s needs them in every layer: a third of its time then goes to page faults. Arenas other
    than the first cannot hold such blocks, so there is only one. Does nothing with another C
    library, or if the environment tunes malloc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name.startswith(("MALLOC_", "GLIBC_")) for name in environment):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
