"""WAV: the header of a file or stream, and the samples of a short file without ffmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORM_BYTES = 40  # of WAVEFORMATEXTENSIBLE, the longest
_PIECE_BYTES = 64 * 1024
_ENCODINGS = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "<i3",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class WavHeader:
    """What a WAV says about its samples.

    `encoding` is the type of a sample as numpy names it, also `<i3`, and "" for others. `mask` has
    a bit for each loudspeaker, and `size` is the announced number of bytes.
    """

    channels: int
    rate: int
    encoding: str
    mask: int
    size: int


def read_header(source: BinaryIO) -> WavHeader | None:
    """Read up to the samples; None if that is not the beginning of a WAV."""
    begin = source.read(12)
    if begin[:4] != b"RIFF" or begin[8:] != b"WAVE":
        return None
    form = b""
    while len(head := source.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            return _header(form, size)
        size += size % 2
        if kind == b"fmt ":
            form = source.read(min(size, _FORM_BYTES))
            size -= len(form)
        if not _skip(source, size):
            return None
    return None


def _skip(source: BinaryIO, size: int) -> bool:
    """Read past so many bytes, in pieces: a header may announce more than there is."""
    while size and (piece := source.read(min(size, _PIECE_BYTES))):
        size -= len(piece)
    return not size


def _header(form: bytes, size: int) -> WavHeader | None:
    def number(first: int, last: int) -> int:
        return int.from_bytes(form[first:last], "little")

    if len(form) < 16:
        return None
    kind, channels, bits = number(0, 2), number(2, 4), number(14, 16)
    if kind == _EXTENSIBLE and number(18, 20) == bits:
        kind = number(24, 26)
    whole = number(12, 14) == channels * bits // 8
    return WavHeader(
        channels=channels,
        rate=number(4, 8),
        encoding=_ENCODINGS.get((kind, bits), "") if whole else "",
        mask=number(20, 24),
        size=size,
    )


def read_plain(path: Path, rate: int) -> NDArray[np.float32] | None:
    """Read all frames of a complete mono or stereo file of that rate, as ffmpeg decodes them.

    Returns (frames, channels); None for other files, which ffmpeg must decode.
    """
    with path.open("rb") as file:
        header = read_header(file)
        if header is None or header.rate != rate or header.channels not in (1, 2):
            return None
        data = file.read() if header.encoding else b""
    if len(data) < header.size or not header.size:
        return None
    data = data[: header.size]
    width = int(header.encoding[-1])
    if len(data) % (width * header.channels):
        return None
    return _floats(data, header.encoding).reshape(-1, header.channels)


def _floats(data: bytes, encoding: str) -> NDArray[np.float32]:
    """Samples of any encoding as floats; integers are scaled to [-1, 1)."""
    if encoding == "<i3":
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = padded.view("<i4")
    else:
        samples = np.frombuffer(data, encoding)
    with np.errstate(over="ignore"):  # of doubles
        floats: NDArray[np.float32] = samples.astype(np.float32)
    if samples.dtype.kind == "u":
        floats -= 128
    if samples.dtype.kind in "iu":
        floats /= 2 ** (8 * samples.itemsize - 1)
    return floats
