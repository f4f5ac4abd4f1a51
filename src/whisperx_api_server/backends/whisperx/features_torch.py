"""Log-mel spectrograms computed on a GPU, beside the decoder."""

from __future__ import annotations

import numpy as np

from ...domain import Samples
from ..vendors import require
from .features import HOP, N_FFT, N_FRAMES, N_SAMPLES, Mel, mel_filters


class TorchLogMel:
    """What `LogMel` computes, within 1e-4, on a torch device. Thread-safe.

    Windows of every length are padded before the transform, not after it: with one shape, cuFFT
    makes one plan. Failures are torch's own RuntimeErrors.
    """

    def __init__(self, n_mels: int, device: str) -> None:
        self._torch = torch = require("torch", extra="cuda")
        self._device = torch.device(device)
        # Torch's default stream is CUDA's legacy one: it waits for the decoder and holds it up.
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        # double precision is four times closer to numpy's, and out of reach of TF32 settings
        on_device = {"dtype": torch.float64, "device": self._device}
        with torch.cuda.stream(self._stream):
            self._filters = torch.tensor(mel_filters(n_mels), **on_device)
            self._hann = torch.hann_window(N_FFT, **on_device)
        self(np.zeros(0, np.float32))  # loads CUDA's libraries, or fails, now and not in a request

    def __call__(self, samples: Samples) -> Mel:
        """Mono 16 kHz audio of any length (30 s at most are heard) -> (n_mels, N_FRAMES)."""
        torch = self._torch
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            heard = torch.tensor(samples[:N_SAMPLES], device=self._device)
            sound = torch.zeros(N_SAMPLES, dtype=torch.float64, device=self._device)
            sound[: len(heard)] = heard
            spectrum = torch.stft(sound, N_FFT, HOP, window=self._hann, return_complex=True)
            power = spectrum[:, :N_FRAMES].abs().square()
            mel = (self._filters @ power).float().clamp(min=1e-10).log10()
            mel = torch.maximum(mel, mel.max() - 8.0)
            found: Mel = ((mel + 4.0) / 4.0).cpu().numpy()  # waits for this stream alone
        return found
