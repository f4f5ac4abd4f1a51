"""Decodes recordings of any container or codec to 16 kHz mono samples on a memory map.

ffmpeg decodes in a separate process. Its channels are mixed here, into an unnamed file that a crash
cannot leave behind. Only a short WAV file of PCM or floats with the right sample rate is read
directly, because starting ffmpeg takes longer.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from ..domain import SAMPLE_RATE, AudioClip, Samples
from ..errors import DiskFull, InvalidAudio, TooLarge
from .downmix import mix_frames, mix_wav
from .ffmpeg import find_ffmpeg, run_ffmpeg
from .wav import read_plain

_SAMPLE_BYTES = np.dtype(np.float32).itemsize
_COPY_BYTES = 4 * 1024**2
_PLAIN_WAV_BYTES = 2 * 60 * SAMPLE_RATE  # a minute of 16-bit mono, held in memory
_SMALL_FILE_BYTES = 8 * 1024**2  # 9 minutes of mp3 at 128 kbit/s, decoded in seconds
_SMALL_FILE_SECONDS = 2.0
_LONG_CLIP_BYTES = 64 * 1024**2  # 17 minutes
_RELEASE_INTERVAL = 1.0  # s


class AudioDecoder:
    """Decodes a limited number of files at a time.

    Small files have their own slots, so that they never wait for hours of audio to be decoded.

    Args:
        max_seconds: maximum length; a longer recording is refused once that much is decoded.
        timeout: maximum seconds that ffmpeg may take for one file.
        workdir: an existing directory with room for `2 * concurrency` decoded recordings
            (64 kB per second).
        concurrency: number of ffmpeg processes for small files, and for large files.
    """

    def __init__(
        self, *, max_seconds: float, timeout: float, workdir: Path, concurrency: int = 4
    ) -> None:
        self._max_seconds = max_seconds
        self._timeout = timeout
        self._workdir = workdir
        self._small = asyncio.Semaphore(concurrency)
        self._large = asyncio.Semaphore(concurrency)
        self._threads = ThreadPoolExecutor(2 * concurrency, thread_name_prefix="decode")

    @cached_property
    def _ffmpeg(self) -> str:
        return find_ffmpeg()

    @asynccontextmanager
    async def open(self, path: Path, *, param: str = "file") -> AsyncIterator[AudioClip]:
        """Decode a file to read-only samples on a memory map: 16 kHz, mono, in [-1, 1].

        Times follow the container's time stamps, and gaps in them become silence. `param` is the
        form field that errors name. Cancelling kills ffmpeg. The samples may outlive the context:
        their disk space is freed with the last reference.

        Raises:
            InvalidAudio: not audio, no audio stream, no samples, or a truncated file.
            TooLarge: longer than `max_seconds`.
            NotInstalled: ffmpeg was not found.
            Unavailable: the disk is full, or ffmpeg took longer than `timeout`.
        """
        file_size = await asyncio.to_thread(os.path.getsize, path)
        if not file_size:
            raise InvalidAudio("the file is empty: send a recording", param=param)
        if file_size <= _PLAIN_WAV_BYTES:
            samples = await asyncio.to_thread(_read_plain_wav, path)
            if samples is not None:
                self._refuse_too_long(len(samples), param)
                yield AudioClip(samples=samples, sample_rate=SAMPLE_RATE)
                return
        async with self._place(file_size):
            mapping = await self._decode(path, param)
        clip = AudioClip(samples=np.frombuffer(mapping, dtype=np.float32), sample_rate=SAMPLE_RATE)
        if len(mapping) < _LONG_CLIP_BYTES:
            yield clip
            return
        releasing = asyncio.create_task(_release_pages(mapping))
        try:
            yield clip
        finally:
            releasing.cancel()

    @asynccontextmanager
    async def _place(self, file_size: int) -> AsyncIterator[None]:
        async with AsyncExitStack() as place:
            if file_size > _SMALL_FILE_BYTES:
                await place.enter_async_context(self._large)
                yield
                return
            await place.enter_async_context(self._small)
            moving = asyncio.create_task(self._move(place))
            try:
                yield
            finally:
                moving.cancel()

    async def _move(self, place: AsyncExitStack) -> None:
        """Move a small file that takes long to a slot for large files, once one is free."""
        await asyncio.sleep(_SMALL_FILE_SECONDS)
        await self._large.acquire()
        await place.aclose()
        place.callback(self._large.release)

    def _refuse_too_long(self, samples: int, param: str) -> None:
        if samples > self._max_seconds * SAMPLE_RATE:
            raise TooLarge(
                f"the recording is longer than {self._max_seconds:g} seconds: "
                "send it in shorter parts",
                param=param,
            )

    async def _decode(self, path: Path, param: str) -> mmap.mmap:
        with ExitStack() as files:
            file = files.enter_context(self._temporary_file())
            count, gaps = await self._mix(path, file, param)
            self._refuse_too_long(count + sum(length for _, length in gaps), param)
            if gaps:
                timed = files.enter_context(self._temporary_file())
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, _copy_with_gaps, file, timed, gaps)
                file = timed
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _temporary_file(self) -> FileIO:
        return tempfile.TemporaryFile(dir=self._workdir, buffering=0)

    async def _mix(
        self, path: Path, file: FileIO, param: str
    ) -> tuple[int, Sequence[tuple[int, int]]]:
        """Write the recording's samples, up to slightly more than the maximum.

        Returns the number of samples, and the gaps as (position, length), both in samples.
        """
        executable = self._ffmpeg
        source, sink = os.pipe()
        mixing = asyncio.get_running_loop().run_in_executor(
            self._threads,
            mix_wav,
            os.fdopen(source, "rb"),
            file,
            int(self._max_seconds * SAMPLE_RATE),
        )
        try:
            exit_code, log = await run_ffmpeg(executable, path, sink, max_seconds=self._timeout)
        finally:
            await asyncio.wait([mixing])  # it ends with ffmpeg; the file must stay open until then
        count = mixing.result()
        self._refuse_too_long(count, param)
        log.check(exit_code, param)
        if not count:
            raise InvalidAudio("the file contains no audio samples", param=param)
        return count, [
            (round(position * SAMPLE_RATE), round(seconds * SAMPLE_RATE))
            for position, seconds in log.gaps(self._max_seconds)
        ]


def _read_plain_wav(path: Path) -> Samples | None:
    """Read a short 16 kHz WAV file; None if ffmpeg must decode the file."""
    frames = read_plain(path, SAMPLE_RATE)
    if frames is None:
        return None
    samples = mix_frames(frames)
    samples.flags.writeable = False
    return samples


def _copy_with_gaps(source: FileIO, target: FileIO, gaps: Sequence[tuple[int, int]]) -> None:
    """Copy samples and leave holes for the gaps, which read as silence and take no disk space."""
    source.seek(0)
    try:
        for position, length in gaps:
            _copy(source, target, position * _SAMPLE_BYTES - source.tell())
            target.seek(length * _SAMPLE_BYTES, os.SEEK_CUR)
        _copy(source, target, os.fstat(source.fileno()).st_size - source.tell())
        target.truncate()
    except OSError as error:
        raise DiskFull from error


def _copy(source: FileIO, target: FileIO, size: int) -> None:
    while size > 0 and (block := source.read(min(size, _COPY_BYTES))):
        target.write(block)
        size -= len(block)


async def _release_pages(mapping: mmap.mmap) -> None:
    """Keep a long recording out of this process's resident memory while it is processed.

    Pages that were read count as resident until the kernel needs memory. Released pages are
    mapped again from the page cache when they are accessed.
    """
    while True:
        await asyncio.sleep(_RELEASE_INTERVAL)
        mapping.madvise(mmap.MADV_DONTNEED)
