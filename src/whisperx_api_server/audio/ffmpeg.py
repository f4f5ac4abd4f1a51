"""Runs ffmpeg on an untrusted file, and reads the gaps in its time stamps from ffmpeg's log.

A file may be malicious, so ffmpeg may read only that file: the input allows only the `file`
protocol and only demuxers that read everything from the file itself. Formats that refer to other
files (HLS, DASH, concat, SDP, image sequences) are not allowed.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidAudio, NotInstalled, Unavailable

_LOG_TAIL = 16 * 1024  # bytes

MIN_GAP = 0.1
"""Seconds; shorter gaps come from encoders, which add or omit samples at the edges."""

MAX_START = 60.0
"""Seconds; a file that starts later is a part of a longer recording, such as a live stream."""

MAX_GAPS = 10_000

# ffmpeg's names of demuxers for audio that do not open other files or addresses.
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

# ffmpeg must not see the server's keys and tokens.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")

# Prints (seconds decoded so far, lead of the file's time stamps over them) for the first frame, and
# for each frame at which the lead grows; register 0 has the largest lead so far. ffmpeg's
# aresample=async=1 would hold a gap in memory: 3 GB for three hours.
_PRINT_GAPS = (
    "st(1,PTS*TB-NB_CONSUMED_SAMPLES/SR);"
    f"if(not(N)+gt(ld(1)-ld(0),{MIN_GAP}),"
    "print(NB_CONSUMED_SAMPLES/SR,16)+print(ld(1),16)+st(0,max(ld(0),ld(1))));"
    "NB_CONSUMED_SAMPLES/SR/TB"
)

_PRINTED = re.compile(
    rb"^\[Eval @ \S+\] \[error\] (-?(?:\d+\.\d+|nan|inf))$"
    rb"|^\[info\] Input #0, (\S+), from"
    rb"|^\[info\]   Duration: .*start: (\d+\.\d+)",
    re.MULTILINE,
)
_NO_ERROR = re.compile(rb"^(\[[^\]\n]*\] )?\[(info|warning)\].*$", re.MULTILINE)

# Their time lines begin at 0, regardless of the first time stamp.
_CLOCKS_OF_THEIR_OWN = (b"matroska", b"mov")


def find_ffmpeg() -> str:
    """Find the system's ffmpeg, else the one in the imageio-ffmpeg wheel.

    Raises:
        NotInstalled: neither was found.
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


@dataclass(kw_only=True, slots=True)
class FfmpegLog:
    """What ffmpeg logged about a file."""

    complaints: bytes = b""
    demuxer: bytes = b""
    start: float = 0.0
    numbers: list[float] = field(default_factory=list)

    def gaps(self, longest: float) -> list[tuple[float, float]]:
        """The gaps in the file's time stamps: (seconds decoded before it, its length in seconds).

        A jump by more than `longest` seconds is an invalid time stamp, not a gap.
        """
        found = []
        if self.demuxer.startswith(_CLOCKS_OF_THEIR_OWN) and MIN_GAP < self.start <= MAX_START:
            found.append((0.0, self.start))
        filled = 0.0
        leads = zip(self.numbers[::2], self.numbers[1::2], strict=False)
        for index, (position, lead) in enumerate(leads):
            if index and not position:
                break  # the format changed, and ffmpeg's counter restarted
            if MIN_GAP < lead - filled <= longest:
                found.append((position, lead - filled))
            filled = max(filled, lead)
        return found

    def check(self, exit_code: int, param: str) -> None:
        """Translate ffmpeg's errors into ours.

        Raises:
            InvalidAudio: not audio, no audio stream, or a truncated file.
        """
        if b"moov atom not found" in self.complaints or b"partial file" in self.complaints:
            raise InvalidAudio("the file ends too early: send the whole recording", param=param)
        if exit_code == 0:
            return
        if b"matches no streams" in self.complaints:
            raise InvalidAudio(
                "the file has no audio stream: send a recording with sound", param=param
            )
        raise InvalidAudio(
            "the file cannot be decoded: send audio or video in a common format such as mp3, m4a, "
            "wav, flac, ogg or webm",
            param=param,
        )

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Read to the end and keep only the tail: a broken file can cause endless messages."""
        line = b""
        while chunk := await stream.read(_LOG_TAIL):
            text, newline, line = (line + chunk).rpartition(b"\n")
            self._take(text + newline)
            line = line[-_LOG_TAIL:]
        self._take(line)

    def _take(self, text: bytes) -> None:
        for number, demuxer, start in _PRINTED.findall(text):
            if number and len(self.numbers) < 2 * MAX_GAPS:
                self.numbers.append(float(number))
            self.demuxer = self.demuxer or demuxer
            self.start = self.start or float(start or 0)
        self.complaints = (self.complaints + _NO_ERROR.sub(b"", text))[-_LOG_TAIL:]


async def run_ffmpeg(
    executable: str, path: Path, output: int, *, max_seconds: float
) -> tuple[int, FfmpegLog]:
    """Decode a file into `output`: WAV, 16 kHz, 32-bit float, all channels.

    Returns the exit status and the log. Cancelling kills ffmpeg. Closes `output`.

    Raises:
        NotInstalled: ffmpeg cannot be started.
        Unavailable: it took longer than `max_seconds`.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            executable,
            *_arguments(path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.PIPE,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except OSError as error:
        raise NotInstalled("ffmpeg cannot be started: install it again") from error
    finally:
        os.close(output)
    assert process.stderr is not None
    log = FfmpegLog()
    try:
        async with asyncio.timeout(max_seconds):
            await log.read(process.stderr)
            return await process.wait(), log
    except TimeoutError as error:
        raise Unavailable(
            f"decoding took longer than {max_seconds:g} seconds: try again when the server is idle",
            retry_after=60.0,
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await log.read(process.stderr)
            await process.wait()


def _arguments(path: Path) -> list[str]:
    common = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info"]
    source = [
        *("-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS),
        *("-threads", "1", "-i", f"file:{path}"),
    ]
    samples = f"asetpts='{_PRINT_GAPS}',aresample=16000,aformat=flt"
    sink = [
        *("-map", "0:a:0", "-map_metadata", "-1", "-vn", "-sn", "-dn", "-af", samples),
        *("-threads", "1", "-f", "wav", "-c:a", "pcm_f32le", "pipe:1"),
    ]
    return [*common, "-filter_threads", "1", *source, *sink]
