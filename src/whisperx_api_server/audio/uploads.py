"""Stores uploads with reference counts; on disk, in a private directory."""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Protocol

from ..domain import Upload
from ..errors import DiskFull, TooLarge

_BLOCK_BYTES = 1 << 20  # gathered for one trip to a disk thread
_DISK_THREADS = 4
_ID = re.compile("[0-9a-f]{32}")


class UploadReader(Protocol):
    """Opens recordings that a `BlobStore` keeps."""

    def open(self, upload: Upload) -> AbstractAsyncContextManager[Path]:
        """Return a local file with the recording, to be read while the context is open."""


class BlobStore(UploadReader, Protocol):
    """Keeps recordings as long as their reference count is above 0."""

    @property
    def max_bytes(self) -> int:
        """Maximum bytes of one recording."""

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        param: str = "file",
        announced: int = 0,
    ) -> Upload:
        """Store a recording as it arrives; the caller must call `release` once.

        `filename` is the client's; `param` is the field for errors; `announced` is the declared
        size in bytes. Nothing is kept after an error or a cancellation.

        Raises:
            TooLarge: it is larger than an upload may be.
            DiskFull: it does not fit.
        """

    def retain(self, upload: Upload) -> None:
        """Increment the reference count."""

    async def release(self, upload: Upload) -> None:
        """Decrement the reference count; at 0 the recording is deleted."""


class DiskBlobStore:
    """A BlobStore of files in a private directory.

    Disk work runs on the store's own threads, so that nothing else that blocks can delay it.

    Args:
        workdir: an existing private directory.
        max_bytes: the largest file.
    """

    def __init__(self, *, workdir: Path, max_bytes: int) -> None:
        self._workdir = workdir
        self.max_bytes = max_bytes
        self._holds: Counter[str] = Counter()
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="disk")

    async def put(
        self,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        param: str = "file",
        announced: int = 0,
    ) -> Upload:
        self._check_size(announced, param)
        upload = Upload(id=uuid.uuid4().hex, filename=filename)
        path = self._path(upload)
        try:
            with path.open("xb", buffering=0) as file:
                size, digest = await self._write(chunks, file, param)
        except BaseException:
            await self._delete(path)
            raise
        upload = replace(upload, size=size, digest=digest)
        self.retain(upload)
        return upload

    def adopt(self, path: Path) -> Upload:
        """Add a file of another directory, which is not deleted on release."""
        upload = Upload(id=uuid.uuid4().hex, filename=path.name)
        self._path(upload).symlink_to(path.absolute())
        self.retain(upload)
        return upload

    @asynccontextmanager
    async def open(self, upload: Upload) -> AsyncIterator[Path]:
        yield self._path(upload)

    def retain(self, upload: Upload) -> None:
        self._holds[upload.id] += 1

    async def release(self, upload: Upload) -> None:
        self._holds[upload.id] -= 1
        if self._holds[upload.id] <= 0:
            del self._holds[upload.id]
            await self._delete(self._path(upload))

    def _path(self, upload: Upload) -> Path:
        if not _ID.fullmatch(upload.id):  # another machine may have sent it
            raise ValueError("not the id of an upload")
        return self._workdir / upload.id

    async def _delete(self, path: Path) -> None:
        await self._on_disk(lambda: path.unlink(missing_ok=True))

    async def _write(
        self, chunks: AsyncIterator[bytes], file: FileIO, param: str
    ) -> tuple[int, str]:
        """Write chunks in blocks; returns their size and BLAKE2b digest."""
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
        return total, digest.hexdigest()

    def _check_size(self, size: int, param: str) -> None:
        if size > self.max_bytes:
            raise TooLarge(
                f"{param} is larger than {self.max_bytes} bytes: send a smaller file", param=param
            )

    async def _on_disk(self, work: Callable[[], None]) -> None:
        """Run on a disk thread; a cancelled caller waits for it before it closes the file."""
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
