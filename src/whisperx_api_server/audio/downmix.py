"""Mixes the channels of a recording to mono without cancelling channels of opposite phase.

If one side is inverted (a cable with crossed wires, a karaoke track), the mean of both sides
is silence. So a channel whose correlation with the previous ones is below -0.5 is subtracted.
"""

from __future__ import annotations

from io import BufferedReader, FileIO

import numpy as np
from numpy.typing import NDArray

from ..domain import Samples
from ..errors import DiskFull
from .wav import read_header

_BLOCK_FRAMES = 4096  # 0.26 s; signs are chosen for each block
_FRONT_CENTER = 0x4  # in WAVEFORMATEXTENSIBLE's channel mask
_SAMPLE_BYTES = 4


class Downmixer:
    """Mixes blocks of one recording, and keeps the signs of its channels between blocks.

    `weights` has one value per channel; only their ratios matter.
    """

    def __init__(self, weights: NDArray[np.float32]) -> None:
        self._gains = weights / weights.sum()

    def mix(self, frames: NDArray[np.float32]) -> Samples:
        """Mix a block: (frames, channels) -> (frames,), both in [-1, 1].

        Samples out of range are clipped and NaN becomes 0: lossy codecs and float files have both.
        """
        if not (frames.max() <= 1 and frames.min() >= -1):  # NaN compares false
            frames = np.clip(np.nan_to_num(frames, nan=0.0), -1, 1)
        channels = np.ascontiguousarray(frames.T)
        mono: Samples = channels[0] * self._gains[0]
        for index in range(1, len(channels)):
            channel = channels[index] * self._gains[index]
            if mono @ channel < -0.5 * np.sqrt((mono @ mono) * (channel @ channel)):
                self._gains[index] *= -1
                channel *= -1
            mono += channel
        return mono


def mix_frames(frames: NDArray[np.float32]) -> Samples:
    """Mix a short recording: (frames, channels) -> (frames,)."""
    mixer = Downmixer(np.ones(frames.shape[1], dtype=np.float32))
    firsts = range(0, len(frames), _BLOCK_FRAMES)
    return np.concatenate([mixer.mix(frames[first : first + _BLOCK_FRAMES]) for first in firsts])


def mix_wav(source: BufferedReader, output: FileIO, max_samples: int) -> int:
    """Mix a WAV stream of 32-bit floats block by block; returns the number of samples written.

    Stops soon after `max_samples`. Closes `source`.

    Raises:
        DiskFull: the output does not fit on the disk.
    """
    with source:
        header = read_header(source)
        if header is None:
            return 0
        mixer = Downmixer(_weights(count=header.channels, mask=header.mask))
        block = np.empty((_BLOCK_FRAMES, header.channels), dtype=np.float32)
        written = 0
        while written <= max_samples:
            count = source.readinto(block.data) // (_SAMPLE_BYTES * header.channels)
            if not count:
                break
            try:
                output.write(mixer.mix(block[:count]).data)
            except OSError as error:
                raise DiskFull from error
            written += count
        return written


def _weights(*, count: int, mask: int) -> NDArray[np.float32]:
    """Weigh the front center, which has a film's speech, more among three or more channels."""
    weights = np.ones(count, dtype=np.float32)
    if count > 2 and mask & _FRONT_CENTER:
        before = (mask & (_FRONT_CENTER - 1)).bit_count()
        weights[:] = 0.5**0.5
        weights[before] = 1
    return weights
