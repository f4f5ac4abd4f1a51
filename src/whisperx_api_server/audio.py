"""Any recording, in any container or codec, as 16 kHz mono samples on a memory map.

ffmpeg does the decoding, in a process of its own. A file is hostile until decoded, so ffmpeg may
read nothing but that one file: only the `file` protocol is open on the input, and only demuxers
that take everything from the file itself are allowed; playlists and the like (HLS, DASH, concat,
SDP, image sequences), which name other files, are not. It writes into a file without a name,
which no crash can leave behind. Only a short WAV file that has the right rate already is read
here, because starting ffmpeg takes longer than that.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import tempfile
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from .domain import AudioClip, Samples
from .errors import InvalidAudio, NotInstalled, TooLarge, Unavailable

SAMPLE_RATE = 16_000
"""Hz; what Whisper, wav2vec2, Parakeet, pyannote and Silero all listen to."""

_SAMPLE_BYTES = np.dtype(np.float32).itemsize
_BLOCK_SAMPLES = 1 << 20  # 4 MiB
_PLAIN_WAV_BYTES = 2 * 60 * SAMPLE_RATE  # a minute; it is held in memory
_STDERR_TAIL = 16 * 1024
_LONG_CLIP_BYTES = 64 * 1024**2  # 17 minutes
_RELEASE_INTERVAL = 1.0  # s

# ffmpeg's names of demuxers that hold audio, and that open no second file or address.
_DEMUXERS = ",".join(
    (
        "aa aac aax ac3 ac4 acm act adp adx aea aiff amr amrnb amrwb apc ape aptx aptx_hd asf",
        "asf_o au avi avr bonk brstm caf codec2 daud dhav dsf dss dts dtshd dv eac3 flac flv g729",
        "gxf hca hcom iamf iff ilbc ircam kux lc3 live_flv loas matroska mca mlp mmf mov mp3 mpc",
        "mpc8 mpeg mpegts mxf nistsphere nsv nut nuv ogg oma osq paf pva pvf qcp qoa rka rm rso",
        "sbc sds shn smjpeg sol sox spdif swf tak truehd tta voc vqf w64 wav wavarc webm wsd",
        "wtv wv wve xwma",
    )
).replace(" ", ",")

# A decoder for hostile files need not see our keys and tokens.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


def find_ffmpeg() -> str:
    """The system's ffmpeg, else the one inside the imageio-ffmpeg wheel.

    Raises:
        NotInstalled: there is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise NotInstalled(
            "decoding audio needs ffmpeg: install it with the system's package manager or "
            "`pip install imageio-ffmpeg`"
        ) from error


