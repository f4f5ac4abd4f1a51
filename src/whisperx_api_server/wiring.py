"""Builds the objects behind the server and the command line from the settings; without HTTP."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from .active_requests import ActiveRequests
from .audio.decode import AudioDecoder
from .audio.sources import SourceOpener
from .audio.uploads import DiskBlobStore, UploadReader
from .audio.urls import UrlFetcher
from .backends import BUILT_IN, ModelKey, declaration, find_backend
from .backends.base import ModelSpec
from .catalog import Catalog, configured, gpu_count, resolve_device
from .config import Settings
from .distributed.cluster import Cluster, member_name
from .distributed.disk import WorkerDisk
from .distributed.files import BucketUploads, RunFiles
from .distributed.gpus import free_gpu
from .distributed.members import Members
from .distributed.models import WorkerModels
from .distributed.replica import Replica
from .distributed.worker import Worker
from .distributed.worker_limits import prefetch_limit
from .errors import ConfigurationError, ServiceError
from .fields.transcription import FormDefaults
from .jobs.admission import MOST_OPENING, AdmissionControl, AdmittedRunner
from .model_settings import TranscriberSettings
from .pipeline.pipeline import Pipeline
from .pipeline.runner import Runner
from .scheduling.model_pool import ModelPool
from .scheduling.observation import ObserveModel, unobserved_model
from .telemetry.telemetry import Telemetry, open_tracing
from .text_service import TextService

logger = logging.getLogger(__name__)

LAST_BATCH = 5.0
"""Seconds for the models' last batches at shutdown; a stuck one must not keep the process."""


def build_catalog(settings: Settings) -> Catalog:
    """Build the catalog of the models that the settings name.

    Raises:
        NotConfigured: there is no such transcription backend.
    """
    shared = ModelSpec(
        name="",
        device=resolve_device(settings.whisper.inference_device),
        device_index=settings.whisper.device_index[0],
        threads=settings.whisper.cpu_threads,
        download_root=settings.whisper.download_root,
        local_files_only=settings.whisper.local_files_only,
        hf_token=secret(settings.hf_token),
    )
    diarizer = configured(settings.diarization.model, shared)
    pyannote_can_load = diarizer.path is not None or shared.hf_token is not None

    def each(models: Mapping[str, str]) -> dict[str, ModelSpec]:
        return {key: configured(model, shared) for key, model in models.items()}

    return Catalog(
        transcription=settings.backends.transcription,
        alignment=settings.backends.alignment,
        diarization=settings.backends.diarization or ("pyannote" if pyannote_can_load else "onnx"),
        voice_detection=settings.whisper.vad_method,
        transcribers={
            backend: replace(
                configured(section.model, shared, backend),
                device=resolve_device(section.inference_device),
                compute_type=section.precision,
                max_batch=section.batch_size,
                short_contexts=section.short_contexts,
            )
            for backend, section in transcriber_settings(settings).items()
        },
        shared=shared,
        diarizer_spec=diarizer,
        align_models=each(settings.alignment.models),
        translation_models=each(settings.translation.models),
        language_model_spec=configured(settings.llm.model, shared) if settings.llm.model else None,
        allowed_models=settings.models.allowed,
    )


def transcriber_settings(settings: Settings) -> dict[str, TranscriberSettings]:
    """Return the transcription backends for requests, each with its section of the settings.

    The configured backend has the section that it declares. Each other section is for the first
    built-in backend that declares it.

    Raises:
        NotConfigured: there is no such transcription backend.
    """
    built_in = [name for name, stages in BUILT_IN.items() if "transcription" in stages]
    backends: dict[str, str] = {}
    for name in (settings.backends.transcription, *built_in):
        declared = declaration(find_backend(name, "transcription"), "transcription")
        backends.setdefault(declared.settings, name)
    return {
        backends[name]: section
        for name, section in settings
        if isinstance(section, TranscriberSettings)
    }


def form_defaults(settings: Settings, catalog: Catalog) -> FormDefaults:
    """Return the defaults for fields that the client did not send."""
    return FormDefaults(
        model=catalog.default_model,
        language=settings.default_language,
        response_format=settings.default_response_format,
        beam_size=settings.whisper.beam_size,
    )


def build_telemetry(settings: Settings) -> Telemetry:
    """Build the metrics and, if they are exported, the traces.

    Raises:
        NotInstalled: the packages for traces are missing.
    """
    return Telemetry(tracing=open_tracing(settings.otel_exporter_otlp_endpoint))


def build_pool(settings: Settings, observe: ObserveModel = unobserved_model) -> ModelPool:
    """Build the model cache; `observe` takes the events of its models."""
    return ModelPool(
        settings.pool, settings.scheduler, observe=observe, gpus=settings.whisper.device_index
    )


