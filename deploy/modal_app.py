"""The server on Modal, as Reflector's GPU deployment.

    modal secret create reflector-gpu REFLECTOR_APIKEY=... HF_TOKEN=...  # the latter to diarize
    modal deploy deploy/modal_app.py

Two targets serve the same application: `Live` on an A10G for many short recordings at once, and
`File` on an L40S for long ones. Each has its own URL, scales on its own and keeps its models on
one volume. Each container keeps its own jobs, and a request may reach any container: do not send
`async=true` here, unless a target is deployed with `max_containers=1`. Settings are those of the
server (`.env.example`); the ones below are the deployment's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import modal

if TYPE_CHECKING:
    from fastapi import FastAPI

APP_NAME = "reflector-gpu"
MODELS = "/models"
MINUTES = 60

# In the container this file is alone; the project is then already in the image.
PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "/package"
EXTRAS = "cuda,parakeet,text"
BUILT_FROM = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")

SITE_PACKAGES = "/usr/local/lib/python3.11/site-packages"

SETTINGS: Mapping[str, str] = {
    "HF_HOME": MODELS,
    "TORCH_HOME": f"{MODELS}/torch",
    # CTranslate2 and torch share a process: both must load the one cuDNN that torch was built with
    "LD_LIBRARY_PATH": f"{SITE_PACKAGES}/nvidia/cudnn/lib:{SITE_PACKAGES}/nvidia/cublas/lib",
    "PARAKEET__PRELOAD": "true",
    # the container itself is what goes when idle
    "POOL__TTL": "-1",
}


def server_image() -> modal.Image:
    """Debian with this package; ffmpeg and CUDA's libraries come with the packages it needs."""
    image = modal.Image.debian_slim(python_version="3.11")
    for name in BUILT_FROM:
        image = image.add_local_file(PROJECT / name, f"{PACKAGE}/{name}", copy=True)
    return (
        image.add_local_dir(PROJECT / "src", f"{PACKAGE}/src", copy=True, ignore=["**/__pycache__"])
        .uv_pip_install(
            f"whisperx-api-server[{EXTRAS}] @ file://{PACKAGE}",
            extra_options=f"--constraints {PACKAGE}/constraints.txt",
        )
        .env(dict(SETTINGS))
    )


app = modal.App(APP_NAME)
image = server_image()
models = modal.Volume.from_name(f"{APP_NAME}-models", create_if_missing=True)
secret = modal.Secret.from_name(APP_NAME, required_keys=["REFLECTOR_APIKEY"])


def server(environment: Mapping[str, str]) -> FastAPI:
    """The application under the settings in `environment`, its key Reflector's."""
    from pydantic import SecretStr

    from whisperx_api_server.config import load_settings
    from whisperx_api_server.main import create_app

    key = SecretStr(environment["REFLECTOR_APIKEY"])
    return create_app(load_settings().model_copy(update={"api_key": key}))


@app.cls(
    image=image,
    gpu="A10G",
    volumes={MODELS: models},
    secrets=[secret],
    timeout=15 * MINUTES,
    startup_timeout=10 * MINUTES,
    scaledown_window=5 * MINUTES,
)
@modal.concurrent(max_inputs=64, target_inputs=48)
class Live:
    """Many short recordings at once: they share batches, so one GPU takes dozens of callers."""

    @modal.asgi_app(label="reflector-live")
    def serve(self) -> FastAPI:
        """The server."""
        return server(os.environ)


@app.cls(
    image=image,
    gpu="L40S",
    volumes={MODELS: models},
    secrets=[secret],
    timeout=120 * MINUTES,
    startup_timeout=10 * MINUTES,
    scaledown_window=5 * MINUTES,
)
@modal.concurrent(max_inputs=8, target_inputs=4)
class File:
    """Long recordings: few at a time, on a GPU with the memory for large batches."""

    @modal.asgi_app(label="reflector-file")
    def serve(self) -> FastAPI:
        """The server."""
        return server(os.environ)
