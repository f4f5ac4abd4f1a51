"""Backends by name: the built-in ones, and those of installed packages.

A third party adds one with an entry point in the group `whisperx_api_server.backends` whose value
is a module (or object) with the factories that `base` describes.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, cast

from ..errors import NotConfigured, NotInstalled
from .base import Declaration, ModelSource, ModelSpec, Stage

ENTRY_POINT_GROUP = "whisperx_api_server.backends"

BUILT_IN: Mapping[str, Mapping[Stage, str]] = {
    "whisperx": {
        "transcription": ".whisperx",
        "alignment": ".whisperx",
        "diarization": ".pyannote",
    },
    "parakeet": {"transcription": ".parakeet"},
    "fake": {
        "transcription": ".fake",
        "alignment": ".fake",
        "diarization": ".fake",
        "vad": ".fake",
    },
    "none": {"alignment": ".no_aligner"},
    "onnx": {"diarization": ".onnx"},
    "silero": {"vad": ".silero"},
    "pyannote": {"vad": ".pyannote", "diarization": ".pyannote"},
    "transformers": {"translation": ".text", "generation": ".text"},
}

_FACTORIES: Mapping[Stage, str] = {
    "transcription": "load_transcriber",
    "alignment": "load_aligner",
    "diarization": "load_diarizer",
    "vad": "load_voice_detector",
    "translation": "load_translator",
    "generation": "load_language_model",
}

_ENVIRONMENT: Mapping[str, str] = {
    # disables the telemetry of onnxruntime and huggingface_hub
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # torch would start a process per core for a compiler that is not used here
    "TORCH_WARM_POOL": "0",
}
"""Environment defaults for vendor packages; existing values win."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelKey:
    """Identifies a model: its stage, backend and specification."""

    stage: Stage
    backend: str
    spec: ModelSpec

    @property
    def name(self) -> str:
        """The model's name as clients see it."""
        return self.spec.name

    def __str__(self) -> str:
        language = f" ({self.spec.language})" if self.spec.language else ""
        return f"{self.stage}: {self.name}{language}"


def backend_names(stage: Stage) -> list[str]:
    """Return the names that `BACKENDS__…` accepts for a stage, entry points included."""
    built_in = [name for name, stages in BUILT_IN.items() if stage in stages]
    return built_in + [point.name for point in entry_points(group=ENTRY_POINT_GROUP)]


def find_backend(name: str, stage: Stage) -> Any:
    """Return the module for a stage; importing it imports no vendor package.

    Raises:
        NotConfigured: there is no such backend, or it does not serve the stage.
    """
    module_name = BUILT_IN.get(name, {}).get(stage)
    if module_name is not None:
        return importlib.import_module(module_name, __package__)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        module = point.load()
        if hasattr(module, _FACTORIES[stage]):
            return module
    known = ", ".join(backend_names(stage))
    variable = f"BACKENDS__{stage.upper()}"
    raise NotConfigured(
        f"there is no {stage} backend named {name!r}: set {variable} to one of {known}"
    )


def ask(backend: Any, function: str, *arguments: object) -> Any:
    """Call an optional function of a backend (from `find_backend`); None if it has none."""
    found = getattr(backend, function, None)
    return None if found is None else found(*arguments)


def declaration(backend: Any, stage: Stage) -> Declaration:
    """Return the declaration of a backend (from `find_backend`) for a stage."""
    declared: Mapping[Stage, Declaration] = getattr(backend, "DECLARATIONS", {})
    return declared.get(stage) or Declaration()


def model_source(key: ModelKey) -> ModelSource | None:
    """Return where a model's files come from; None if unknown. Reads the disk."""
    if key.stage != "transcription":
        return None
    backend = find_backend(key.backend, key.stage)
    return cast("ModelSource | None", ask(backend, "model_source", key.spec))


def model_advice(key: ModelKey) -> str:
    """Return what else can be done if a model cannot be had; begins with a comma, or is empty."""
    if key.stage != "transcription":
        return ""
    return ask(find_backend(key.backend, key.stage), "model_advice", key.spec) or ""


def import_vendors(key: ModelKey) -> None:
    """Import the packages that loading a model needs, if its backend lists them.

    Missing packages are ignored: the factory raises an error with the install command.

    The garbage collector then skips the imported objects. torch, transformers and pyannote have
    800,000, and a full collection over them stops all threads for 0.4 s.
    """
    _set_environment()
    backend = find_backend(key.backend, key.stage)
    before = len(sys.modules)
    with suppress(NotInstalled):
        ask(backend, "import_vendors", key.stage, key.spec)
    if len(sys.modules) > before:
        gc.freeze()


def free_device_memory() -> None:
    """Return the memory that torch keeps of unloaded models to the device."""
    gc.unfreeze()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def load_model(key: ModelKey) -> object:
    """Load a model through its backend's factory; call it on the thread that will use it."""
    _set_environment()
    module = find_backend(key.backend, key.stage)
    factory = cast("Callable[[ModelSpec], object]", getattr(module, _FACTORIES[key.stage]))
    return factory(key.spec)


def _set_environment() -> None:
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
