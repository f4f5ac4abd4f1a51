"""Transcribes in this process, without a server."""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from ..audio.uploads import DiskBlobStore
from ..audio.urls import UrlFetcher
from ..config import Settings
from ..errors import ServiceError
from ..fields.transcription import FormDefaults
from ..formats.render import render
from ..jobs.admission import AdmissionControl
from ..logging_setup import configure_logging
from ..pipeline.events import Emit, Event, Progress
from ..pipeline.runner import Checkpoint, Runner
from ..routers.voice_samples import save_references
from ..wiring import build_catalog, build_pool, build_runner, form_defaults
from .console import Report, clock
from .form_fields import FormFields, Transcribe, TranscriptionFailure

logger = logging.getLogger(__name__)


@asynccontextmanager
async def local_engine(settings: Settings) -> AsyncIterator[Transcribe]:
    """Run the pipeline in a private temporary directory; all models are unloaded at the end.

    Raises:
        ServiceError: the settings name a backend that does not exist.
    """
    # Errors are printed in one line, so nothing is logged unless LOG_LEVEL is set.
    asked = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if asked else "critical")
    catalog = build_catalog(settings)
    catalog.check_backends()
    with tempfile.TemporaryDirectory(prefix="whisperx-api-server-") as directory:
        workdir = Path(directory)
        pool = build_pool(settings)
        uploads = DiskBlobStore(workdir=workdir, max_bytes=settings.limits.upload_bytes)
        fetcher = UrlFetcher(settings.url_fetch, uploads=uploads)
        # The queue's limit is for many clients; here there is only one.
        admission = AdmissionControl(math.inf)
        runner = build_runner(settings, catalog, pool, admission, fetcher, uploads, workdir)
        try:
            yield partial(_transcribe, runner, uploads, form_defaults(settings, catalog))
        finally:
            await pool.close()


async def _transcribe(
    runner: Runner,
    uploads: DiskBlobStore,
    defaults: FormDefaults,
    file: Path,
    fields: FormFields,
    report: Report,
) -> str:
    async with AsyncExitStack() as stack:
        source = uploads.adopt(file)
        stack.push_async_callback(uploads.release, source)
        try:
            form = fields.form()
            known = await save_references(form, uploads, stack)
            request, output = form.request(
                uuid.uuid4().hex, "cli", source, defaults, known, task=fields.task
            )
            transcript = await runner.run(request, _reporting(report), Checkpoint())
        except ServiceError as error:
            raise TranscriptionFailure(_explained(error)) from error
    return (await asyncio.to_thread(render, transcript, output)).body


def _reporting(report: Report) -> Emit:
    """Make an emitter that reports a run's progress."""
    progress = Progress()

    async def emit(event: Event) -> None:
        nonlocal progress
        progress = progress.after(event)
        if progress.duration is not None:
            detail = f"{clock(progress.reached)} of {clock(progress.duration)}"
            report(progress.part, detail, None)

    return emit


def _explained(error: ServiceError) -> str:
    """The message; for server errors also how to see the log."""
    if error.status < 500:
        return error.message
    logger.error("%s", error.code, exc_info=error)
    return f"{error.message} (LOG_LEVEL=error shows the log)"
