"""Finds the files of a Whisper model: a directory, installed packages or the hub's cache."""

from __future__ import annotations

import logging
from pathlib import Path

from ...errors import ModelNotFound, ModelUnavailable
from ..base import ModelSource, ModelSpec
from ..hub import translate_hub_errors
from ..published_whisper import REPOSITORIES
from ..vendors import require
from .packaged import advice, missing_packages, packaged_model, unpacked

logger = logging.getLogger(__name__)

NEEDED_FILES = ("model.bin", "config.json", "tokenizer.json")


def model_directory(spec: ModelSpec) -> Path:
    """Find or download a model's directory in CTranslate2's format.

    Raises:
        ModelNotFound: the model does not exist, is not in CTranslate2's format, or is not on disk
            while downloads are off.
        ModelUnavailable: the hub cannot be reached, or packages cannot be unpacked.
    """
    try:
        return _directory(spec)
    except (ModelNotFound, ModelUnavailable) as error:
        raise type(error)(error.message + advice(spec.name)) from error.__cause__


def _directory(spec: ModelSpec) -> Path:
    if spec.path is not None:
        directory = spec.path
    elif packaged_model(spec) is not None:
        directory = unpacked(spec)
    else:
        directory = _from_hub(spec)
    # without tokenizer.json, faster-whisper would download another model's
    missing = [name for name in NEEDED_FILES if not (directory / name).is_file()]
    if missing:
        raise ModelNotFound(
            f"{spec.name!r} is not a Whisper model in CTranslate2's format: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: use another"
        )
    return directory


def model_source(spec: ModelSpec) -> ModelSource:
    """Where the files of a Whisper model come from; downloads nothing."""
    if spec.path is not None:
        return "directory"
    return "packages" if packaged_model(spec) is not None else "hub"


def _from_hub(spec: ModelSpec) -> Path:
    repository = REPOSITORIES.get(spec.name, spec.name)
    if "/" not in repository:
        sizes = ", ".join(REPOSITORIES)
        raise ModelNotFound(f"there is no model {spec.name!r}: use a hub id or one of {sizes}")
    vendor = require("faster_whisper.utils", extra="cpu")
    if missing := missing_packages(spec.name):
        logger.info(
            "%s %s not installed: the model %r comes from the Hugging Face hub, or from its cache",
            " ".join(missing),
            "is" if len(missing) == 1 else "are",
            spec.name,
        )
    with translate_hub_errors(spec.name):
        return Path(
            vendor.download_model(
                repository,
                local_files_only=spec.local_files_only,
                cache_dir=None if spec.download_root is None else str(spec.download_root),
                use_auth_token=spec.hf_token,
            )
        )
