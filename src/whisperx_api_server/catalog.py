"""Maps the model names of clients and settings to the models that the pool loads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from .backends import ModelKey, ask, declaration, find_backend
from .backends.base import Capabilities, ModelSpec
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

_DEFAULT = re.compile(
    r"(openai/)?(whisper(-1)?|gpt(-4o(-mini)?)?-transcribe(-diarize)?(-\d{4}-\d{2}-\d{2})?"
    r"|gpt-live-transcribe|gpt-(4o-(mini-)?)?realtime[\w.-]*)|default",
    re.IGNORECASE,
)
"""`ALIASES`, their dated versions, the names of live models, and other names with which clients
request the default."""

MULTILINGUAL = "multilingual"
"""The key of the align model for all languages without an entry."""

ALIGN_BATCH = 16
"""Maximum number of segments per batch; the aligner limits the padded seconds itself."""

TRANSLATION_BATCH = 8
"""Maximum number of pieces of text per batch, of one request or several."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
"""The form of a published name or a hub id."""


def configured(setting: str, shared: ModelSpec, engine: str | None = None) -> ModelSpec:
    """Return the model that a setting names; `engine` is the transcription backend to load it.

    In this order: a name that the engine publishes, a path that exists or is not a hub id, a hub
    id. Only for settings: a client's name must never be looked up on disk.

    Raises:
        NotConfigured: there is no such backend.
    """
    published = engine and ask(find_backend(engine, "transcription"), "published_model", setting)
    if published:
        return replace(shared, name=published)
    path = Path(setting).expanduser().absolute()
    if not _HUB_ID.fullmatch(setting) or setting.endswith(".nemo") or path.exists():
        return replace(shared, name=path.name, path=path)
    return replace(shared, name=setting)


