"""The Modal deployment, checked without Modal: what it would build and run."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

from whisperx_api_server.config import Settings, load_settings

modal = pytest.importorskip("modal")

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "deploy" / "modal_app.py"


def import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("modal_app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["modal_app"] = module  # modal looks up its classes' module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def deployment() -> Iterator[Any]:
    yield import_file(SOURCE)
    sys.modules.pop("modal_app")


def function_spec(cls: Any) -> Any:
    """What a class asks Modal for; modal shows it nowhere in public."""
    return cls._get_class_service_function()._spec_


@pytest.mark.parametrize(("name", "gpu"), [("Live", "A10G"), ("File", "L40S")])
def test_both_targets_are_defined(deployment: Any, name: str, gpu: str) -> None:
    target = getattr(deployment, name)
    assert isinstance(target, modal.Cls)
    spec = function_spec(target)
    assert spec.gpus == gpu
    assert repr(spec.image) == repr(deployment.image)
    assert list(spec.volumes) == [deployment.MODELS] == [deployment.SETTINGS["HF_HOME"]]
    assert "reflector-gpu" in repr(spec.secrets)


def test_the_image_holds_the_package_with_its_extras(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = MagicMock()
    for step in ("add_local_file", "add_local_dir", "uv_pip_install", "env"):
        getattr(image, step).return_value = image
    monkeypatch.setattr(modal.Image, "debian_slim", MagicMock(return_value=image))

    assert deployment.server_image() is image
    copied = [call.args for call in image.add_local_file.call_args_list]
    copied += [call.args for call in image.add_local_dir.call_args_list]
    assert all(Path(local).exists() for local, _ in copied)
    assert {"pyproject.toml", "src"} <= {Path(local).name for local, _ in copied}
    image.uv_pip_install.assert_called_once()
    requirement = image.uv_pip_install.call_args.args[0]
    assert requirement == f"whisperx-api-server[{deployment.EXTRAS}] @ file://{deployment.PACKAGE}"
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(deployment.EXTRAS.split(",")) <= project["optional-dependencies"].keys()


def test_its_settings_are_the_servers(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name for name in deployment.SETTINGS if "__" in name}
    for name in ours:
        monkeypatch.setenv(name, deployment.SETTINGS[name])
    settings = load_settings()
    for name in ours:
        section, field = name.lower().split("__")
        assert getattr(settings, section) != getattr(Settings.model_construct(), section)
        assert field in type(getattr(settings, section)).model_fields


def test_the_key_is_reflectors(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("whisperx_api_server.main.create_app", seen.append)
    deployment.server({"REFLECTOR_APIKEY": "s3cret"})
    assert seen[0].api_key is not None
    assert seen[0].api_key.get_secret_value() == "s3cret"


def test_it_imports_where_it_lies_alone(tmp_path: Path) -> None:
    """In Modal's container, where the project is in the image and not beside the file."""
    alone = shutil.copy(SOURCE, tmp_path)
    try:
        assert import_file(Path(alone)).app.name == "reflector-gpu"
    finally:
        sys.modules.pop("modal_app")
