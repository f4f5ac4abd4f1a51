"""The application: `create_app` builds the FastAPI app and its services from the settings."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from . import __version__
from .active_requests import ActiveRequests
from .answers.common import Configuration
from .audio.uploads import BlobStore, DiskBlobStore
from .audio.urls import UrlFetcher
from .backends import ModelKey, ask, find_backend
from .background import running
from .catalog import Catalog
from .config import Settings, load_settings
from .distributed.cluster import ClusterOpener, open_cluster
from .distributed.replica import Replica
from .distributed.text import ClusterText
from .jobs.admission import AdmissionControl, AdmittedRunner
from .jobs.service import TranscriptionService
from .jobs.store import DiskJobStore, JobStore, default_directory
from .keys import KeyRing
from .live.secrets import ClientSecrets
from .loop_lag import LoopLag
from .routers import asr, jobs, models, realtime, reflector, system, transcriptions
from .routers.access import RequestLog, RequestTrace
from .routers.deps import Services
from .routers.errors import RequestContext, install_error_handlers
from .routers.openapi import DescribedApi
from .routers.page import install_pages
from .scheduling.model_pool import ModelPool
from .telemetry.services import MeasuredLiveSessions, MeasuredWebhooks
from .telemetry.state import ServerState
from .telemetry.telemetry import Telemetry
from .text_service import TextService
from .wiring import (
    LAST_BATCH,
    build_catalog,
    build_pool,
    build_replica,
    build_runner,
    build_telemetry,
    form_defaults,
    preload,
    preloaded_models,
    secret,
)

ROUTERS = (
    *(system.router, transcriptions.router, jobs.router, models.router),
    *(realtime.router, reflector.router, reflector.prefixed, asr.router),
)


def create_app(
    settings: Settings | None = None,
    *,
    port: int | None = None,
    cluster: ClusterOpener | None = None,
    telemetry: Telemetry | None = None,
) -> FastAPI:
    """The application; without settings, from the environment (uvicorn's `--factory`).

    Servers on several ports keep their jobs apart by `port`, where no setting says where. In
    MODE=kafka, `cluster` connects this process; by default to the cluster that the settings name.
    `telemetry` observe it; by default those of the settings.

    Raises:
        ConfigurationError: one line that names what is wrong.
    """
    settings = settings or load_settings()
    keys = KeyRing(api_key=secret(settings.api_key), file=settings.api_keys_file)
    catalog = build_catalog(settings)
    preloaded: Sequence[ModelKey] = ()
    if settings.mode == "direct":
        catalog.check_backends()  # one that does not exist stops the start, not the first request
        preloaded = preloaded_models(settings, catalog)
    job_store = DiskJobStore(settings.jobs.directory or default_directory(os.environ, port))
    cluster = cluster or partial(open_cluster, settings.kafka, settings.s3, settings.jobs.max_age)
    telemetry = telemetry or build_telemetry(settings)
    app = DescribedApi(
        title="whisperx-api-server",
        version=__version__,
        summary="Speech to transcripts behind OpenAI's audio API.",
        docs_url=None,
        redoc_url=None,
        lifespan=lambda app: _running(
            app, settings, catalog, keys, job_store, preloaded, cluster, telemetry
        ),
    )
    app.state.job_store = job_store
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    install_pages(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    app.add_middleware(RequestLog, metrics=telemetry.metrics)
    if telemetry.tracing is not None:
        app.add_middleware(RequestTrace, tracing=telemetry.tracing)
    app.add_middleware(RequestContext)
    return app


@asynccontextmanager
async def _running(
    app: FastAPI,
    settings: Settings,
    catalog: Catalog,
    keys: KeyRing,
    job_store: JobStore,
    preloaded: Sequence[ModelKey],
    cluster: ClusterOpener,
    telemetry: Telemetry,
) -> AsyncIterator[None]:
    """Run the services; at the end, drain them and delete all temporary files."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(telemetry.close)
        workdir = Path(tempfile.mkdtemp(prefix="whisperx-api-server-"))
        stack.push_async_callback(asyncio.to_thread, shutil.rmtree, workdir, ignore_errors=True)
        replica = None
        if settings.mode == "kafka":
            opened = await stack.enter_async_context(cluster())
            replica = build_replica(settings, opened, workdir)
            await stack.enter_async_context(replica.taking_part())
        services = build_services(settings, catalog, keys, job_store, workdir, replica, telemetry)
        stack.enter_context(telemetry.metrics.reading(_state(services, replica)))
        app.state.services, app.state.drain = services, services.active.drain
        stack.push_async_callback(services.pool.close, LAST_BATCH)
        await services.service.start()
        stack.push_async_callback(services.service.close)
        if replica is not None:
            await stack.enter_async_context(replica.adopting_jobs(services.service))
        background = running(
            services.loop_lag.watch(),
            services.pool.sweep_forever(),
            _preload(preloaded, services),
        )
        await stack.enter_async_context(background)
        stack.push_async_callback(services.active.drain, settings.shutdown_grace)
        yield


def build_services(
    settings: Settings,
    catalog: Catalog,
    keys: KeyRing,
    job_store: JobStore,
    workdir: Path,
    replica: Replica | None,
    telemetry: Telemetry,
) -> Services:
    """The objects behind the routes; `workdir` is a private directory for uploads and audio."""
    limits = settings.limits
    active = ActiveRequests()
    admission = AdmissionControl(limits.queue_seconds) if replica is None else replica.admission
    metrics, pool = telemetry.metrics, build_pool(settings, telemetry.observe)
    uploads: BlobStore = (
        DiskBlobStore(workdir=workdir, max_bytes=limits.upload_bytes)
        if replica is None
        else replica.uploads
    )
    fetcher = UrlFetcher(settings.url_fetch, uploads=uploads)
    runner = (
        build_runner(settings, catalog, pool, admission, fetcher, uploads, workdir)
        if replica is None
        else AdmittedRunner(replica.runner, admission, timeout=limits.request_timeout)
    )
    return Services(
        service=TranscriptionService(
            telemetry.runner(runner),
            active=active,
            admission=admission,
            blobs=uploads,
            store=job_store if replica is None else replica.jobs,
            shared=None if replica is None else replica.jobs,
            webhooks=_webhooks(settings, fetcher, telemetry),
            settings=settings.jobs,
        ),
        live=_live_sessions(settings, catalog, active, pool, telemetry),
        text=TextService(active=active, pool=pool, catalog=catalog, timeout=limits.request_timeout)
        if replica is None
        else ClusterText(replica.runner, active),
        active=active,
        pool=pool,
        models=pool if replica is None else replica.models,
        members=None if replica is None else replica.members,
        check_cluster=None if replica is None else replica.check_ready,
        admission=admission,
        catalog=catalog,
        keys=keys,
        allowed_origins=settings.allowed_origins,
        client_secrets=ClientSecrets(keys),
        uploads=uploads,
        defaults=form_defaults(settings, catalog),
        preloaded=asyncio.Event(),
        loop_lag=LoopLag(metrics.loop_lag.observe),
        metrics=metrics,
        metrics_need_key=settings.metrics == "key",
        configuration=_describe(settings, catalog),
    )


def _webhooks(settings: Settings, fetcher: UrlFetcher, telemetry: Telemetry) -> MeasuredWebhooks:
    return MeasuredWebhooks(
        telemetry.metrics,
        fetcher,
        secret=secret(settings.webhook_secret),
        extra_headers=telemetry.trace_headers,
    )


def _live_sessions(
    settings: Settings,
    catalog: Catalog,
    active: ActiveRequests,
    pool: ModelPool,
    telemetry: Telemetry,
) -> MeasuredLiveSessions:
    return MeasuredLiveSessions(
        telemetry,
        settings.realtime,
        enabled=settings.mode == "direct",
        active=active,
        pool=pool,
        catalog=catalog,
        defaults=form_defaults(settings, catalog),
    )


def _state(services: Services, replica: Replica | None) -> ServerState:
    return ServerState(
        pool=services.pool,
        admission=services.admission,
        active=lambda: services.active.count,
        jobs=services.service.job_states,
        live_sessions=lambda: services.live.count,
        workers=None if replica is None else lambda: len(replica.members.workers()),
    )


async def _preload(keys: Sequence[ModelKey], services: Services) -> None:
    await preload(keys, services.pool)
    services.preloaded.set()


def _describe(settings: Settings, catalog: Catalog) -> Configuration:
    engine = find_backend(catalog.transcription, "transcription")
    computes = settings.mode == "direct"
    return {
        "version": __version__,
        "mode": settings.mode,
        "device": catalog.shared.device,
        "backends": {
            "transcription": catalog.transcription,
            "alignment": catalog.alignment,
            "diarization": catalog.diarization,
            "vad": catalog.voice_detector().backend,
        },
        "engine": dict(ask(engine, "engine_info") or {}) if computes else {},
        "default_model": catalog.default_model,
        "limits": settings.limits.model_dump(),
    }
