"""`worker`: computes the requests of API servers with MODE=kafka."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from .serve import run_server

if TYPE_CHECKING:
    from ..config import Settings
    from ..serving import Server


def worker(
    host: Annotated[
        str, typer.Option(help="Address to listen on for /healthcheck, /ready and /metrics.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; default: WORKER__PORT.", min=1, max=65535),
    ] = None,
) -> None:
    """Compute the requests of API servers that run with MODE=kafka, until interrupted.

    Any number of workers share the queue, each on a machine or GPU of its own. After the first
    interrupt, a worker has SHUTDOWN_GRACE seconds to finish its runs, and returns the others to the
    queue.

    Examples:

        whisperx-api-server worker
        KAFKA__BOOTSTRAP_SERVERS=kafka-1:9092,kafka-2:9092 whisperx-api-server worker
    """
    from ..serving import Server, check_cluster
    from ..wiring import on_free_gpu
    from ..worker_app import create_worker

    with ExitStack() as stack:

        def build(settings: Settings) -> Server:
            settings = stack.enter_context(on_free_gpu(settings))
            application = create_worker(settings)
            check_cluster(settings)
            chosen = port or settings.worker.port
            return Server(application, host=host, port=chosen, grace=settings.shutdown_grace)

        run_server(build)
