"""Helpers for vendor packages: imports, memory errors, files; every backend may import them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ..errors import InsufficientMemory, NotInstalled, ServiceError


def require(module: str, *, extra: str) -> ModuleType:
    """Import a vendor's module.

    Raises:
        NotInstalled: the module, or one that it needs, is missing; has the install command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _not_installed(error.name or module, extra) from error


def absent(packages: Sequence[str], *, extra: str) -> NotInstalled | None:
    """The error for the first missing package, as `require` raises it; imports nothing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return _not_installed(package, extra)
    return None


def package_file(package: str, pattern: str, *, extra: str) -> Path:
    """Find a file in an installed package by a glob pattern, without importing the package.

    Raises:
        NotInstalled: the package, or a version with the file, is missing.
    """
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        for path in Path(folder).glob(pattern):
            return path
    raise _not_installed(package, extra)


def _not_installed(module: str, extra: str) -> NotInstalled:
    return NotInstalled(
        f"this needs the package {module.partition('.')[0]!r}: "
        f'pip install "whisperx-api-server[{extra}]"'
    )


_OUT_OF_MEMORY = (
    "out of memory",  # CUDA as CTranslate2, torch and onnxruntime say it
    "alloc_failed",  # cuBLAS, cuDNN
    "allocate memory",  # torch's CPU allocator, the kernel, onnxruntime
    "failed to allocate",  # oneDNN, onnxruntime
    "not enough memory",  # torch's CPU allocator on Windows and macOS
    "bad_alloc",
    "bad allocation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a vendor's error means that the memory of the device or the machine ran out.

    Judges by the message: torch has a class for GPUs only, CTranslate2 and onnxruntime have none.
    """
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in message for sign in _OUT_OF_MEMORY)


@contextmanager
def translate_memory_errors(message: str) -> Iterator[None]:
    """Translate out-of-memory errors of vendors into `InsufficientMemory(message)`."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise InsufficientMemory(message) from error
        raise


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
