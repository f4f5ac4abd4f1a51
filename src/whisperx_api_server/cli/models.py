"""`models`: lists, loads and unloads models of a running server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from .console import fail

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

Url = Annotated[str, typer.Option(metavar="URL", help="URL of the server.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar="API_KEY", metavar="KEY", help="API key of the server.")
]
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
HERE = "http://127.0.0.1:8000"


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
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for each in [stage] if stage else list(PATHS):
        for model in _call("GET", f"{PATHS[each]}/list", url, api_key)["models"]:
            shown = {**model, "stage": each, "memory": _size(model["memory_bytes"])}
            table.add_row(*(str(shown.get(column, "")) for column in COLUMNS))
    # A pipe has no width; its lines must not wrap.
    Console(width=None if sys.stdout.isatty() else 300, markup=False).print(table)


@app.command()
def load(
    name: Name = None, url: Url = HERE, api_key: ApiKey = None, stage: OfStage = "transcription"
) -> None:
    """Load a model before its first request."""
    _call("POST", f"{PATHS[stage]}/load", url, api_key, params=_named(name, stage))


@app.command()
def unload(
    name: Name = None, url: Url = HERE, api_key: ApiKey = None, stage: OfStage = "transcription"
) -> None:
    """Unload a model, unless requests use it."""
    _call("POST", f"{PATHS[stage]}/unload", url, api_key, params=_named(name, stage))


def _named(name: str | None, stage: Stage) -> dict[str, str]:
    if name is None:
        return {}
    return {"language" if stage == "alignment" else "model": name}


def _call(method: str, path: str, url: str, api_key: str | None, **content: Any) -> dict[str, Any]:
    from .remote import ServerError, connect

    async def call() -> dict[str, Any]:
        async with connect(url, api_key) as server:
            answer: dict[str, Any] = (await server.send(method, path, **content)).json()
            return answer

    try:
        return asyncio.run(call())
    except ServerError as error:
        fail(str(error))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
