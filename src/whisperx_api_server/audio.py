"""Any recording, in any container or codec, as 16 kHz mono samples on a memory map.

ffmpeg does the decoding, in a process of its own; its channels are mixed here, into a file without
a name, which no crash can leave behind. Only a short WAV file that has the right rate already is
read here, because starting ffmpeg takes longer than that.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
import wave
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from .domain import AudioClip, Samples
from .downmix import mix_wav
from .errors import DiskFull, InvalidAudio, TooLarge
from .ffmpeg import find_ffmpeg, run_ffmpeg

SAMPLE_RATE = 16_000
"""Hz; what Whisper, wav2vec2, Parakeet, pyannote and Silero all listen to."""

_SAMPLE_BYTES = np.dtype(np.float32).itemsize
_COPY_BYTES = 4 * 1024**2
_PLAIN_WAV_BYTES = 2 * 60 * SAMPLE_RATE  # a minute; it is held in memory
_SMALL_FILE_BYTES = 8 * 1024**2  # 9 minutes of mp3 at 128 kbit/s; decoded in seconds
_SMALL_FILE_SECONDS = 2.0
_LONG_CLIP_BYTES = 64 * 1024**2  # 17 minutes
_RELEASE_INTERVAL = 1.0  # s


class AudioDecoder:
    """Decodes files, a few at a time.

    Small files have places of their own: they never wait for hours of audio that are decoded.

    Args:
        max_seconds: longest recording; a longer one is refused as soon as that much is decoded.
        timeout: seconds that ffmpeg may take for one file.
        workdir: an existing directory with room for `2 * concurrency` decoded recordings
            (64 kB a second).
        concurrency: how many ffmpeg processes run at once for small files, and for large ones.
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
        """The recording in the file: 16 kHz, mono, in [-1, 1], read-only, on a memory map.

        Its clock is the container's: what that leaves out is silence. `param` is the form field
        that errors name. Cancelling kills ffmpeg. The samples may outlive the context: their disk
        space is freed with the last reference.

        Raises:
            InvalidAudio: not audio, no audio stream, no samples, or the file ends too early.
            TooLarge: longer than `max_seconds`.
            NotInstalled: there is no ffmpeg.
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
        """Move a small file that holds hours to a place for large ones, once there is one."""
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
        """Write the recording's samples, up to a little more than are allowed.

        How many there are, and the gaps in them, both in samples: (where, how long).
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
            await asyncio.wait([mixing])  # it ends with ffmpeg, and must before the file is closed
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
    """The samples of a complete 16-bit, 16 kHz, mono WAV file; None leaves it to ffmpeg."""
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (
                1,
                2,
                SAMPLE_RATE,
            ):
                return None
            count = file.getnframes()
            data = file.readframes(count)
    except (wave.Error, EOFError, RuntimeError):  # RuntimeError: a chunk is longer than the file
        return None
    if not count or len(data) != 2 * count:
        return None
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768)
    samples.flags.writeable = False
    return samples


def _copy_with_gaps(source: FileIO, target: FileIO, gaps: Sequence[tuple[int, int]]) -> None:
    """Copy samples and leave the gaps out: they read as silence, and take no space on the disk."""
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
    """Keep a long recording out of this process's resident memory while it is worked through.

    Pages that were read count as resident until the kernel runs short. Released ones come back
    from the page cache when they are touched again.
    """
    while True:
        await asyncio.sleep(_RELEASE_INTERVAL)
        mapping.madvise(mmap.MADV_DONTNEED)
