"""What clients send, as files in a private directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path

from .domain import UploadedFile
from .errors import DiskFull, TooLarge

_BLOCK_BYTES = 1 << 20  # gathered for one trip to a disk thread
_DISK_THREADS = 4


class UploadStore:
    """Keeps recordings as files, under names of its own.

    Disk work runs on the store's own threads, so that nothing else that blocks can delay it.

    Args:
        workdir: an existing private directory.
        max_bytes: the largest file.
    """

    def __init__(self, *, workdir: Path, max_bytes: int) -> None:
        self._workdir = workdir
        self._max_bytes = max_bytes
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="disk")

    async def save(
        self,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        param: str = "file",
        announced: int = 0,
    ) -> UploadedFile:
        """Stream a recording to disk; the caller deletes it with `discard`.

        `filename`, the client's, is kept for echoing; `param` is the field that errors name;
        `announced` is how many bytes the sender says it will send.
        Nothing stays on disk when this fails or is cancelled.

        Raises:
            TooLarge: more than `max_bytes`.
            DiskFull: it does not fit.
        """
        self._check_size(announced, param)
        handle, name = tempfile.mkstemp(dir=self._workdir)
        path = Path(name)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                digest = await self._write(chunks, file, param)
        except BaseException:
            await self._delete(path)
            raise
        return UploadedFile(path=path, filename=filename, digest=digest)

    async def discard(self, file: UploadedFile) -> None:
        """Delete a file; once more does no harm."""
        await self._delete(file.path)

    async def _delete(self, path: Path) -> None:
        await self._on_disk(lambda: path.unlink(missing_ok=True))

    async def _write(self, chunks: AsyncIterator[bytes], file: FileIO, param: str) -> bytes:
        """Write chunks as they come, a block at a time; their BLAKE2b digest."""
        digest = hashlib.blake2b()
        total = 0
        block = bytearray()
        async for chunk in chunks:
            total += len(chunk)
            self._check_size(total, param)
            block += chunk
            if len(block) >= _BLOCK_BYTES:
                await self._on_disk(partial(_append, file, block, digest))
                block = bytearray()
        await self._on_disk(partial(_append, file, block, digest))
        return digest.digest()

    def _check_size(self, size: int, param: str) -> None:
        if size > self._max_bytes:
            raise TooLarge(
                f"{param} is larger than {self._max_bytes} bytes: send a smaller file", param=param
            )

    async def _on_disk(self, work: Callable[[], None]) -> None:
        """Run on a disk thread; a cancelled caller waits for its end, since it closes the file."""
        working = asyncio.get_running_loop().run_in_executor(self._disk, work)
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.wait([working])
            raise


def _append(file: FileIO, block: bytearray, digest: hashlib.blake2b) -> None:
    digest.update(block)
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise DiskFull from error
