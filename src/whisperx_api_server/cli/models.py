"""`models`: lists, loads and unloads models of a running server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import typer

from .calls import HERE, ApiKey, Url, call
from .console import print_table

app = typer.Typer(
    no_args_is_help=True,
    help="""List, load and unload models of a running server.

    Models load at their first request and are unloaded when idle; loading them before avoids
    the wait.

    Examples:

        whisperx-api-server models list
        whisperx-api-server models load large-v3-turbo
        whisperx-api-server models load de --stage alignment --url http://gpu-box:8000
    """,
)

Stage = Literal["transcription", "alignment", "diarization"]

PATHS: Mapping[Stage, str] = {
    "transcription": "/models",
    "alignment": "/align_models",
    "diarization": "/diarize_models",
}

COLUMNS = ("stage", "model", "language", "backend", "device", "state", "requests", "memory")

OfStage = Annotated[Stage, typer.Option("--stage", "-s", help="Stage of the model.")]
Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="A published Whisper size or Parakeet, or a model that the server's settings name; a "
        "language code with --stage alignment; omitted with --stage diarization.",
        show_default=False,
    ),
]


@app.command("list")
def list_models(
    url: Url = HERE,
    api_key: ApiKey = None,
    stage: Annotated[
        Stage | None,
        typer.Option("--stage", "-s", help="List only this stage.", show_default=False),
    ] = None,
) -> None:
    """List the loaded models."""
    print_table(
        COLUMNS,
        [
            {**model, "stage": each, "memory": _size(model["memory_bytes"])}
            for each in ([stage] if stage else PATHS)
            for model in call("GET", f"{PATHS[each]}/list", url, api_key).json()["models"]
        ],
    )


@app.command()
def load(
    name: Name = None, url: Url = HERE, api_key: ApiKey = None, stage: OfStage = "transcription"
) -> None:
    """Load a model before its first request."""
    call("POST", f"{PATHS[stage]}/load", url, api_key, params=_named(name, stage))


@app.command()
def unload(
    name: Name = None, url: Url = HERE, api_key: ApiKey = None, stage: OfStage = "transcription"
) -> None:
    """Unload a model, unless requests use it."""
    call("POST", f"{PATHS[stage]}/unload", url, api_key, params=_named(name, stage))


def _named(name: str | None, stage: Stage) -> dict[str, str]:
    if name is None:
        return {}
    return {"language" if stage == "alignment" else "model": name}


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
