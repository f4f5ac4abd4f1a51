"""Unchanged clients from their registries against the running server.

Each has an environment of its own below build/clients, since their pins contradict ours: the
versions in tests/clients/NAME.txt. What a client must do is in the script beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from real_speech import OPENING, silence
from server import REPOSITORY, Server
from support import locked, wav, word_errors
from tones import sentences, text
from whisperx_api_server.domain import Samples

SCRIPTS = REPOSITORY / "tests" / "clients"
INSTALLED = REPOSITORY / "build" / "clients"
PYTHON_CLIENTS = ("openai_0", "openai_1", "litellm_sdk", "livekit_stt", "pipecat_stt")
UV = Path(sys.executable).with_name("uv")

NODE_CLIENTS = {
    "ai-6": {"ai": "6.0.326", "@ai-sdk/openai": "3.0.141"},
    "ai-7": {"ai": "7.0.173", "@ai-sdk/openai": "4.0.118"},
}


def install(directory: Path, pins: str, wanted: str, *commands: Sequence[str | Path]) -> None:
    """Run the commands that install what the file `pins` lists, once for each content of it."""
    stamp = directory / "installed.txt"
    with locked(directory):
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / pins).write_text(wanted)
        for command in commands:
            ran = subprocess.run(
                command, cwd=directory, capture_output=True, text=True, timeout=240, check=False
            )
            if ran.returncode:
                pytest.skip(
                    f"{directory.name} cannot be installed here: {ran.stderr.strip()[:300]}"
                )
        stamp.write_text(wanted)


def python_with(client: str, python: str | Path = sys.executable) -> Path:
    """The interpreter of the client's environment."""
    if not UV.exists():
        pytest.skip("uv is not beside this interpreter: make install puts it there")
    pins = "requirements.txt"
    directory = INSTALLED / client
    there = directory / "venv" / "bin" / "python"
    install(
        directory,
        pins,
        (SCRIPTS / f"{client}.txt").read_text(),
        [UV, "venv", "--quiet", "--python", python, "venv"],
        [UV, "pip", "install", "--quiet", "--no-deps", "--python", there, "--requirement", pins],
    )
    return there


def check(server: Server, directory: Path, *command: str | Path, cwd: Path | None = None) -> None:
    """Run a client's script with what it is to hear; it exits with 0 if all is right."""
    run(server, directory, sentences(2), *command, cwd=cwd, text=text(2))


def run(
    server: Server,
    directory: Path,
    content: bytes,
    *command: str | Path,
    cwd: Path | None = None,
    **given: object,
) -> str:
    """What a client's script prints, after a check that it succeeds."""
    audio = directory / "audio.wav"
    audio.write_bytes(content)
    given |= {"url": server.url, "audio": str(audio)}
    ran = subprocess.run(
        command,
        cwd=cwd or directory,
        env={name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        | {"GIVEN": json.dumps(given), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("client", PYTHON_CLIENTS)
def test_python_client(fake_server: Server, tmp_path: Path, client: str) -> None:
    check(fake_server, tmp_path, python_with(client), SCRIPTS / f"{client}.py")


@pytest.mark.parametrize(("client", "turns"), [("livekit", 2), ("pipecat", 1)])
def test_live_client(
    base_server: Server, tmp_path: Path, opening: Samples, client: str, turns: int
) -> None:
    """A recording, sent faster than time; LiveKit asks for turns that end after 0.35 s."""
    content = wav(np.concatenate([opening, silence(1)]))
    script = SCRIPTS / f"{client}_live.py"
    heard = run(base_server, tmp_path, content, python_with(f"{client}_stt"), script, turns=turns)

    errors, words = word_errors(OPENING, json.loads(heard.splitlines()[-1]))
    assert errors <= 0.1 * words, heard


def test_wyoming_bridge(base_server: Server, tmp_path: Path, opening: Samples) -> None:
    python = next(filter(None, map(usable, ("python3.12", "python3.13"))), None)
    if python is None:
        pytest.skip("wyoming-openai needs Python 3.12")
    interpreter = python_with("wyoming_bridge", python)
    heard = run(base_server, tmp_path, wav(opening), interpreter, SCRIPTS / "wyoming_bridge.py")

    texts = json.loads(heard.splitlines()[-1])
    assert set(texts) == {"whisper-1", "gpt-4o-transcribe", "gpt-live-transcribe"}
    for said in texts.values():
        errors, words = word_errors(OPENING, said)
        assert errors <= 0.1 * words, heard


def usable(name: str) -> str | None:
    """An interpreter of that name that runs; those of pyenv need not be on the path."""
    installed = sorted(str(each) for each in Path.home().glob(".pyenv/versions/*/bin"))
    for directory in (*os.get_exec_path(), *installed):
        found = shutil.which(name, path=directory)
        if found and not subprocess.run([found, "--version"], capture_output=True).returncode:
            return found
    return None


@pytest.mark.parametrize("client", NODE_CLIENTS)
def test_node_client(fake_server: Server, tmp_path: Path, client: str) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    directory = INSTALLED / client
    package = {"private": True, "type": "module", "dependencies": NODE_CLIENTS[client]}
    install(
        directory,
        "package.json",
        json.dumps(package),
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
    )
    shutil.copy(SCRIPTS / "ai.mjs", directory)
    check(fake_server, tmp_path, "node", "--test", "ai.mjs", cwd=directory)
