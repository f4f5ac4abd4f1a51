"""The align model of each language, and how to load it.

Importing whisperx.alignment takes many seconds, so its tables are copied here; a test compares
them with the installed ones.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ...errors import ModelNotFound, ModelUnavailable, ServiceError
from ..base import ModelSpec
from ..hub import downloads_are_off, is_cached, translate_hub_errors
from ..vendors import absent, require, translate_memory_errors

if TYPE_CHECKING:
    from torch import Tensor

TORCHAUDIO_MODELS: Mapping[str, str] = {
    "de": "VOXPOPULI_ASR_BASE_10K_DE",
    "en": "WAV2VEC2_ASR_BASE_960H",
    "es": "VOXPOPULI_ASR_BASE_10K_ES",
    "fr": "VOXPOPULI_ASR_BASE_10K_FR",
    "it": "VOXPOPULI_ASR_BASE_10K_IT",
}
"""Language -> name of a bundle in torchaudio.pipelines: whisperx's defaults."""

TORCHAUDIO_FILES: Mapping[str, str] = {
    "WAV2VEC2_ASR_BASE_10M": "wav2vec2_fairseq_base_ls960_asr_ll10m.pth",
    "WAV2VEC2_ASR_BASE_100H": "wav2vec2_fairseq_base_ls960_asr_ls100.pth",
    "WAV2VEC2_ASR_BASE_960H": "wav2vec2_fairseq_base_ls960_asr_ls960.pth",
    "WAV2VEC2_ASR_LARGE_10M": "wav2vec2_fairseq_large_ls960_asr_ll10m.pth",
    "WAV2VEC2_ASR_LARGE_100H": "wav2vec2_fairseq_large_ls960_asr_ls100.pth",
    "WAV2VEC2_ASR_LARGE_960H": "wav2vec2_fairseq_large_ls960_asr_ls960.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_10M": "wav2vec2_fairseq_large_lv60k_asr_ll10m.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_100H": "wav2vec2_fairseq_large_lv60k_asr_ls100.pth",
    "WAV2VEC2_ASR_LARGE_LV60K_960H": "wav2vec2_fairseq_large_lv60k_asr_ls960.pth",
    "VOXPOPULI_ASR_BASE_10K_EN": "wav2vec2_voxpopuli_base_10k_asr_en.pt",
    "VOXPOPULI_ASR_BASE_10K_ES": "wav2vec2_voxpopuli_base_10k_asr_es.pt",
    "VOXPOPULI_ASR_BASE_10K_DE": "wav2vec2_voxpopuli_base_10k_asr_de.pt",
    "VOXPOPULI_ASR_BASE_10K_FR": "wav2vec2_voxpopuli_base_10k_asr_fr.pt",
    "VOXPOPULI_ASR_BASE_10K_IT": "wav2vec2_voxpopuli_base_10k_asr_it.pt",
    "HUBERT_ASR_LARGE": "hubert_fairseq_large_ll60k_asr_ls960.pth",
    "HUBERT_ASR_XLARGE": "hubert_fairseq_xlarge_ll60k_asr_ls960.pth",
    "MMS_FA": "model.pt",
}
"""The align bundles of torchaudio.pipelines, and the file that each is downloaded to."""

