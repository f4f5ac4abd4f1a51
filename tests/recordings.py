"""Recordings as clients really send them: any container and codec, and some that lie."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from whisperx_api_server.domain import Samples

SPEECH = "-f f32le -ar 16000 -ac 1 -i pipe:0"
"""ffmpeg's input arguments for the samples that `encode` is given."""


def encode(path: Path, samples: Samples, options: str = "", *, inputs: Sequence[str] = ()) -> bytes:
    """The file `path`, whose name says the container, made by the ffmpeg of the wheel.

    `inputs` are further ffmpeg inputs (lavfi sources) ahead of the samples.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
    for source in inputs:
        command += ["-f", "lavfi", "-i", source]
    command += [*SPEECH.split(), *options.split(), str(path)]
    subprocess.run(command, input=samples.astype("<f4").tobytes(), check=True)
    return path.read_bytes()


def decode(path: Path) -> Samples:
    """The samples of a file, 16 kHz and mono, by the same ffmpeg."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path)]
    command += ["-f", "f32le", "-ar", "16000", "-ac", "1", "pipe:1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, "<f4").astype(np.float32)


def silent_video(path: Path) -> bytes:
    """A picture that moves for a second, without any audio stream."""
    source = "testsrc=duration=1:size=64x64:rate=10"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
    subprocess.run([*command, "-f", "lavfi", "-i", source, str(path)], check=True)
    return path.read_bytes()


PACKET = b"\xf8\xff\xfe"
"""20 ms of digital silence as libopus codes it: CELT, full band, one frame."""

PACKETS_A_CHUNK = 1000


def opus_bomb(hours: float) -> bytes:
    """Hours of silent Opus in an MP4 of a few kB: every chunk of packets is the same few bytes.

    Boxes as in ISO/IEC 14496-12, and the Opus sample entry of
    https://opus-codec.org/docs/opus_in_isobmff.html.
    """
    chunks = round(hours * 3600 / 0.02 / PACKETS_A_CHUNK)
    packets = chunks * PACKETS_A_CHUNK
    duration = packets * 960  # at 48 kHz
    kind = _box(b"ftyp", b"isom\0\0\2\0isomiso2mp41")
    data = _box(b"mdat", PACKET * PACKETS_A_CHUNK)
    offset = len(kind) + 8
    opus = _box(b"dOps", struct.pack(">BBHIhB", 0, 1, 0, 48_000, 0, 0))
    entry = _box(b"Opus", bytes(6) + struct.pack(">HQHHII", 1, 0, 1, 16, 0, 48_000 << 16) + opus)
    matrix = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    reference = _box(b"dref", struct.pack(">II", 0, 1) + _box(b"url ", struct.pack(">I", 1)))
    table = _box(
        b"stbl",
        _box(b"stsd", struct.pack(">II", 0, 1) + entry),
        _box(b"stts", struct.pack(">IIII", 0, 1, packets, 960)),
        _box(b"stsc", struct.pack(">IIIII", 0, 1, 1, PACKETS_A_CHUNK, 1)),
        _box(b"stsz", struct.pack(">III", 0, len(PACKET), packets)),
        _box(b"stco", struct.pack(">II", 0, chunks) + struct.pack(">I", offset) * chunks),
    )
    media = _box(
        b"mdia",
        _box(b"mdhd", struct.pack(">IQQIQHH", 1 << 24, 0, 0, 48_000, duration, 0x55C4, 0)),
        _box(b"hdlr", struct.pack(">II4s12x", 0, 0, b"soun") + b"\0"),
        _box(b"minf", _box(b"smhd", bytes(8)), _box(b"dinf", reference), table),
    )
    header = struct.pack(">IQQIIQ8xhhhH", (1 << 24) | 7, 0, 0, 1, 0, duration, 0, 0, 256, 0)
    track = _box(b"trak", _box(b"tkhd", header + matrix + bytes(8)), media)
    movie = struct.pack(">IQQIQIH10x", 1 << 24, 0, 0, 48_000, duration, 1 << 16, 256)
    return (
        kind + data + _box(b"moov", _box(b"mvhd", movie + matrix + bytes(24) + b"\0\0\0\2"), track)
    )


def _box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body