def means_default(name: str) -> bool:
    """Whether a request's `model` selects the default, as OpenAI's names do."""
    return _DEFAULT.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """The configured backends and models.

    `transcription`, `alignment`, `diarization` and `voice_detection` are backend names.
    `transcribers` has the default model of each transcription backend that requests can reach;
    another model of the same backend differs from it in its name only. `shared` has the values of
    all models, such as the device. `align_models` are by language or `MULTILINGUAL`,
    `translation_models` by `source-target`. `allowed_models` are hub ids and `org/*` patterns of
    models that clients may name besides the published ones.
    """

    transcription: str
    alignment: str
    diarization: str
    voice_detection: str
    transcribers: Mapping[str, ModelSpec]
    shared: ModelSpec
    diarizer_spec: ModelSpec
    align_models: Mapping[str, ModelSpec] = field(default_factory=dict)
    translation_models: Mapping[str, ModelSpec] = field(default_factory=dict)
    language_model_spec: ModelSpec | None = None
    allowed_models: Sequence[str] = ()

    def check_backends(self) -> None:
        """Find the backends that the settings name.

        Raises:
            NotConfigured: one does not exist, or does not serve its stage.
        """
        find_backend(self.transcription, "transcription")
        find_backend(self.alignment, "alignment")
        find_backend(self.diarization, "diarization")

    @property
    def default_model(self) -> str:
        """The name of the model behind OpenAI's names."""
        return self.transcriber(ALIASES[0]).name

    def transcriber(self, name: str) -> ModelKey:
        """Return the engine and model for a request's `model`.

        A client may name the configured models, also by the name of their backend, the published
        models of each backend, and those that `MODELS__ALLOWED` adds. No other is looked up.

        Raises:
            ModelNotFound: the name is none of these.
        """
        for backend, spec in self.transcribers.items():
            if name == spec.name:
                return self._transcriber(backend)
        if means_default(name):
            return self._transcriber(self.transcription)
        if name in self.transcribers:
            return self._transcriber(name)
        for backend, module in self._modules.items():
            published = ask(module, "published_model", name)
            if published is not None:
                return self._transcriber(backend, published)
        for backend, module in self._modules.items():
            if declaration(module, "transcription").allows_hub_ids and self._allows(name):
                return self._transcriber(backend, name)
        raise ModelNotFound(
            f"there is no model {name[:100]!r} here: name a published Whisper size or Parakeet, or "
            "set MODELS__ALLOWED on the server to allow other Whisper models",
            param="model",
        )

    def known_capabilities(self, key: ModelKey) -> Capabilities | None:
        """Return a transcription model's capabilities; None if they are unknown before loading."""
        backend = self._modules[key.backend]
        return cast("Capabilities | None", ask(backend, "known_capabilities", key.spec))

    @property
    def aligns(self) -> bool:
        """Whether forced alignment is on; `BACKENDS__ALIGNMENT=none` turns it off."""
        return hasattr(self._aligners, "load_aligner")

    def aligner(self, language: str) -> ModelKey | None:
        """Return the align model for a language, or None."""
        if not self.aligns:
            return None
        everywhere = self.align_models.get(MULTILINGUAL)
        spec = self.align_models.get(language, everywhere)
        if spec is None:
            name = self._aligners.align_model(language)
            if name is None:
                return None
            spec = self._plain(name)
        # The model for all languages is loaded once; any other is loaded for its language.
        if spec != everywhere:
            spec = replace(spec, language=language)
        spec = replace(spec, max_batch=ALIGN_BATCH)
        return ModelKey(stage="alignment", backend=self.alignment, spec=spec)

    def aligner_problem(self, language: str) -> ServiceError | None:
        """Return why words of a language cannot be aligned, as far as known without loading.

        NotInstalled for a missing package; ModelNotFound for a language without an align model, and
        for a model that is not on disk while downloads are off. Failed downloads are unknown until
        a load. Reads the disk for some milliseconds at the first call, and imports no package.
        """
        key = self.aligner(language)
        if key is None:
            return ModelNotFound(
                f"there is no align model for {language!r}: name one in ALIGNMENT__MODELS",
                param="language",
            )
        return cast("ServiceError | None", ask(self._aligners, "aligner_problem", key.spec))

    def diarizer(self, name: str | None = None) -> ModelKey:
        """The configured diarization pipeline.

        Raises:
            ModelNotFound: `name` is another one. A pipeline's files select the code to call, so
                only a setting may name it.
        """
        spec = self.diarizer_spec
        only = declaration(self._diarizers, "diarization").only_model
        if only is not None:
            spec = replace(spec, name=only, path=None)
        if name not in (None, spec.name):
            raise ModelNotFound(
                "only the diarization pipeline that DIARIZATION__MODEL names can be loaded: "
                "leave model out",
                param="model",
            )
        return ModelKey(stage="diarization", backend=self.diarization, spec=spec)

    def voice_detector(self) -> ModelKey:
        """The voice activity detector: the transcription backend's own, else the configured one."""
        return self._voice_detector

    def translator(self, source: str, target: str) -> ModelKey:
        """The model that translates text from one language to another."""
        pair = f"{source}-{target}"
        spec = self.translation_models.get(pair) or self._plain(f"Helsinki-NLP/opus-mt-{pair}")
        spec = replace(spec, max_batch=TRANSLATION_BATCH)
        return ModelKey(stage="translation", backend="transformers", spec=spec)

    def language_model(self) -> ModelKey:
        """The causal language model.

        Raises:
            NotConfigured: none is set.
        """
        if self.language_model_spec is None:
            raise NotConfigured("no language model is configured: set LLM__MODEL")
        return ModelKey(stage="generation", backend="transformers", spec=self.language_model_spec)

    # Cached, because finding a third party's backend reads the metadata of all packages.

    @cached_property
    def _aligners(self) -> Any:
        return find_backend(self.alignment, "alignment")

    @cached_property
    def _diarizers(self) -> Any:
        return find_backend(self.diarization, "diarization")

    @cached_property
    def _modules(self) -> Mapping[str, Any]:
        """The transcription backends."""
        return {name: find_backend(name, "transcription") for name in self.transcribers}

    @cached_property
    def _voice_detector(self) -> ModelKey:
        has_its_own = hasattr(self._modules[self.transcription], "load_voice_detector")
        backend = self.transcription if has_its_own else self.voice_detection
        on_device = declaration(find_backend(backend, "vad"), "vad").on_device
        spec = replace(self.shared, name=backend) if on_device else ModelSpec(name=backend)
        return ModelKey(stage="vad", backend=backend, spec=spec)

    def _transcriber(self, backend: str, name: str | None = None) -> ModelKey:
        """Return a model of a backend; without a name, the default one."""
        spec = self.transcribers[backend]
        if name is not None:
            spec = replace(spec, name=name, path=None)
        return ModelKey(stage="transcription", backend=backend, spec=spec)

    def _plain(self, name: str) -> ModelSpec:
        return replace(self.shared, name=name)

    def _allows(self, name: str) -> bool:
        return _HUB_ID.fullmatch(name) is not None and any(
            fnmatchcase(name, pattern) for pattern in self.allowed_models
        )


def resolve_device(setting: Literal["auto", "cpu", "cuda"]) -> str:
    """Resolve "auto" to "cuda" if there is a usable NVIDIA GPU, else to "cpu"."""
    if setting != "auto":
        return setting
    return "cuda" if gpu_count() else "cpu"


def gpu_count() -> int:
    """The number of usable NVIDIA GPUs.

    Asks CTranslate2 only on machines with an NVIDIA device node (or WSL's), so that others never
    import it here.
    """
    if not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")):
        return 0
    try:
        import ctranslate2
    except ImportError:
        return 0
    count: int = ctranslate2.get_cuda_device_count()
    return count