def build_runner(
    settings: Settings,
    catalog: Catalog,
    pool: ModelPool,
    admission: AdmissionControl,
    fetcher: UrlFetcher,
    uploads: UploadReader,
    workdir: Path,
) -> Runner:
    """Build the pipeline, behind admission control."""
    limits = settings.limits
    decoder = AudioDecoder(
        max_seconds=limits.audio_seconds, timeout=limits.decode_timeout, workdir=workdir
    )
    pipeline = Pipeline(
        opener=SourceOpener(decoder=decoder, fetcher=fetcher, uploads=uploads),
        pool=pool,
        catalog=catalog,
        chunk_size=settings.whisper.chunk_size,
    )
    return AdmittedRunner(pipeline, admission, timeout=limits.request_timeout, opening=MOST_OPENING)


def build_replica(settings: Settings, cluster: Cluster, workdir: Path) -> Replica:
    """Build the part of an API process of MODE=kafka that replaces the pipeline."""
    return Replica(
        cluster,
        name=member_name(),
        workdir=workdir,
        limits=settings.limits,
        settings=settings.jobs,
    )


@contextmanager
def on_free_gpu(settings: Settings) -> Iterator[Settings]:
    """A worker's settings, with a GPU that no other worker of the machine has until the end.

    Those that name GPUs, or have no directory for locks, stay as they are.

    Raises:
        ConfigurationError: the directory cannot be written to.
    """
    locks, whisper = settings.worker.gpu_locks, settings.whisper
    if locks is None or "device_index" in whisper.model_fields_set or not _uses_gpu(settings):
        yield settings
        return
    with free_gpu(locks, gpu_count()) as gpu:
        chosen = whisper.model_copy(update={"device_index": (gpu,)})
        yield settings.model_copy(update={"whisper": chosen})


def _uses_gpu(settings: Settings) -> bool:
    catalog = build_catalog(settings)
    used = (catalog.shared, catalog.transcriber(catalog.transcription).spec)
    return gpu_count() > 0 and any(spec.device == "cuda" for spec in used)


def build_worker(
    settings: Settings,
    catalog: Catalog,
    pool: ModelPool,
    cluster: Cluster,
    workdir: Path,
    *,
    name: str,
    members: Members,
    admission: AdmissionControl,
    telemetry: Telemetry,
) -> Worker:
    """Build a worker of MODE=kafka: the pipeline behind the queues.

    `admission`, which only measures, has no limit.
    """
    downloads = DiskBlobStore(workdir=workdir, max_bytes=settings.limits.upload_bytes)
    runner = build_runner(
        settings,
        catalog,
        pool,
        admission,
        UrlFetcher(settings.url_fetch, uploads=downloads),
        BucketUploads(cluster.bucket, workdir),
        workdir,
    )
    return Worker(
        telemetry.runner(runner),
        name=name,
        text=TextService(
            active=ActiveRequests(),
            pool=pool,
            catalog=catalog,
            timeout=settings.limits.request_timeout,
        ),
        admission=admission,
        queues=cluster.queues,
        log=cluster.log,
        files=RunFiles(cluster.bucket, retry_window=settings.jobs.retry_window),
        disk=WorkerDisk(workdir),
        members=members,
        models=WorkerModels(name=name, catalog=catalog, pool=pool, log=cluster.log),
        prefetch_seconds=lambda: prefetch_limit(
            settings.worker.prefetch_seconds, _batch_limit(pool)
        ),
        lock_seconds=settings.kafka.lock_seconds,
        max_attempts=settings.kafka.max_attempts,
    )


def _batch_limit(pool: ModelPool) -> int:
    """The largest batch of the loaded transcribers."""
    return max(
        (each.lane.batch_limit for each in pool.statuses() if each.key.stage == "transcription"),
        default=1,
    )


async def preload(keys: Sequence[ModelKey], pool: ModelPool) -> None:
    """Load models; one that fails is logged, not fatal."""
    for key in keys:
        try:
            await pool.load(key)
        except ServiceError as error:
            logger.error("%s cannot be preloaded: %s", key, error.message)


def preloaded_models(settings: Settings, catalog: Catalog) -> list[ModelKey]:
    """Return the models to load at start.

    Raises:
        ConfigurationError: a language has no align model.
    """
    keys = [
        catalog.transcriber(backend)
        for backend, section in transcriber_settings(settings).items()
        if section.preload
    ]
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


def secret(value: SecretStr | None) -> str | None:
    """Return the text of a secret setting."""
    return None if value is None else value.get_secret_value()
