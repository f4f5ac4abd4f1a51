"""Whisper through CTranslate2, and forced alignment with wav2vec2. Transcription needs no torch."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from typing import Any

from ...errors import InsufficientMemory, ModelUnavailable
from ..base import ModelSpec, Transcriber, require, shown_name
from .align_models import align_model
from .aligner import load_aligner

__all__ = ["align_model", "engine_info", "load_aligner", "load_transcriber"]

DISTRIBUTIONS = ("whisperx", "faster-whisper", "ctranslate2")


def load_transcriber(spec: ModelSpec) -> Transcriber:
    """Load a Whisper model: a published size, a hub id, or a directory in CTranslate2's format.

    `spec.options` may have `max_batch` (int, most windows in one batch; 16) and `fallback` (bool,
    whether doubtful windows are decoded again at higher temperatures; True).

    Raises:
        NotInstalled: ctranslate2 or faster-whisper is absent.
        ModelNotFound: there is no such model.
        InsufficientMemory: the device's memory is full.
        ModelUnavailable: the hub, the device or the model's files do not allow loading it now.
    """
    extra = "cuda" if spec.device == "cuda" else "cpu"
    ctranslate2 = require("ctranslate2", extra=extra)
    require("faster_whisper", extra=extra)
    from .hub import model_directory
    from .transcriber import WhisperTranscriber, out_of_memory
    from .vocabulary import Vocabulary

    if spec.device == "cuda" and spec.device_index >= ctranslate2.get_cuda_device_count():
        raise ModelUnavailable(
            f"there is no CUDA device {spec.device_index} for Whisper: set "
            "WHISPER__INFERENCE_DEVICE=cpu or check the driver"
        )
    directory = model_directory(spec)
    ctranslate2.set_log_level(logging.ERROR)  # it would print a warning for an implied precision
    try:
        model = ctranslate2.models.Whisper(
            str(directory),
            device=spec.device,
            device_index=spec.device_index,
            compute_type=spec.compute_type,
            intra_threads=spec.threads,
        )
        vocabulary = Vocabulary(directory / "tokenizer.json", multilingual=model.is_multilingual)
    except (RuntimeError, ValueError, MemoryError) as error:
        if out_of_memory(error):
            raise InsufficientMemory(
                f"the memory of {spec.device} does not suffice for the model "
                f"{shown_name(spec.name)!r}: unload others or use a smaller one"
            ) from error
        raise ModelUnavailable(
            f"the Whisper model {shown_name(spec.name)!r} could not be loaded on {spec.device} as "
            f"{spec.compute_type}: see the server's log"
        ) from error
    options: Mapping[str, Any] = dict(spec.options)
    return WhisperTranscriber(
        model,
        vocabulary,
        max_batch=options.get("max_batch", 16),
        fallback=options.get("fallback", True),
    )


def engine_info() -> Mapping[str, object]:
    """Versions of what is installed, for `/info`; None where a package is absent."""
    return {name: _version(name) for name in DISTRIBUTIONS}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
