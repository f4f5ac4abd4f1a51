"""From the names that clients and settings use to the models that the pool loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .backends import ModelKey, find_backend
from .backends.base import ModelSpec, shown_name
from .errors import ModelNotFound, NotConfigured

ALIASES = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
    "gpt-4o-transcribe-diarize",
)
"""OpenAI's names, `AudioModel` in its SDK; each means the configured default model."""

PARAKEET_ALIAS = "parakeet"
"""Means the configured Parakeet, which may be a file that a client could not name."""

EMBEDDED_MODEL = "pocketsphinx-en-us"
"""What the embedded engine's only model is called."""

EMBEDDED_DIARIZER = "resemblyzer-ge2e"
"""What the embedded diarizer's only model is called."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
"""A published size or a hub id; only the settings may name a path, a client never does."""

_PARAKEET = re.compile(r"(nvidia/)?parakeet-[\w.-]+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """What is configured, in the backends' words.

    `transcription`, `alignment`, `diarization` and `voice_detection` are backend names. `whisper`,
    `parakeet` and `diarizer` are the default models; another model of the same engine differs from
    them in its name only.
    """

    transcription: str
    alignment: str
    diarization: str
    voice_detection: str
    whisper: ModelSpec
    parakeet: ModelSpec
    diarizer_spec: ModelSpec
    align_models: Mapping[str, str] = field(default_factory=dict)
    translation_models: Mapping[str, str] = field(default_factory=dict)
    language_model_name: str | None = None

    @property
    def default_model(self) -> str:
        """The name of the model behind OpenAI's names."""
        return self.transcriber(ALIASES[0]).name

    def transcriber(self, name: str) -> ModelKey:
        """The engine and model that a request's `model` means.

        Raises:
            ModelNotFound: it is not a name that a model can have.
        """
        if name in ALIASES:
            name = {"embedded": EMBEDDED_MODEL, "parakeet": self.parakeet.name}.get(
                self.transcription, self.whisper.name
            )
        if name == PARAKEET_ALIAS:
            name = self.parakeet.name
        if _means(name, self.parakeet) or _PARAKEET.fullmatch(name):
            spec = replace(self.parakeet, name=self._parakeet_name(name))
            return ModelKey(stage="transcription", backend="parakeet", spec=spec)
        if name == EMBEDDED_MODEL:
            spec = ModelSpec(name=EMBEDDED_MODEL, threads=self.whisper.threads)
            return ModelKey(stage="transcription", backend="embedded", spec=spec)
        name = self.whisper.name if _means(name, self.whisper) else require_name(name)
        backend = self.transcription
        if backend in ("embedded", "parakeet"):
            backend = "whisperx"
        return ModelKey(
            stage="transcription", backend=backend, spec=replace(self.whisper, name=name)
        )

    def is_parakeet(self, name: str) -> bool:
        """Whether a request's `model` means a Parakeet."""
        return self.transcriber(name).backend == "parakeet"

    def aligner(self, language: str) -> ModelKey | None:
        """The align model for a language; None when there is none."""
        name = find_backend(self.alignment, "alignment").align_model(language, self.align_models)
        if name is None:
            return None
        # One model for all languages is loaded once; one of its own knows its language.
        own = self.align_models.get("multilingual") != name
        spec = replace(
            self.whisper,
            name=name,
            compute_type="default",
            language=language if own else None,
            options=(),
        )
        return ModelKey(stage="alignment", backend=self.alignment, spec=spec)

    def diarizer(self, name: str | None = None) -> ModelKey:
        """A diarization pipeline; the configured one when no name is given."""
        if self.diarization == "embedded":
            spec = replace(self.diarizer_spec, name=EMBEDDED_DIARIZER)
        elif name is None or _means(name, self.diarizer_spec):
            spec = self.diarizer_spec
        else:
            spec = replace(self.diarizer_spec, name=require_name(name))
        return ModelKey(stage="diarization", backend=self.diarization, spec=spec)

    def voice_detector(self) -> ModelKey:
        """The voice activity detector; a transcription backend that brings its own uses that."""
        backend = self.voice_detection
        if hasattr(find_backend(self.transcription, "transcription"), "load_voice_detector"):
            backend = self.transcription
        spec = ModelSpec(name=backend)
        if backend == "pyannote":
            spec = replace(self.diarizer_spec, name=backend)
        return ModelKey(stage="vad", backend=backend, spec=spec)

    def translator(self, source: str, target: str) -> ModelKey:
        """The model that translates text from one language to another."""
        pair = f"{source}-{target}"
        name = self.translation_models.get(pair, f"Helsinki-NLP/opus-mt-{pair}")
        spec = replace(self.whisper, name=name, compute_type="default", options=())
        return ModelKey(stage="translation", backend="transformers", spec=spec)

    def language_model(self) -> ModelKey:
        """The causal language model.

        Raises:
            NotConfigured: none is set.
        """
        if self.language_model_name is None:
            raise NotConfigured("no language model is configured: set LLM__MODEL")
        spec = replace(
            self.whisper, name=self.language_model_name, compute_type="default", options=()
        )
        return ModelKey(stage="generation", backend="transformers", spec=spec)

    def _parakeet_name(self, name: str) -> str:
        if _means(name, self.parakeet):
            return self.parakeet.name
        if "/" in name:
            return name
        return f"nvidia/{name}"


def _means(name: str, spec: ModelSpec) -> bool:
    """Whether that is what a configured model is called; of a path its last part suffices."""
    return name in (spec.name, shown_name(spec.name))


def require_name(name: str) -> str:
    """The name, if a model on the hub can have it.

    Raises:
        ModelNotFound: it cannot; a path is none, whether or not it exists.
    """
    if not _NAME.fullmatch(name):
        raise ModelNotFound(
            "there is no such model: give a Whisper size, a Parakeet name or a Hugging Face id",
            param="model",
        )
    return name


def resolve_device(setting: Literal["auto", "cpu", "cuda"]) -> str:
    """ "cuda" where there is a usable NVIDIA GPU and the setting is auto, else what it says.

    Asks CTranslate2 only on machines with an NVIDIA device node (or WSL's), so that others never
    import it here.
    """
    if setting != "auto":
        return setting
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")):
        return "cpu"
    try:
        import ctranslate2
    except ImportError:
        return "cpu"
    return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
