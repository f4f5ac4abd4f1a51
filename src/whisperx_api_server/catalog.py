"""From the names that clients and settings use to the models that the pool loads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from .backends import ModelKey, find_backend
from .backends.base import ModelSpec, shown_name
from .errors import ModelNotFound, NotConfigured, ServiceError

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

EMBEDDED_DIARIZER = "resemblyzer-ge2e"
"""What the embedded diarizer's only model is called."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
"""What a model's name on the hub looks like; a path that it also matches is not taken for one."""

EMBEDDED_MODEL = "pocketsphinx-en-us"
"""What the embedded engine's only model is called."""


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """What is configured, in the backends' words.

    `transcription`, `alignment`, `diarization` and `voice_detection` are backend names. `whisper`,
    `parakeet` and `diarizer_spec` are the default models; another model of the same engine differs
    from them in its name only. `allowed_models` are names and `org/*` patterns of Whisper models
    that clients may name besides the published ones.
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
    allowed_models: Sequence[str] = ()

    @property
    def default_model(self) -> str:
        """The name of the model behind OpenAI's names."""
        return self.transcriber(ALIASES[0]).name

    def transcriber(self, name: str) -> ModelKey:
        """The engine and model that a request's `model` means.

        A client may name the configured models, those that an engine says are published, and
        those of Whisper that `MODELS__ALLOWED` adds. Nothing else is looked for or loaded.

        Raises:
            ModelNotFound: the name is none of these.
        """
        if name in ALIASES:
            return self._transcriber(self.transcription)
        if name == PARAKEET_ALIAS:
            return self._transcriber("parakeet")
        for engine, spec in self._engines.items():
            if _means(name, spec):
                return self._transcriber(engine)
        for engine in self._engines:
            published = getattr(find_backend(engine, "transcription"), "published_model", None)
            if published is not None and (known := published(name)) is not None:
                return self._transcriber(engine, known)
        if self._allows(name):
            return self._transcriber(self._whisper_engine, name)
        raise ModelNotFound(
            f"there is no model {name[:100]!r} here: name a published Whisper size or Parakeet, or "
            "set MODELS__ALLOWED on the server to allow other Whisper models",
            param="model",
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

    def aligner_problem(self, language: str) -> ServiceError | None:
        """Why words of a language cannot be aligned; None where nothing speaks against it.

        To be asked before a recording is decoded: an absent package (NotInstalled), a language
        without an align model, and a model that is not on disk while downloads are off (both
        ModelNotFound) are known without loading anything. What only loading tells, such as a
        download that fails, is not. Reads the disk for some milliseconds at its first call, and
        imports none of the engine's packages.
        """
        key = self.aligner(language)
        if key is None:
            return ModelNotFound(
                f"there is no align model for {language!r}: name one in ALIGNMENT__MODELS",
                param="language",
            )
        backend = find_backend(key.backend, "alignment")
        if not hasattr(backend, "aligner_problem"):
            return None
        problem: ServiceError | None = backend.aligner_problem(key.spec)
        return problem

    def diarizer(self, name: str | None = None) -> ModelKey:
        """The configured diarization pipeline.

        Raises:
            ModelNotFound: `name` is another one. A pipeline's files say which code is called, so
                only a setting may name it.
        """
        spec = self.diarizer_spec
        if self.diarization == "embedded":
            spec = replace(spec, name=EMBEDDED_DIARIZER)
        if name is not None and not _means(name, spec):
            raise ModelNotFound(
                "only the diarization pipeline that DIARIZATION__MODEL names can be loaded: "
                "leave model out",
                param="model",
            )
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

    @property
    def _whisper_engine(self) -> str:
        own = self.transcription in ("parakeet", "embedded")
        return "whisperx" if own else self.transcription

    @property
    def _engines(self) -> Mapping[str, ModelSpec]:
        """The transcription backends, each with its default model."""
        return {
            "parakeet": self.parakeet,
            "embedded": ModelSpec(name=EMBEDDED_MODEL, threads=self.whisper.threads),
            self._whisper_engine: self.whisper,
        }

    def _transcriber(self, engine: str, name: str | None = None) -> ModelKey:
        """A model of an engine, the default one without a name; all differ in their names only."""
        spec = self._engines[engine]
        if name is not None:
            spec = replace(spec, name=name)
        return ModelKey(stage="transcription", backend=engine, spec=spec)

    def _allows(self, name: str) -> bool:
        return HUB_ID.fullmatch(name) is not None and any(
            fnmatchcase(name, pattern) for pattern in self.allowed_models
        )


def _means(name: str, spec: ModelSpec) -> bool:
    """Whether that is what a configured model is called; of a path its last part suffices."""
    return name in (spec.name, shown_name(spec.name))


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