PACKAGES = ("torch", "torchaudio", "transformers")

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files; transformers reads the first one that a model has."""

HUB_MODELS: Mapping[str, str] = {
    "ar": "jonatasgrosman/wav2vec2-large-xlsr-53-arabic",
    "ca": "softcatala/wav2vec2-large-xlsr-catala",
    "cs": "comodoro/wav2vec2-xls-r-300m-cs-250",
    "da": "saattrupdan/wav2vec2-xls-r-300m-ftspeech",
    "el": "jonatasgrosman/wav2vec2-large-xlsr-53-greek",
    "eu": "stefan-it/wav2vec2-large-xlsr-53-basque",
    "fa": "jonatasgrosman/wav2vec2-large-xlsr-53-persian",
    "fi": "jonatasgrosman/wav2vec2-large-xlsr-53-finnish",
    "gl": "ifrz/wav2vec2-large-xlsr-galician",
    "he": "imvladikon/wav2vec2-xls-r-300m-hebrew",
    "hi": "theainerd/Wav2Vec2-large-xlsr-hindi",
    "hr": "classla/wav2vec2-xls-r-parlaspeech-hr",
    "hu": "jonatasgrosman/wav2vec2-large-xlsr-53-hungarian",
    "id": "cahya/wav2vec2-large-xlsr-indonesian",
    "ja": "jonatasgrosman/wav2vec2-large-xlsr-53-japanese",
    "ka": "xsway/wav2vec2-large-xlsr-georgian",
    "ko": "kresnik/wav2vec2-large-xlsr-korean",
    "lv": "jimregan/wav2vec2-large-xlsr-latvian-cv",
    "ml": "gvs/wav2vec2-large-xlsr-malayalam",
    "nl": "jonatasgrosman/wav2vec2-large-xlsr-53-dutch",
    "nn": "NbAiLab/nb-wav2vec2-1b-nynorsk",
    "no": "NbAiLab/nb-wav2vec2-1b-bokmaal-v2",
    "pl": "jonatasgrosman/wav2vec2-large-xlsr-53-polish",
    "pt": "jonatasgrosman/wav2vec2-large-xlsr-53-portuguese",
    "ro": "gigant/romanian-wav2vec2",
    "ru": "jonatasgrosman/wav2vec2-large-xlsr-53-russian",
    "sk": "comodoro/wav2vec2-xls-r-300m-sk-cv8",
    "sl": "anton-l/wav2vec2-large-xlsr-53-slovenian",
    "sv": "KBLab/wav2vec2-large-voxrex-swedish",
    "te": "anuragshas/wav2vec2-large-xlsr-53-telugu",
    "tl": "Khalsuu/filipino-wav2vec2-l-xls-r-300m-official",
    "tr": "mpoyraz/wav2vec2-xls-r-300m-cv7-turkish",
    "uk": "Yehor/wav2vec2-xls-r-300m-uk-with-small-lm",
    "ur": "kingabzpro/wav2vec2-large-xls-r-300m-Urdu",
    "vi": "nguyenvulebinh/wav2vec2-base-vi-vlsp2020",
    "zh": "jonatasgrosman/wav2vec2-large-xlsr-53-chinese-zh-cn",
}
"""Language -> wav2vec2 CTC model on the Hugging Face hub: whisperx's defaults."""


def align_model(language: str) -> str | None:
    """WhisperX's model for a language (ISO-639-1); None if it has none."""
    return TORCHAUDIO_MODELS.get(language) or HUB_MODELS.get(language)


def aligner_problem(spec: ModelSpec) -> ServiceError | None:
    """The error that loading an align model would raise, or None.

    Checks for missing packages, and for a missing model while downloads are off. Reads the disk;
    does not import the packages.
    """
    if (error := absent(PACKAGES, extra="cpu")) is not None:
        return error
    if spec.path is not None:
        there = any((spec.path / file).exists() for file in WEIGHTS)
    elif spec.name in TORCHAUDIO_FILES:
        there = not spec.local_files_only or _bundle_file(spec).exists()
    else:
        there = not downloads_are_off(spec) or is_cached(spec, spec.name, *WEIGHTS)
    return None if there else _not_on_disk(spec)


