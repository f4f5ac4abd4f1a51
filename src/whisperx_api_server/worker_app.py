"""The process of a worker: `create_worker` builds its application, which has three routes."""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from .backends import ModelKey
from .background import running
from .catalog import Catalog
from .config import Settings
from .distributed.cluster import ClusterOpener, member_name, open_cluster
from .distributed.disk import PAUSE
from .distributed.heartbeats import Membership
from .distributed.members import Members
from .distributed.readiness import ClusterCheck
from .distributed.worker import Worker
from .errors import Unavailable
from .jobs.admission import AdmissionControl
from .loop_lag import LoopLag
from .routers import worker as routes
from .routers.errors import RequestContext, install_error_handlers
from .telemetry.state import ServerState
from .telemetry.telemetry import Telemetry
from .wiring import (
    LAST_BATCH,
    build_catalog,
    build_pool,
    build_telemetry,
    build_worker,
    preload,
    preloaded_models,
)

logger = logging.getLogger(__name__)


def create_worker(
    settings: Settings,
    *,
    cluster: ClusterOpener | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """The application of a worker; `cluster` connects it, by default as the settings say.

    Raises:
        ConfigurationError: one line that names what is wrong.
    """
    catalog = build_catalog(settings)
    catalog.check_backends()
    preloaded = preloaded_models(settings, catalog)
    telemetry = telemetry or build_telemetry(settings)
    opener = cluster or partial(open_cluster, settings.kafka, settings.s3)
    app = FastAPI(
        title="whisperx-api-server worker",
        openapi_url=None,
        lifespan=lambda app: _running(app, settings, catalog, preloaded, opener, telemetry),
    )
    install_error_handlers(app)
    app.include_router(routes.router)
    app.add_middleware(RequestContext)
    return app


@asynccontextmanager
async def _running(
    app: FastAPI,
    settings: Settings,
    catalog: Catalog,
    preloaded: Sequence[ModelKey],
    cluster: ClusterOpener,
    telemetry: Telemetry,
) -> AsyncIterator[None]:
    """Take runs; at the end, hand on those that are not finished."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(telemetry.close)
        workdir = Path(tempfile.mkdtemp(prefix="whisperx-api-server-"))
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, workdir, ignore_errors=True)
        opened = await stack.enter_async_context(cluster())
        metrics, admission = telemetry.metrics, AdmissionControl(math.inf)
        pool = build_pool(settings, telemetry.observe)
        stack.push_async_callback(pool.close, LAST_BATCH)
        name, members = member_name(), Members()
        worker = build_worker(
            settings,
            catalog,
            pool,
            opened,
            workdir,
            name=name,
            members=members,
            admission=admission,
            telemetry=telemetry,
        )
        stack.enter_context(
            metrics.reading(
                ServerState(
                    pool=pool,
                    admission=admission,
                    active=lambda: worker.runs,
                    workers=lambda: len(members.workers()),
                )
            )
        )
        membership = Membership(name, "worker", log=opened.log, members=members)
        load, ready = partial(preload, preloaded, pool), asyncio.Event()
        app.state.metrics, app.state.drain = metrics, worker.drain
        reachable = ClusterCheck(name, members=members, bucket=opened.bucket)
        app.state.check_ready = partial(_check_ready, ready, worker, reachable)
        background = running(
            LoopLag(metrics.loop_lag.observe).watch(),
            pool.sweep_forever(),
            _work(worker, membership, load, ready),
        )
        await stack.enter_async_context(background)
        stack.push_async_callback(worker.drain, settings.shutdown_grace)
        yield


async def _work(
    worker: Worker,
    membership: Membership,
    load: Callable[[], Awaitable[None]],
    ready: asyncio.Event,
) -> None:
    """Take runs after `load`; a failure ends the process."""
    try:
        async with asyncio.TaskGroup() as group:
            taking_part = group.create_task(membership.take_part(worker))
            await load()
            await membership.joined()
            ready.set()
            await worker.work()
            taking_part.cancel()
    except Exception:  # the worker takes no runs now: let the supervisor restart it
        logger.exception("the worker failed")
        signal.raise_signal(signal.SIGTERM)


async def _check_ready(ready: asyncio.Event, worker: Worker, reachable: ClusterCheck) -> None:
    """Raise `Unavailable` unless the worker takes runs and reaches broker and bucket."""
    if not ready.is_set() or worker.draining:
        raise Unavailable(
            "the worker is not accepting runs: it is starting or draining", retry_after=5
        )
    if worker.disk_full:
        raise Unavailable("the worker is not accepting runs: its disk is full", retry_after=PAUSE)
    await reachable()
