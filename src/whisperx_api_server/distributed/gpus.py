"""Which GPU of its machine a worker computes on: one that no other worker has."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigurationError

logger = logging.getLogger(__name__)


@contextmanager
def free_gpu(locks: Path, gpus: int) -> Iterator[int]:
    """Keep one of that many GPUs locked against other workers while the context is open.

    `locks` is a directory that all workers of the machine have. A lock ends with its process,
    however that ends. If there are more workers than GPUs, each GPU gets a second one, and so on.

    Raises:
        ConfigurationError: one line, if the directory cannot be written to.
    """
    try:
        locks.mkdir(parents=True, exist_ok=True)
        gpu, others, lock = _take(locks, gpus)
    except OSError as error:
        raise ConfigurationError(
            f"WORKER__GPU_LOCKS: {locks} cannot be written to: {error.strerror}"
        ) from error
    try:
        if others:
            logger.warning(
                "each of %d GPUs has a worker: this one shares GPU %d with %d of them",
                gpus,
                gpu,
                others,
            )
        else:
            logger.info("this worker has GPU %d of %d", gpu, gpus)
        yield gpu
    finally:
        os.close(lock)


def _take(locks: Path, gpus: int) -> tuple[int, int, int]:
    """A GPU, how many other workers it has, and the file whose lock keeps it."""
    others = 0
    while True:
        for gpu in range(gpus):
            lock = _locked(locks / f"gpu-{gpu}-{others}.lock")
            if lock is not None:
                return gpu, others, lock
        others += 1


def _locked(path: Path) -> int | None:
    """The open file, locked; None if another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file