def _bundle_file(spec: ModelSpec) -> Path:
    """The path at which torch.hub stores a bundle's weights."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    root = spec.download_root or Path(home).expanduser() / "hub" / "checkpoints"
    return root / TORCHAUDIO_FILES[spec.name]


def _not_on_disk(spec: ModelSpec) -> ModelNotFound:
    return ModelNotFound(
        f"the align model {spec.name!r} is not on disk and downloads are off: "
        "download it first, set ALIGNMENT__MODELS to one on disk, or send align=false"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CtcModel:
    """A wav2vec2 CTC model in two parts, so that an item's result does not depend on its batch.

    The group norm in the convolutions of the base models uses statistics over all samples, which
    padding would change. So `features` processes one item at a time, (1, N) samples to
    (frames, channels). `logits` takes padded features (B, frames, channels) and the items' lengths
    (B,), and returns (B, frames, len(dictionary)). `dictionary` has the lower-case
    characters; `blank` is the index of the CTC blank.
    """

    features: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    dictionary: Mapping[str, int]
    blank: int
    device: str


def load_ctc_model(spec: ModelSpec) -> CtcModel:
    """Load a bundle of torchaudio.pipelines, or a Hugging Face wav2vec2 model by id or path.

    Raises:
        ModelNotFound: it does not exist, is not a wav2vec2 CTC model, or downloads are off.
        ModelUnavailable: it cannot be downloaded or loaded at the moment.
        NotInstalled: torch, torchaudio or transformers is not installed.
        InsufficientMemory: it does not fit on the device.
    """
    torch = require("torch", extra="cpu")
    pipelines = require("torchaudio.pipelines", extra="cpu")
    broken = require("safetensors", extra="cpu").SafetensorError
    if spec.threads:
        torch.set_num_threads(spec.threads)
    too_large = (
        f"the align model {spec.name!r} does not fit into the device's memory: "
        "use a smaller one or another device"
    )
    try:
        with translate_memory_errors(too_large):
            if spec.path is None and spec.name in pipelines.__all__:
                return _from_torchaudio(spec)
            return _from_transformers(spec)
    except (RuntimeError, AssertionError, EOFError, UnpicklingError, broken) as error:
        # torch asserts that it was built for CUDA; the others come from damaged files
        raise ModelUnavailable(
            f"the align model {spec.name!r} could not be loaded on {spec.device}: "
            "see the server's log"
        ) from error


def _from_transformers(spec: ModelSpec) -> CtcModel:
    torch = require("torch", extra="cpu")
    transformers = require("transformers", extra="cpu")
    source: dict[str, Any] = {
        "cache_dir": spec.download_root,
        "local_files_only": spec.local_files_only,
        "token": spec.hf_token,
    }
    try:
        with translate_hub_errors(spec.name):
            # The tokenizer comes last, because it raises a TypeError for a missing file.
            config = transformers.Wav2Vec2Config.from_pretrained(spec.source, **source)
            model, loading = transformers.Wav2Vec2ForCTC.from_pretrained(
                spec.source, config=config, output_loading_info=True, **source
            )
            tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(spec.source, **source)
    except (ValueError, TypeError, KeyError) as error:
        raise _not_ctc(spec) from error
    if "lm_head.weight" in loading["missing_keys"] or model.wav2vec2.adapter is not None:
        raise _not_ctc(spec)
    device = spec.torch_device
    model = model.float().eval().to(device)
    encoder = model.wav2vec2

    def features(samples: Tensor) -> Tensor:
        convolved: Tensor = encoder.feature_extractor(samples)
        return convolved[0].T

    def logits(features: Tensor, lengths: Tensor) -> Tensor:
        hidden, _ = encoder.feature_projection(features)
        heard = torch.arange(features.shape[1], device=device) < lengths[:, None]
        hidden = encoder.encoder(hidden, attention_mask=heard).last_hidden_state
        scores: Tensor = model.lm_head(hidden)
        return scores

    vocabulary = tokenizer.get_vocab()
    dictionary = {token.lower(): index for token, index in vocabulary.items()}
    blank = next((dictionary[name] for name in ("[pad]", "<pad>") if name in dictionary), 0)
    return CtcModel(
        features=features, logits=logits, dictionary=dictionary, blank=blank, device=device
    )


def _not_ctc(spec: ModelSpec) -> ModelNotFound:
    return ModelNotFound(
        f"{spec.name!r} is not a wav2vec2 CTC model, which alignment needs: set another one "
        "in ALIGNMENT__MODELS"
    )


def _from_torchaudio(spec: ModelSpec) -> CtcModel:
    torch = require("torch", extra="cpu")
    if spec.name not in TORCHAUDIO_FILES:
        raise _not_ctc(spec)
    bundle = getattr(require("torchaudio.pipelines", extra="cpu"), spec.name)
    file = _bundle_file(spec)
    if spec.local_files_only and not file.exists():
        raise _not_on_disk(spec)
    try:
        model = bundle.get_model(dl_kwargs={"model_dir": str(file.parent), "progress": False})
    except OSError as error:
        raise ModelUnavailable(
            f"the align model {spec.name!r} could not be downloaded: try again later, "
            "set ALIGNMENT__MODELS to one on disk, or send align=false"
        ) from error
    normalize = bundle._normalize_waveform
    device = spec.torch_device
    model = (model.model if normalize else model).eval().to(device)

    def features(samples: Tensor) -> Tensor:
        if normalize:
            samples = torch.nn.functional.layer_norm(samples, samples.shape)
        convolved: Tensor = model.feature_extractor(samples, None)[0]
        return convolved[0]

    def logits(features: Tensor, lengths: Tensor) -> Tensor:
        scores: Tensor = model.aux(model.encoder(features, lengths))
        return scores

    dictionary = {label.lower(): index for index, label in enumerate(bundle.get_labels())}
    return CtcModel(features=features, logits=logits, dictionary=dictionary, blank=0, device=device)


def forced_align_function() -> Callable[..., tuple[Tensor, Tensor]]:
    """`torchaudio.functional.forced_align` without torchaudio 2.8's warning at every call.

    The warning announces a removal that torchaudio has since cancelled for this function.
    """
    functional = require("torchaudio.functional", extra="cpu")
    function: Callable[..., tuple[Tensor, Tensor]] = inspect.unwrap(functional.forced_align)
    return function
