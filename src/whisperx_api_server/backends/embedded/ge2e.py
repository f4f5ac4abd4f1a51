"""The GE2E voice encoder: 1.6 s of mel spectrogram -> a vector that says whose voice it is.

Wan et al., "Generalized End-to-End Loss for Speaker Verification" (ICASSP 2018): an LSTM of three
layers, trained by the Resemblyzer project, whose wheel carries the weights. That package itself
is never imported: it needs more than it is worth. The features are those it was trained on:
librosa's power mel spectrogram (Slaney's scale and norm), not its logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...audio import SAMPLE_RATE
from ...domain import Samples
from ...errors import NotInstalled
from ..base import translate_memory_errors

if TYPE_CHECKING:
    import torch

HOP = SAMPLE_RATE // 100  # 10 ms
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
FFT = 400  # samples, 25 ms
MELS = 40
WINDOW = 160  # frames, 1.6 s: the length of the training examples
EMBEDDING = 256
LAYERS = 3
BATCH = 64  # windows; more are no faster on CPU

LOUDNESS = -30.0  # dB of full scale; quieter recordings are raised to it
_BLOCK = 60 * FRAMES_PER_SECOND  # frames whose spectrum is held at once

INSTALL = (
    "the embedded diarizer needs torch, scipy and resemblyzer's weights: "
    "pip install torch scipy && pip install --no-deps resemblyzer"
)

Vectors = NDArray[np.float32]
"""Shape (N, EMBEDDING), each row of unit length."""


class VoiceEncoder:
    """Embeds windows of mel frames."""

    def __init__(self, weights: Path, device: str) -> None:
        import torch

        self._device = torch.device(device)
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self._lstm = torch.nn.LSTM(MELS, EMBEDDING, LAYERS, batch_first=True)
        self._lstm.load_state_dict(_part(state, "lstm."))
        self._linear = torch.nn.Linear(EMBEDDING, EMBEDDING)
        self._linear.load_state_dict(_part(state, "linear."))
        for module in (self._lstm, self._linear):
            module.to(self._device).eval()

    def embed(self, windows: Sequence[NDArray[np.float32]]) -> Vectors:
        """One vector for each window of shape (WINDOW, MELS).

        Raises:
            InsufficientMemory: the device's memory ran out.
        """
        import torch

        vectors = [np.empty((0, EMBEDDING), np.float32)]
        too_large = "the device's memory does not suffice to embed"
        with translate_memory_errors(too_large), torch.inference_mode():
            for first in range(0, len(windows), BATCH):
                batch = torch.from_numpy(np.stack(windows[first : first + BATCH]))
                _, (hidden, _) = self._lstm(batch.to(self._device))
                vectors.append(torch.relu(self._linear(hidden[-1])).cpu().numpy())
        return unit(np.concatenate(vectors))


def _part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors, each scaled to length one; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(length, 1e-9)
    return scaled


def gain(samples: Samples) -> float:
    """The factor that raises a quiet recording to `LOUDNESS`; 1.0 for others."""
    block = _BLOCK * HOP
    energy = sum(
        float(np.square(samples[first : first + block], dtype=np.float64).sum())
        for first in range(0, len(samples), block)
    )
    loudness = 10 * np.log10(energy / max(1, len(samples)) + 1e-12)
    return float(10 ** (max(0.0, LOUDNESS - loudness) / 20))


def mel_frames(samples: Samples, first: int, last: int, factor: float) -> NDArray[np.float32]:
    """Mel power of frames `first` to `last` of a recording whose samples are scaled by `factor`.

    Frame i is centred at sample i * HOP, zeros beyond the ends. Shape (last - first, MELS).
    """
    hann = np.hanning(FFT + 1)[:-1].astype(np.float32)  # periodic
    bank = mel_filters().T
    blocks = [np.empty((0, MELS), np.float32)]
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        begin, end = start * HOP - FFT // 2, (stop - 1) * HOP + FFT // 2
        part = np.asarray(samples[max(0, begin) : max(0, end)]) * np.float32(factor)
        before = max(0, -begin)
        part = np.pad(part, (before, end - begin - len(part) - before))
        frames = np.lib.stride_tricks.sliding_window_view(part, FFT)[::HOP]
        power = np.square(np.abs(np.fft.rfft(frames * hann, axis=1)))
        blocks.append((power @ bank).astype(np.float32))
    return np.concatenate(blocks)


def mel_filters() -> NDArray[np.float64]:
    """Triangular filters of unit area, even on Slaney's mel scale; (MELS, FFT // 2 + 1).

    The scale (Auditory Toolbox, 1998) is linear below 1 kHz, 15 mels there, and logarithmic above,
    27 mels for each factor of 6.4.
    """
    step = np.log(6.4) / 27
    top = 15 + np.log(SAMPLE_RATE / 2 / 1000) / step
    mels = np.linspace(0, top, MELS + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)
    rising = (bins - hertz[:-2, None]) / np.diff(hertz)[:-1, None]
    falling = (hertz[2:, None] - bins) / np.diff(hertz)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: NDArray[np.float64] = triangles * (2 / (hertz[2:] - hertz[:-2]))[:, None]
    return filters


def find_weights() -> Path:
    """The weights file inside the installed resemblyzer wheel.

    Raises:
        NotInstalled: it is absent.
    """
    try:
        listed: list[Any] = list(files("resemblyzer") or ())
    except PackageNotFoundError as error:
        raise NotInstalled(INSTALL) from error
    for file in listed:
        if file.name == "pretrained.pt":
            return Path(file.locate())
    raise NotInstalled(INSTALL)