class AudioDecoder:
    """Decodes files, a few at a time.

    Args:
        max_seconds: longest recording; a longer one is refused as soon as that much is decoded.
        timeout: seconds that ffmpeg may take for one file.
        workdir: an existing directory with room for `concurrency` decoded recordings
            (64 kB a second).
        concurrency: how many ffmpeg processes run at once.
    """

    def __init__(
        self, *, max_seconds: float, timeout: float, workdir: Path, concurrency: int = 4
    ) -> None:
        self._max_seconds = max_seconds
        self._timeout = timeout
        self._workdir = workdir
        self._slots = asyncio.Semaphore(concurrency)

    @cached_property
    def _ffmpeg(self) -> str:
        return find_ffmpeg()

    @asynccontextmanager
    async def open(self, path: Path, *, param: str = "file") -> AsyncIterator[AudioClip]:
        """The recording in the file: 16 kHz, mono, in [-1, 1], read-only, on a memory map.

        `param` is the form field that errors name. Cancelling kills ffmpeg. The samples may
        outlive the context: their disk space is freed with the last reference.

        Raises:
            InvalidAudio: not audio, no audio stream, no samples, or the file ends too early.
            TooLarge: longer than `max_seconds`, or ffmpeg took longer than `timeout`.
            NotInstalled: there is no ffmpeg.
            Unavailable: the disk is full.
        """
        file_size = await asyncio.to_thread(os.path.getsize, path)
        if not file_size:
            raise InvalidAudio("the file is empty: send a recording", param=param)
        if file_size <= _PLAIN_WAV_BYTES:
            samples = await asyncio.to_thread(_read_plain_wav, path)
            if samples is not None:
                self._refuse_too_long(samples.nbytes, param)
                yield AudioClip(samples=samples, sample_rate=SAMPLE_RATE)
                return
        with tempfile.TemporaryFile(dir=self._workdir, buffering=0) as file:
            async with self._slots:
                await self._decode(path, file, param)
            size = os.fstat(file.fileno()).st_size // _SAMPLE_BYTES * _SAMPLE_BYTES
            if not size:
                raise InvalidAudio("the file contains no audio samples", param=param)
            self._refuse_too_long(size, param)
            await asyncio.to_thread(_limit_amplitude, file)
            mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        clip = AudioClip(samples=np.frombuffer(mapping, dtype=np.float32), sample_rate=SAMPLE_RATE)
        if size < _LONG_CLIP_BYTES:
            yield clip
            return
        releasing = asyncio.create_task(_release_pages(mapping))
        try:
            yield clip
        finally:
            releasing.cancel()

    def _refuse_too_long(self, size: int, param: str) -> None:
        if size > self._max_seconds * SAMPLE_RATE * _SAMPLE_BYTES:
            raise TooLarge(
                f"the recording is longer than {self._max_seconds:g} seconds: "
                "send it in shorter parts",
                param=param,
            )

    async def _decode(self, path: Path, output: FileIO, param: str) -> None:
        """Write the recording's samples, up to a little more than are allowed."""
        try:
            process = await asyncio.create_subprocess_exec(
                self._ffmpeg,
                *self._arguments(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.PIPE,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        except OSError as error:
            raise NotInstalled("ffmpeg cannot be started: install it again") from error
        assert process.stderr is not None
        try:
            async with asyncio.timeout(self._timeout):
                complaints = await _tail(process.stderr)
                exit_code = await process.wait()
        except TimeoutError as error:
            raise TooLarge(
                f"decoding took longer than {self._timeout:g} seconds: send a shorter recording",
                param=param,
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
                await _tail(process.stderr)
                await process.wait()
        _check(exit_code, complaints, param)

    def _arguments(self, path: Path) -> list[str]:
        # Counted in bytes written, because a file's own time stamps and durations can lie. One
        # second more than allowed tells a recording that is too long from one that just fits.
        limit = int((self._max_seconds + 1) * SAMPLE_RATE) * _SAMPLE_BYTES
        source = [
            *("-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS),
            *("-threads", "1", "-i", f"file:{path}"),
        ]
        # Without rematrix_maxval, a stereo mix to float is the sum of both channels / sqrt(2).
        mono = f"aresample={SAMPLE_RATE}:rematrix_maxval=1.0,aformat=flt:channel_layouts=mono"
        sink = [
            *("-map", "0:a:0", "-vn", "-sn", "-dn", "-af", mono, "-threads", "1"),
            *("-fs", str(limit), "-f", "f32le", "pipe:1"),
        ]
        common = ["-nostdin", "-nostats", "-loglevel", "error", "-filter_threads", "1"]
        return [*common, *source, *sink]


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


def _check(exit_code: int, complaints: str, param: str) -> None:
    """Turn what ffmpeg said into our errors."""
    if "moov atom not found" in complaints or "partial file" in complaints:
        raise InvalidAudio("the file ends too early: send the whole recording", param=param)
    if exit_code == 0:
        return
    if "No space left on device" in complaints:
        raise Unavailable("the server's disk is full: try again later", retry_after=60.0)
    if "matches no streams" in complaints:
        raise InvalidAudio("the file has no audio stream: send a recording with sound", param=param)
    raise InvalidAudio(
        "the file cannot be decoded: send audio or video in a common format such as mp3, m4a, "
        "wav, flac, ogg or webm",
        param=param,
    )


async def _tail(stream: asyncio.StreamReader) -> str:
    """Read to the end, keep the last words: a broken file can be complained about for hours."""
    kept = b""
    while chunk := await stream.read(_STDERR_TAIL):
        kept = (kept + chunk)[-_STDERR_TAIL:]
    return kept.decode(errors="replace")


def _limit_amplitude(file: FileIO) -> None:
    """Clip samples to [-1, 1] and silence NaN, in place; lossy codecs and float files have both.

    Goes by reading and writing, since every page of a map that is touched becomes resident.
    """
    file.seek(0)
    block = np.empty(_BLOCK_SAMPLES, dtype=np.float32)
    while count := file.readinto(block.data) // _SAMPLE_BYTES:
        samples = block[:count]
        if not (samples.max() <= 1 and samples.min() >= -1):  # NaN compares false
            np.nan_to_num(samples, copy=False, nan=0.0)
            np.clip(samples, -1, 1, out=samples)
            file.seek(-samples.nbytes, os.SEEK_CUR)
            file.write(samples.data)


async def _release_pages(mapping: mmap.mmap) -> None:
    """Keep a long recording out of this process's resident memory while it is worked through.

    Pages that were read count as resident until the kernel runs short. Released ones come back
    from the page cache when they are touched again.
    """
    while True:
        await asyncio.sleep(_RELEASE_INTERVAL)
        mapping.madvise(mmap.MADV_DONTNEED)
