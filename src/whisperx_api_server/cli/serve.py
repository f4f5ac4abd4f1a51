"""`serve`: runs the API server until interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from .console import FAILED, USAGE, fail

if TYPE_CHECKING:
    from ..config import Settings
    from ..serving import Server


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 listens on all interfaces.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
) -> None:
    """Run the API server until interrupted.

    Settings come from the environment and `.env`. After the first interrupt, accepted requests
    complete; the second stops the server at once.

    Examples:

        whisperx-api-server serve
        API_KEY=secret WHISPER__MODEL=small whisperx-api-server serve --host 0.0.0.0 --port 9000
    """
    from ..main import create_app
    from ..serving import Server, check_cluster

    def build(settings: Settings) -> Server:
        application = create_app(settings, port=port)
        if settings.mode == "kafka":
            check_cluster(settings)
        else:
            application.state.job_store.claim()
        return Server(application, host=host, port=port, grace=settings.shutdown_grace)

    run_server(build)


def run_server(build: Callable[[Settings], Server]) -> None:
    """Run the server that `build` makes from the settings, until interrupted."""
    from ..config import load_settings
    from ..errors import ConfigurationError, ServiceError
    from ..logging_setup import configure_logging

    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        server = build(settings)
    except (ConfigurationError, ServiceError) as error:
        fail(str(error), USAGE)
    server.run()
    if not server.started:
        raise typer.Exit(FAILED)
