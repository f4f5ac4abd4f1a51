"""Whisper through CTranslate2, and forced alignment with wav2vec2.

Transcription does not need torch; on a GPU it computes its features with torch if it is installed.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...domain import Samples
from ...errors import ModelUnavailable, NotInstalled
from ..base import (
    Capabilities,
    Declaration,
    ModelSource,
    ModelSpec,
    Stage,
    Transcriber,
)
from ..published_whisper import REPOSITORIES, is_english_only, published_model
from ..vendors import is_out_of_memory, require, translate_memory_errors, usable_cores
from .align_models import PACKAGES, align_model, aligner_problem
from .aligner import load_aligner

if TYPE_CHECKING:
    from .features import Mel

__all__ = [
    "DECLARATIONS",
    "align_model",
    "aligner_problem",
    "engine_info",
    "import_vendors",
    "known_capabilities",
    "load_aligner",
    "load_transcriber",
    "model_advice",
    "model_source",
    "published_model",
]

logger = logging.getLogger(__name__)

DECLARATIONS: Mapping[Stage, Declaration] = {
    "transcription": Declaration(
        packages=("ctranslate2", "faster_whisper"),
        probe="model.bin",
        repository=lambda name: REPOSITORIES.get(name, name),
    ),
    "alignment": Declaration(
        packages=PACKAGES,
        probe="config.json",
        # torchaudio's own models come from download.pytorch.org
        repository=lambda name: name if "/" in name else None,
    ),
}

DISTRIBUTIONS = ("whisperx", "faster-whisper", "ctranslate2")


def import_vendors(stage: Stage, spec: ModelSpec) -> None:
    if stage == "alignment":
        modules = (
            "torch",
            "torchaudio.pipelines",
            "transformers.models.auto.feature_extraction_auto",
            "transformers.models.wav2vec2.modeling_wav2vec2",
        )
    else:
        modules = ("ctranslate2", "faster_whisper", *(["torch"] if spec.device == "cuda" else ()))
    for module in modules:
        require(module, extra="cpu")


def load_transcriber(spec: ModelSpec, *, fallback: bool = True) -> Transcriber:
    """Load a Whisper model: a published size, a hub id, or a directory in CTranslate2's format.

    `fallback` False does not decode doubtful and partly unheard windows again.

    Raises:
        NotInstalled: ctranslate2 or faster-whisper is not installed.
        ModelNotFound: the model does not exist.
        InsufficientMemory: the model does not fit into the device's memory.
        ModelUnavailable: the hub, the device or the model's files have an error.
    """
    extra = "cuda" if spec.device == "cuda" else "cpu"
    ctranslate2 = require("ctranslate2", extra=extra)
    require("faster_whisper", extra=extra)
    from .contexts import Contexts
    from .hub import model_directory
    from .parts import most_parts
    from .transcriber import WhisperTranscriber
    from .vocabulary import Vocabulary

    if spec.device == "cuda":
        _check_gpu(spec.device_index, ctranslate2.get_cuda_device_count())
    threads = spec.threads or usable_cores()
    parts = most_parts(threads) if spec.device == "cpu" else 1
    directory = model_directory(spec)
    ctranslate2.set_log_level(logging.ERROR)  # it would print a warning for an implied precision
    too_large = (
        f"the model {spec.name!r} does not fit into the memory of {spec.device}: "
        "unload other models or use a smaller one"
    )
    try:
        with translate_memory_errors(too_large):
            model = ctranslate2.models.Whisper(
                str(directory),
                device=spec.device,
                device_index=spec.device_index,
                compute_type=spec.compute_type,
                inter_threads=parts,
                # CTranslate2's default is four threads, regardless of the number of cores
                intra_threads=max(1, threads // parts),
            )
            vocabulary = Vocabulary(
                directory / "tokenizer.json", multilingual=model.is_multilingual
            )
            log_mel = _gpu_log_mel(spec, model.n_mels) if spec.device == "cuda" else None
    except (RuntimeError, ValueError) as error:
        raise ModelUnavailable(
            f"the Whisper model {spec.name!r} could not be loaded on {spec.device} as "
            f"{spec.compute_type}: see the server's log"
        ) from error
    return WhisperTranscriber(
        model,
        vocabulary,
        # On a GPU the decoder costs most: it would lose more by smaller batches than this gains.
        contexts=Contexts(spec.name, short=spec.short_contexts and spec.device == "cpu"),
        fallback=fallback,
        log_mel=log_mel,
        parts=parts,
    )


def _check_gpu(index: int, count: int) -> None:
    if index >= count:
        raise ModelUnavailable(
            f"there is no CUDA device {index} for Whisper: set WHISPER__INFERENCE_DEVICE=cpu or "
            "check the driver"
        )


def _gpu_log_mel(spec: ModelSpec, n_mels: int) -> Callable[[Samples], Mel] | None:
    """Features by torch on the GPU; None if torch is not installed or cannot use that GPU."""
    from .features_torch import TorchLogMel

    try:
        torch = require("torch", extra="cuda")
    except NotInstalled:
        return None
    if spec.device_index >= torch.cuda.device_count():  # 0 in a build for CPUs
        return None
    try:
        return TorchLogMel(n_mels, spec.torch_device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # CTranslate2 supports older GPUs than torch's builds
        logger.warning("torch cannot use this GPU: features are computed on the CPU", exc_info=True)
        return None


def known_capabilities(spec: ModelSpec) -> Capabilities | None:
    """Capabilities of published English-only models; None for others, which must be loaded."""
    from .transcriber import ENGLISH_ONLY

    return ENGLISH_ONLY if spec.path is None and is_english_only(spec.name) else None


def model_source(spec: ModelSpec) -> ModelSource:
    """Where the files of a Whisper model come from.

    Raises:
        NotInstalled: faster-whisper is absent.
    """
    from .hub import model_source

    return model_source(spec)


def model_advice(spec: ModelSpec) -> str:
    """What else a user can do if the model cannot be had, to be appended to an error."""
    from .packaged import advice

    return advice(spec.name)


def engine_info() -> Mapping[str, object]:
    """Versions of what is installed, for `/info`; None where a package is absent."""
    return {name: _version(name) for name in DISTRIBUTIONS}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
