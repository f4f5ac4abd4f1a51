"""Where the files of a Whisper model lie: a directory, installed packages or the hub's cache."""

from __future__ import annotations

from pathlib import Path

from ...errors import ModelNotFound
from ..base import ModelSource, ModelSpec, is_local_path, require, shown_name
from ..hub import translate_hub_errors
from .packaged import advice, packaged_model, unpacked

NEEDED_FILES = ("model.bin", "config.json", "tokenizer.json")


def model_directory(spec: ModelSpec) -> Path:
    """The directory with the CTranslate2 conversion that `spec.name` means.

    Published sizes come first, so that a directory that happens to be called "base" hides none.

    Raises:
        ModelNotFound: there is no such model, it is no CTranslate2 conversion, or it is not on
            disk while downloads are off.
        ModelUnavailable: the hub cannot be reached, or what packages carry cannot be unpacked.
    """
    source = model_source(spec)
    if source == "directory":
        directory = Path(spec.name).expanduser()
    elif source == "packages":
        directory = unpacked(spec)
    else:
        directory = _from_hub(spec)
    # faster-whisper would fetch another model's tokenizer.json where it is absent
    missing = [name for name in NEEDED_FILES if not (directory / name).is_file()]
    if missing:
        raise ModelNotFound(
            f"{shown_name(spec.name)!r} is no Whisper model in CTranslate2's format: it has no "
            f"{' and no '.join(missing)}"
        )
    return directory


def model_source(spec: ModelSpec) -> ModelSource:
    """Where the files of a Whisper model come from; downloads nothing."""
    published = spec.name in require("faster_whisper.utils", extra="cpu").available_models()
    if not published and is_local_path(spec.name):
        return "directory"
    return "packages" if packaged_model(spec) is not None else "hub"


def _from_hub(spec: ModelSpec) -> Path:
    vendor = require("faster_whisper.utils", extra="cpu")
    if "/" not in spec.name and spec.name not in vendor.available_models():
        sizes = ", ".join(vendor.available_models())
        raise ModelNotFound(f"there is no model {spec.name!r}: use a hub id or one of {sizes}")
    with translate_hub_errors(spec.name, advice=advice(spec.name)):
        return Path(
            vendor.download_model(
                spec.name,
                local_files_only=spec.local_files_only,
                cache_dir=None if spec.download_root is None else str(spec.download_root),
                use_auth_token=spec.hf_token,
            )
        )
