"""The command line: serve, worker, transcribe, listen, jobs, models, mcp, doctor.

Commands import their modules when they run, so that `--help` is fast.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..allocator import keep_freed_memory
from .doctor import doctor
from .jobs import app as jobs
from .listen import listen
from .mcp import mcp
from .models import app as models
from .serve import serve
from .transcribe import transcribe
from .worker import worker

app = typer.Typer(
    name="whisperx-api-server",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(worker)
app.command(no_args_is_help=True)(transcribe)
app.add_typer(jobs, name="jobs")
app.command(no_args_is_help=True)(listen)
app.add_typer(models, name="models")
app.command()(mcp)
app.command()(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"whisperx-api-server {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[  # noqa: ARG001 - its callback shows it
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Transcribe speech, with a server for OpenAI's audio API or in this process.

    Settings come from the environment and `.env`. docs/settings.md lists them; `doctor` checks
    them.

    Examples:

        whisperx-api-server serve --port 8000
        whisperx-api-server transcribe talk.mp3 --format srt -o subtitles
        whisperx-api-server doctor
    """
    keep_freed_memory(os.environ)
