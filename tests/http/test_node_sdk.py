"""The official Node SDK against the running server: tests/node/sdk.mjs says what it must do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gated import Gate
from real_speech import OPENING
from realtime import pcm_24k
from server import REPOSITORY, Server
from support import wav, word_errors
from tones import reference, sentences, text
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.audio.urls import UrlFetcher, UrlFetchSettings
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.domain import Samples
from whisperx_api_server.jobs.webhooks import Webhooks

SOURCES = REPOSITORY / "tests" / "node"
INSTALLED = REPOSITORY / "build" / "node-sdk"
SECRET = "whsec_c29tZXRoaW5nIHRoYXQgbm9ib2R5IGtub3dz"


@pytest.fixture(scope="module")
def sdk() -> Path:
    """Where the SDK is installed, once for each version that package.json pins."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "sdk.mjs"):
        shutil.copy(SOURCES / name, INSTALLED / name)
    wanted = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    packages = {name: INSTALLED / "node_modules" / name / "package.json" for name in wanted}
    if any(
        not found.exists() or json.loads(found.read_text())["version"] != wanted[name]
        for name, found in packages.items()
    ):
        installing = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=INSTALLED,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if installing.returncode:
            pytest.skip(f"npm cannot install the SDK here: {installing.stderr.strip()[:200]}")
    return INSTALLED


def certificate(directory: Path) -> dict[str, str]:
    """A key and its self-signed certificate: the SDK connects live sessions with TLS only."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, cert = directory / "key.pem", directory / "cert.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", *request, "-keyout", key, "-out", cert], capture_output=True, check=True
    )
    return {"key": str(key), "cert": str(cert)}


def test_the_node_sdk(
    fake_server: Server, base_server: Server, sdk: Path, tmp_path: Path, opening: Samples
) -> None:
    audio = {
        "red": wav(say("red house")),
        "rouge": wav(say("rouge maison", language="fr")),
        "three": sentences(3),
        "dialogue": sentences(3, speakers=2),
        "long": sentences(14),
    }
    for name, content in audio.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    pcm = tmp_path / "turn.pcm"
    pcm.write_bytes(pcm_24k(np.concatenate([opening, silence(1)])))
    heard = tmp_path / "heard.txt"
    gate = Gate(tmp_path / "gate")
    gate.allow(0)
    settings = gate.settings() | {"API_KEY": "secret", "LIMITS__QUEUE_SECONDS": "10"}
    webhooks = Webhooks(
        UrlFetcher(
            UrlFetchSettings(timeout=1), uploads=DiskBlobStore(workdir=tmp_path, max_bytes=1)
        ),
        secret=SECRET,
    )
    body = json.dumps({"type": "transcription.completed", "data": {"text": "é"}}).encode()
    (tmp_path / "body.json").write_bytes(body)

    with Server(tmp_path / "strict", settings) as strict:
        given = {
            "url": fake_server.url,
            "strictUrl": strict.url,
            "baseUrl": base_server.url,
            "gate": str(gate.directory),
            "audio": {name: str(tmp_path / f"{name}.wav") for name in audio} | {"pcm": str(pcm)},
            "tls": certificate(tmp_path),
            "heard": str(heard),
            "text": {"three": text(3), "long": text(14)},
            "references": [reference(1), reference(0)],
            "webhook": {
                "secret": SECRET,
                "body": str(tmp_path / "body.json"),
                "headers": webhooks.headers("evt_1", body),
            },
        }
        (tmp_path / "given.json").write_text(json.dumps(given))
        ran = subprocess.run(
            ["node", "--test", "--test-reporter=tap", "sdk.mjs"],
            cwd=sdk,
            env=os.environ | {"SDK_TEST": str(tmp_path / "given.json")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        gate.allow()

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout
    assert "# skipped 0" in ran.stdout
    wrong, words = word_errors(OPENING, heard.read_text())
    assert wrong <= 0.1 * words, heard.read_text()
