"""Transcribing in this process, without a server."""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ..backlog import Backlog
from ..config import Settings
from ..domain import OutputOptions, TranscriptionRequest, UploadedFile, WindowTranscript
from ..errors import ServiceError
from ..formats import render
from ..pipeline import Pipeline
from ..request_fields import FormDefaults
from ..routers.references import save_references
from ..stages import Observer
from ..telemetry import configure_logging
from ..uploads import UploadStore
from ..wiring import build_catalog, build_fetcher, build_pipeline, build_pool, form_defaults
from .console import Watch, clock
from .order import Order, TranscriptionFailure

logger = logging.getLogger(__name__)


@asynccontextmanager
async def local_engine(settings: Settings) -> AsyncIterator[LocalEngine]:
    """The pipeline in a private temporary directory; at the end all its models are unloaded.

    Raises:
        ServiceError: the settings name a backend that does not exist.
    """
    # Nobody reads a log here unless they ask for one: what is wrong is said in one line.
    asked = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if asked else "critical")
    catalog = build_catalog(settings)
    catalog.check_backends()
    with tempfile.TemporaryDirectory(prefix="whisperx-api-server-") as directory:
        workdir = Path(directory)
        pool = build_pool(settings)
        uploads = UploadStore(workdir=workdir, max_bytes=settings.limits.upload_bytes)
        fetcher = build_fetcher(settings, uploads)
        # The bound on waiting audio is there for strangers; here only the user queues.
        backlog = Backlog(math.inf)
        pipeline = build_pipeline(settings, catalog, pool, backlog, fetcher, workdir)
        try:
            yield LocalEngine(pipeline, uploads, form_defaults(settings, catalog))
        finally:
            await pool.close()


class LocalEngine:
    """Runs recordings through one pipeline, so that their windows share batches."""

    def __init__(self, pipeline: Pipeline, uploads: UploadStore, defaults: FormDefaults) -> None:
        self._pipeline = pipeline
        self._uploads = uploads
        self._defaults = defaults

    async def transcribe(self, file: Path, order: Order, watch: Watch) -> str:
        """The transcript of a file, rendered as ordered.

        Raises:
            TranscriptionFailure: one line that says why not.
        """
        async with AsyncExitStack() as stack:
            try:
                request, output = await self._request(file, order, stack)
                transcript = await self._pipeline.run(request, _Reporter(watch))
            except ServiceError as error:
                raise TranscriptionFailure(_explained(error)) from error
        return (await asyncio.to_thread(render, transcript, output)).body

    async def _request(
        self, file: Path, order: Order, stack: AsyncExitStack
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        source = UploadedFile(path=file, filename=file.name)
        named = (uuid.uuid4().hex, "cli", source, self._defaults)
        if order.translate:
            return order.translation().request(*named)
        form = order.transcription()
        known = await save_references(form, self._uploads, stack)
        return form.request(*named, known)


class _Reporter(Observer):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._duration = 0.0

    def opened(self, duration: float) -> None:
        self._duration = duration
        self._report(0.0)

    def heard(self, transcript: WindowTranscript, until: float) -> None:  # noqa: ARG002
        self._report(until)

    def _report(self, until: float) -> None:
        detail = f"{clock(until)} of {clock(self._duration)}"
        self._watch.progress(until / self._duration if self._duration else 1.0, detail)


def _explained(error: ServiceError) -> str:
    """The message; where others are to blame also how to read what a server would have logged."""
    if error.status < 500:
        return error.message
    logger.error("%s", error.code, exc_info=error)
    return f"{error.message} (LOG_LEVEL=error shows the log)"
