"""The wiring: settings in, application out. Nothing else builds objects for the server."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.cors import CORSMiddleware

from . import __version__
from .audio import AudioDecoder
from .backends import ModelKey, find_backend
from .backends.base import ModelSpec
from .backlog import Backlog
from .catalog import Catalog, configured, resolve_device, whisper_engine
from .config import ConfigurationError, Settings, load_settings
from .errors import ServiceError
from .job_store import JobStore, default_directory
from .jobs import LocalService
from .keys import KeyRing
from .loop_lag import LoopLag
from .model_pool import ModelPool, PoolPolicy
from .pipeline import Pipeline, PipelineDefaults
from .request_fields import FormDefaults
from .routers import asr, jobs, models, reflector, system, transcriptions
from .routers.deps import Services
from .routers.errors import RequestContext, install_error_handlers
from .routers.schema import DescribedApi
from .sources import SourceOpener
from .text_service import TextService
from .uploads import UploadStore
from .urls import UrlFetcher
from .webhooks import Webhooks

logger = logging.getLogger(__name__)

LAST_BATCH = 5.0
"""Seconds that a model may still compute when the server ends; a stuck one must not keep it."""


def create_app(settings: Settings | None = None, *, port: int | None = None) -> FastAPI:
    """The application; without settings, from the environment (uvicorn's `--factory`).

    Servers on several ports keep their jobs apart by `port`, where no setting says where.

    Raises:
        ConfigurationError, JobDirectoryError, KeyFileError: one line that names what is wrong.
    """
    settings = settings or load_settings()
    keys = KeyRing(api_key=_secret(settings.api_key), file=settings.api_keys_file)
    catalog = build_catalog(settings)
    catalog.check_backends()  # one that does not exist stops the start, not the first request
    preloaded = preloaded_models(settings, catalog)

    job_store = JobStore(
        settings.jobs.directory or default_directory(os.environ, port), settings.jobs
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        workdir = Path(tempfile.mkdtemp(prefix="whisperx-api-server-"))
        try:
            services = build_services(settings, catalog, keys, job_store, workdir)
            app.state.services = services
            await services.service.start()
            background = [
                asyncio.create_task(services.loop_lag.watch()),
                asyncio.create_task(services.pool.sweep_forever()),
                asyncio.create_task(_preload(preloaded, services)),
            ]
            try:
                yield
            finally:
                await services.service.drain(settings.shutdown_grace)
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                await services.service.close()
                await services.pool.close(LAST_BATCH)
        finally:
            await asyncio.to_thread(shutil.rmtree, workdir, ignore_errors=True)

    app = DescribedApi(
        title="whisperx-api-server",
        version=__version__,
        summary="Speech to transcripts behind OpenAI's audio API.",
        lifespan=lifespan,
    )
    app.state.job_store = job_store
    install_error_handlers(app)
    for router in (
        system.router,
        transcriptions.router,
        jobs.router,
        models.router,
        reflector.router,
        asr.router,
    ):
        app.include_router(router)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.allowed_origins,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    app.add_middleware(RequestContext)
    return app


def build_catalog(settings: Settings) -> Catalog:
    """The models that the settings name.

    Raises:
        NotConfigured: there is no such transcription backend.
    """
    whisper, parakeet = settings.whisper, settings.parakeet
    transcription = settings.backends.transcription
    shared = ModelSpec(
        name="",
        device=resolve_device(whisper.inference_device),
        device_index=whisper.device_index,
        threads=whisper.cpu_threads,
        download_root=whisper.download_root,
        local_files_only=whisper.local_files_only,
        hf_token=_secret(settings.hf_token),
    )

    diarizer = configured(settings.diarization.model, shared)
    pyannote_can_load = diarizer.path is not None or shared.hf_token is not None

    def each(models: Mapping[str, str]) -> dict[str, ModelSpec]:
        return {key: configured(model, shared) for key, model in models.items()}

    return Catalog(
        transcription=transcription,
        alignment=settings.backends.alignment,
        diarization=settings.backends.diarization or ("pyannote" if pyannote_can_load else "onnx"),
        voice_detection=whisper.vad_method,
        whisper=replace(
            configured(whisper.model, shared, whisper_engine(transcription)),
            compute_type=whisper.compute_type,
            max_batch=whisper.batch_size,
        ),
        parakeet=replace(
            configured(parakeet.model, shared, "parakeet"),
            device=resolve_device(parakeet.inference_device),
            compute_type=parakeet.precision,
            max_batch=parakeet.batch_size,
        ),
        diarizer_spec=diarizer,
        align_models=each(settings.alignment.models),
        translation_models=each(settings.translation.models),
        language_model_spec=configured(settings.llm.model, shared) if settings.llm.model else None,
        allowed_models=settings.models.allowed,
    )


def build_services(
    settings: Settings, catalog: Catalog, keys: KeyRing, job_store: JobStore, workdir: Path
) -> Services:
    """The objects behind the routes; `workdir` is a private directory for uploads and audio."""
    limits = settings.limits
    pool, backlog = build_pool(settings), Backlog(limits.queue_seconds)
    uploads = UploadStore(workdir=workdir, max_bytes=limits.upload_bytes)
    fetcher = build_fetcher(settings, uploads)
    pipeline = build_pipeline(settings, catalog, pool, backlog, fetcher, workdir)
    return Services(
        service=LocalService(
            pipeline,
            backlog=backlog,
            store=job_store,
            webhooks=Webhooks(fetcher, secret=_secret(settings.webhook_secret)),
            retry_window=settings.jobs.retry_window,
        ),
        text=TextService(pool=pool, catalog=catalog, timeout=limits.request_timeout),
        pool=pool,
        backlog=backlog,
        catalog=catalog,
        keys=keys,
        uploads=uploads,
        max_upload_bytes=limits.upload_bytes,
        defaults=form_defaults(settings, catalog),
        preloaded=asyncio.Event(),
        loop_lag=LoopLag(),
        info=_describe(settings, catalog),
    )


def form_defaults(settings: Settings, catalog: Catalog) -> FormDefaults:
    """What the settings say where a form says nothing."""
    return FormDefaults(
        model=catalog.default_model,
        language=settings.default_language,
        response_format=settings.default_response_format,
        beam_size=settings.whisper.beam_size,
    )


def build_pool(settings: Settings) -> ModelPool:
    """The model cache."""
    return ModelPool(
        PoolPolicy(
            ttl=settings.pool.ttl,
            memory_bytes=settings.pool.memory_bytes,
            concurrent_per_device=settings.scheduler.concurrent_per_device,
            max_wait=settings.scheduler.max_wait_ms / 1000,
        )
    )


def build_fetcher(settings: Settings, uploads: UploadStore) -> UrlFetcher:
    """What fetches and posts to the URLs that clients name."""
    return UrlFetcher(settings.url_fetch, uploads=uploads)


def build_pipeline(
    settings: Settings,
    catalog: Catalog,
    pool: ModelPool,
    backlog: Backlog,
    fetcher: UrlFetcher,
    workdir: Path,
) -> Pipeline:
    """The pipeline alone, for whoever runs it without HTTP."""
    decoder = AudioDecoder(
        max_seconds=settings.limits.audio_seconds,
        timeout=settings.limits.decode_timeout,
        workdir=workdir,
    )
    return Pipeline(
        opener=SourceOpener(decoder=decoder, fetcher=fetcher),
        pool=pool,
        catalog=catalog,
        backlog=backlog,
        defaults=PipelineDefaults(
            chunk_size=settings.whisper.chunk_size, timeout=settings.limits.request_timeout
        ),
    )


def preloaded_models(settings: Settings, catalog: Catalog) -> list[ModelKey]:
    """The models to load at start.

    Raises:
        ConfigurationError: a language has no align model.
    """
    keys = []
    if settings.whisper.preload:
        keys.append(catalog.transcriber(catalog.default_model))
    if settings.parakeet.preload:
        keys.append(catalog.transcriber(catalog.parakeet.name))
    for language in settings.alignment.preload:
        key = catalog.aligner(language)
        if key is None:
            raise ConfigurationError(
                f"ALIGNMENT__PRELOAD: there is no align model for {language!r}: "
                "name one in ALIGNMENT__MODELS"
            )
        keys.append(key)
    if settings.diarization.preload:
        keys.append(catalog.diarizer())
    if keys:
        keys.append(catalog.voice_detector())
    return keys


async def _preload(keys: Sequence[ModelKey], services: Services) -> None:
    """Load models; one that fails is logged, not fatal."""
    for key in keys:
        try:
            await services.pool.load(key)
        except ServiceError as error:
            logger.error("%s cannot be preloaded: %s", key, error.message)
    services.preloaded.set()


def _describe(settings: Settings, catalog: Catalog) -> dict[str, object]:
    engine = find_backend(catalog.transcription, "transcription")
    return {
        "version": __version__,
        "mode": settings.mode,
        "device": catalog.whisper.device,
        "backends": {
            "transcription": catalog.transcription,
            "alignment": catalog.alignment,
            "diarization": catalog.diarization,
            "vad": catalog.voice_detector().backend,
        },
        "engine": dict(engine.engine_info()) if hasattr(engine, "engine_info") else {},
        "default_model": catalog.default_model,
        "limits": settings.limits.model_dump(),
    }


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()
