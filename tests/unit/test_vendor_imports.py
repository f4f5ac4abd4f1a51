"""Backends say which vendor packages a load imports, so that one thread at a time imports them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import ALIGNER, WHISPER
from whisperx_api_server.backends import (
    BUILT_IN,
    ModelKey,
    declaration,
    find_backend,
    import_vendors,
)
from whisperx_api_server.backends.base import ModelSpec

SCRIPT = """
import sys
from pathlib import Path
from whisperx_api_server.backends import ModelKey, import_vendors, load_model
from whisperx_api_server.backends.base import ModelSpec

spec = ModelSpec(name="model", path=Path(sys.argv[2]))
key = ModelKey(stage=sys.argv[1], backend="whisperx", spec=spec)
import_vendors(key)
before = {name.partition(".")[0] for name in sys.modules}
load_model(key)
added = {name.partition(".")[0] for name in sys.modules} - before - sys.stdlib_module_names
print(sorted(added))
"""


@pytest.mark.parametrize(
    ("stage", "model"), [("transcription", WHISPER), ("alignment", ALIGNER)], ids=str
)
def test_a_load_imports_no_package_that_was_not_imported_before(stage: str, model: object) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, stage, str(model)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "[]\n"


def test_each_backend_that_requires_packages_says_which_it_imports() -> None:
    for name, stages in BUILT_IN.items():
        for stage in stages:
            backend = find_backend(name, stage)
            requires = bool(declaration(backend, stage).packages)
            assert requires == hasattr(backend, "import_vendors"), (name, stage)


def test_an_absent_package_is_left_to_the_factory_to_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    import_vendors(ModelKey(stage="vad", backend="silero", spec=ModelSpec(name="silero")))
