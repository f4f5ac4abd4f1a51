"""Freed memory is kept: what the engines allocate again costs no page faults."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

BLOCK = 100 * 1024**2
PROGRAM = f"""
import ctypes, resource, sys, threading
from whisperx_api_server.allocator import keep_freed_memory

keep_freed_memory(dict.fromkeys(sys.argv[1:], "1"))
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def use():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc({BLOCK})
        ctypes.memset(block, 1, {BLOCK})
        libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=use)
thread.start()
thread.join()
"""

needs_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="only glibc's malloc has these parameters",
)


def faults(*variables: str) -> int:
    """Page faults of a thread that uses a block of `BLOCK` bytes for the second time."""
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, *variables], capture_output=True, text=True, check=True
    )
    return int(child.stdout)


@needs_glibc
def test_a_block_is_used_again_without_page_faults() -> None:
    assert faults() < 100


@needs_glibc
def test_an_environment_that_tunes_malloc_is_left_alone() -> None:
    assert faults("MALLOC_ARENA_MAX") > 100
