"""`serve`: runs the API server until interrupted."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import USAGE, fail


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
    from ..config import ConfigurationError, load_settings
    from ..distributed.protocols import ClusterError
    from ..errors import ServiceError
    from ..jobs.store import JobDirectoryError
    from ..keys import KeyFileError
    from ..logging_setup import configure_logging
    from ..main import create_app
    from ..serving import Server, check_cluster

    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        application = create_app(settings, port=port)
        if settings.mode == "kafka":
            check_cluster(settings)
        else:
            application.state.job_store.claim()
    except (
        ClusterError,
        ConfigurationError,
        JobDirectoryError,
        KeyFileError,
        ServiceError,
    ) as error:
        fail(str(error), USAGE)
    server = Server(application, host=host, port=port, grace=settings.shutdown_grace)
    server.run()
    if not server.started:
        raise typer.Exit(1)
