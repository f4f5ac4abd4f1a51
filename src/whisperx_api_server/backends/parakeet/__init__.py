"""Transcription with NVIDIA NeMo Parakeet: FastConformer transducers (TDT, RNNT, TDT-CTC)."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...errors import ModelNotFound, NotConfigured
from ..base import (
    Capabilities,
    Declaration,
    ModelSpec,
    Stage,
    Transcriber,
)
from ..hub import snapshot, translate_hub_errors
from ..vendors import require
from .transcriber import ParakeetTranscriber

EXTRA = "parakeet"
# fmt: off
V3_LANGUAGES = frozenset({
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it",
    "lt", "lv", "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk",
})
# fmt: on
"""From the model card of nvidia/parakeet-tdt-0.6b-v3."""

PUBLISHED = (
    "nvidia/parakeet-tdt-0.6b-v2",
    "nvidia/parakeet-tdt-0.6b-v3",
    "nvidia/parakeet-tdt-1.1b",
    "nvidia/parakeet-tdt_ctc-110m",
    "nvidia/parakeet-tdt_ctc-1.1b",
    "nvidia/parakeet-rnnt-0.6b",
    "nvidia/parakeet-rnnt-1.1b",
)
"""NVIDIA's transducers of this family. A `.nemo` file names the classes that NeMo builds, so
loading one requires trust in its publisher: clients may select only these and PARAKEET__MODEL."""


def _repository(name: str) -> str:
    """The hub repository of a model; `parakeet-…` is short for `nvidia/parakeet-…`."""
    return name if "/" in name else f"nvidia/{name}"


DECLARATIONS: Mapping[Stage, Declaration] = {
    "transcription": Declaration(
        packages=("torch", "nemo"),
        extra=EXTRA,
        probe="{name}.nemo",
        repository=_repository,
        settings="parakeet",
        allows_hub_ids=False,
    ),
}

_PRECISIONS = {"default": "float32"} | {name: name for name in ("float32", "bfloat16", "float16")}
_CHATTY_LOGGERS = ("nv_one_logger", "nemo_logger", "lightning", "lightning.pytorch", "lhotse")


def published_model(name: str) -> str | None:
    """The entry of `PUBLISHED` for a name, with or without `nvidia/`, ignoring case."""
    wanted = name.casefold().removeprefix("nvidia/")
    return next((each for each in PUBLISHED if each == f"nvidia/{wanted}"), None)


def supported_languages(name: str) -> frozenset[str]:
    """The languages of a Parakeet by its name: version 3 has 25, all others are English only."""
    return V3_LANGUAGES if re.search(r"[-_]v3\b", name.lower()) else frozenset({"en"})


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    with _silenced():
        require("nemo.collections.asr.models", extra=EXTRA)


def known_capabilities(spec: ModelSpec) -> Capabilities:
    """Capabilities of a Parakeet, from its name."""
    return Capabilities(
        languages=supported_languages(spec.name),
        native_words=True,
        can_logprobs=True,
    )


def load_transcriber(spec: ModelSpec) -> Transcriber:
    """Load a `.nemo` file, or a model of the hub.

    Raises:
        NotInstalled: NeMo is not installed.
        NotConfigured: Parakeet does not support the precision.
        ModelNotFound: the model does not exist, or is not a transducer.
        ModelUnavailable: the hub failed.
    """
    if spec.compute_type not in _PRECISIONS:
        raise NotConfigured(
            f"PARAKEET__PRECISION cannot be {spec.compute_type!r}: "
            "set it to float32, bfloat16 or float16"
        )
    with _silenced(), translate_hub_errors(spec.name, extra=EXTRA):
        models = require("nemo.collections.asr.models", extra=EXTRA)
        # The import reset it. NeMo's set_verbosity would change the handlers of other loggers.
        logging.getLogger("nemo_logger").setLevel(logging.ERROR)
        torch = require("torch", extra=EXTRA)
        omegaconf = require("omegaconf", extra=EXTRA)
        device = torch.device(spec.torch_device)
        model = models.ASRModel.restore_from(str(_nemo_file(spec)), map_location=device).eval()
        if not hasattr(model, "joint"):
            raise ModelNotFound(
                f"{spec.name!r} is not a transducer: use a parakeet-tdt, "
                "parakeet-rnnt or parakeet-tdt_ctc model"
            )
        model.change_decoding_strategy(
            decoding_cfg=omegaconf.OmegaConf.merge(
                omegaconf.OmegaConf.to_container(model.cfg.decoding),
                {"strategy": "greedy_batch", "compute_timestamps": False},
            ),
            verbose=False,
        )
        dtype = getattr(torch, _PRECISIONS[spec.compute_type])
        # the preprocessor stays in float32, because half precision distorts its mel filters
        for part in (model.encoder, model.decoder, model.joint):
            part.to(dtype)
    return ParakeetTranscriber(
        model, torch=torch, device=device, dtype=dtype, capabilities=known_capabilities(spec)
    )


def _nemo_file(spec: ModelSpec) -> Path:
    """Find or download the `.nemo` file."""
    if spec.path is not None:
        if not spec.path.is_file():
            raise ModelNotFound(f"there is no file {spec.name!r}: use an existing .nemo file")
        return spec.path
    repo_id = _repository(spec.name)
    folder = snapshot(spec, repo_id, patterns=["*.nemo"], extra=EXTRA)
    files = sorted(folder.glob("*.nemo"))
    if not files:
        raise ModelNotFound(f"{repo_id!r} has no .nemo file: use one of NVIDIA's Parakeets")
    return files[0]


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence NeMo's loggers permanently, and Python warnings within the context."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield
