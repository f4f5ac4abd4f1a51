"""`worker`: computes the requests of API servers with MODE=kafka."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import USAGE, fail


def worker(
    host: Annotated[str, typer.Option(help="Address of /healthcheck and /ready.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Their port; by default WORKER__PORT.", min=1, max=65535),
    ] = None,
) -> None:
    """Compute the requests of API servers that run with MODE=kafka, until interrupted.

    Any number of workers share the queue, each on a machine or GPU of its own. After the first
    interrupt a worker finishes what it has within SHUTDOWN_GRACE seconds, and hands the rest on.

    Examples:

        whisperx-api-server worker
        KAFKA__BOOTSTRAP_SERVERS=kafka-1:9092,kafka-2:9092 whisperx-api-server worker
    """
    from ..config import ConfigurationError, load_settings
    from ..distributed.protocols import ClusterError
    from ..errors import ServiceError
    from ..logging_setup import configure_logging
    from ..serving import Server, check_cluster
    from ..worker_app import create_worker

    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        application = create_worker(settings)
        check_cluster(settings)
    except (ClusterError, ConfigurationError, ServiceError) as error:
        fail(str(error), USAGE)
    server = Server(
        application,
        host=host,
        port=port or settings.worker.port,
        grace=settings.shutdown_grace,
    )
    server.run()
    if not server.started:
        raise typer.Exit(1)
