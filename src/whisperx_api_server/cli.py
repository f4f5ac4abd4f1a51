"""The command line: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from .config import ConfigurationError, load_settings
from .keys import KeyFileError

app = typer.Typer(
    name="whisperx-api-server",
    help="Speech to transcripts behind OpenAI's audio API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Speech to transcripts behind OpenAI's audio API."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
) -> None:
    """Serve the API until interrupted. Settings come from the environment and `.env`."""
    from .errors import ServiceError
    from .main import create_app
    from .serving import Server

    try:
        settings = load_settings()
        application = create_app(settings)
    except (ConfigurationError, KeyFileError, ServiceError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    server = Server(application, host=host, port=port, grace=settings.shutdown_grace)
    server.run()
    if not server.started:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
