"""The encoder's output for a batch of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..vendors import require
from .features import N_FRAMES


class EncodedBatch:
    """The encoder's output for a batch, computed once, and its slices.

    On a CPU the windows are encoded one by one: the encoder gains nothing by batches, and its
    attention over 1500 frames outgrows the caches. Twelve windows of Whisper base on two cores
    take 30 % less time so, and 0.3 GB instead of 1.3.
    """

    def __init__(self, model: Any, mels: NDArray[np.float32]) -> None:
        self._model = model
        self._mels = mels
        self._storage = require("ctranslate2", extra="cpu").StorageView
        one_by_one = model.device == "cpu"
        first = self._encode(mels[:1] if one_by_one else mels)
        # numpy sees neither a GPU's memory nor bfloat16
        self._sliceable = bool(first.device == "cpu" and first.dtype.name == "float32")
        if not one_by_one or len(mels) == 1:
            self._whole = first
        elif self._sliceable:
            rest = [np.asarray(self._encode(mels[row : row + 1])) for row in range(1, len(mels))]
            self._whole = self._storage.from_array(np.concatenate([np.asarray(first), *rest]))
        else:
            self._whole = self._encode(mels)

    @property
    def short(self) -> bool:
        """Whether the context is shorter than Whisper's."""
        return bool(self._mels.shape[-1] < N_FRAMES)

    @property
    def sliceable(self) -> bool:
        """Whether slices cost nothing."""
        return self._sliceable

    def rows(self, rows: Sequence[int]) -> Any:
        """The output for the given windows, in order (a ctranslate2.StorageView)."""
        if list(rows) == list(range(len(self._mels))):
            return self._whole
        if self.sliceable:
            return self._storage.from_array(np.asarray(self._whole)[list(rows)])
        return self._encode(self._mels[list(rows)])  # cheap compared with decoding them again

    def _encode(self, mels: NDArray[np.float32]) -> Any:
        return self._model.encode(self._storage.from_array(np.ascontiguousarray(mels)))
