"""`listen`: plays a recording into a live session of a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from .calls import HERE, ApiKey, Url
from .console import FAILED, fail

STANDARD_INPUT = Path("-")

Rate = Literal["8000", "16000", "24000"]


def listen(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|-",
            help="A recording in any container or codec, or - for raw PCM (16-bit little-endian "
            "mono) on standard input.",
            show_default=False,
        ),
    ],
    url: Url = HERE,
    api_key: ApiKey = None,
    rate: Annotated[
        Rate, typer.Option(metavar="HZ", help="Sample rate of standard input.")
    ] = "16000",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Default: the configured model."),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            *("--language", "-l"),
            metavar="CODE",
            help="ISO-639-1 code of the spoken language; default: detected.",
        ),
    ] = None,
) -> None:
    """Transcribe speech live, at its own pace, on a running server.

    The text is printed as it becomes certain, one line for each turn.

    Examples:

        whisperx-api-server listen talk.mp3
        arecord -q -t raw -f S16_LE -r 16000 -c 1 | whisperx-api-server listen -
    """
    from .live_session import LiveError, play

    try:
        complete = asyncio.run(
            play(
                None if file == STANDARD_INPUT else file,
                url=url,
                api_key=api_key,
                rate=int(rate),
                transcription={"model": model, "language": language},
                show=lambda text: typer.echo(text, nl=False),
                warn=lambda text: typer.echo(f"error: {text}", err=True),
            )
        )
    except LiveError as error:
        fail(str(error))
    if not complete:
        raise typer.Exit(FAILED)
