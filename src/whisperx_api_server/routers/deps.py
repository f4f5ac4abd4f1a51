"""Dependencies of the routes: the services, the authenticated client, and a call with both."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Receive

from ..active_requests import ActiveRequests
from ..answers.common import Configuration
from ..audio.uploads import BlobStore
from ..catalog import Catalog
from ..distributed.members import Members
from ..domain import KnownSpeaker, OutputOptions, Source, Task, Transcript, TranscriptionRequest
from ..errors import Cancelled
from ..fields.transcription import FormDefaults, TranscriptionForm
from ..jobs.admission import AdmissionControl
from ..jobs.service import TranscriptionService
from ..keys import Caller, KeyRing
from ..live.registry import LiveSessions
from ..live.secrets import ClientSecrets
from ..loop_lag import LoopLag
from ..scheduling.model_pool import ModelPool, Models
from ..telemetry.metrics import Metrics
from ..text_service import Texts
from .multipart import Form, read_form

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Services:
    """The objects that `create_app` wires together; routes find them in `app.state.services`.

    `models` are those of the `pool`, or of the workers, which are among the `members` then;
    `check_cluster` raises Unavailable while the cluster of these cannot be reached.
    `configuration` is the part of /info that follows from the settings. `preloaded` is set once the
    models that load at start are loaded.
    """

    service: TranscriptionService
    text: Texts
    live: LiveSessions
    active: ActiveRequests
    pool: ModelPool
    models: Models
    members: Members | None
    check_cluster: Callable[[], Awaitable[None]] | None
    admission: AdmissionControl
    catalog: Catalog
    keys: KeyRing
    allowed_origins: Collection[str]
    client_secrets: ClientSecrets
    uploads: BlobStore
    defaults: FormDefaults
    preloaded: asyncio.Event
    loop_lag: LoopLag
    metrics: Metrics
    metrics_need_key: bool
    configuration: Configuration


# Coroutines, though they await nothing: FastAPI would run plain functions on a thread per request.
async def get_services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


def _part(name: str) -> Any:
    async def part(services: ServicesDep) -> object:
        return getattr(services, name)

    return Depends(part)


ServiceDep = Annotated[TranscriptionService, _part("service")]
ActiveDep = Annotated[ActiveRequests, _part("active")]
TextDep = Annotated[Texts, _part("text")]
ModelsDep = Annotated[Models, _part("models")]
CatalogDep = Annotated[Catalog, _part("catalog")]


_BEARER = HTTPBearer(
    scheme_name="bearer",
    description="The API key, where the server has one.",
    auto_error=False,
)
"""Puts the scheme into the OpenAPI document; `KeyRing` alone judges the header."""


async def authenticate(
    request: Request,
    services: ServicesDep,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    """The client behind the request's API key, and that key.

    Raises:
        Unauthorized: no key, or a wrong one.
    """
    headers = dict(request.scope["headers"])
    caller = services.keys.caller(headers.get(b"authorization"))
    request.state.client = caller.client
    return caller


CallerDep = Annotated[Caller, Depends(authenticate)]


async def _client(caller: CallerDep) -> str:
    return caller.client


ClientDep = Annotated[str, Depends(_client)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A request with a recording or a text, and the services that read and answer it."""

    request: Request
    client: str
    service: TranscriptionService
    uploads: BlobStore
    defaults: FormDefaults

    @property
    def retry(self) -> bool:
        """Whether OpenAI's SDK marks the request as a repetition."""
        return self.request.headers.get("x-stainless-retry-count", "0") not in ("", "0")

    def admit(self) -> None:
        """Refuse the request, before its body is read, if it cannot be served now."""
        self.service.admit(retry=self.retry)

    def form(self, *, pcm: bool = False) -> AbstractAsyncContextManager[Form]:
        """The form in the body; its files are deleted at the end."""
        return read_form(self.request, self.uploads, pcm=pcm)

    def transcription(
        self,
        fields: TranscriptionForm,
        source: Source,
        known_speakers: tuple[KnownSpeaker, ...] = (),
        *,
        task: Task = "transcribe",
    ) -> tuple[TranscriptionRequest, OutputOptions]:
        """Convert the fields to a request and the options of its answer."""
        return fields.request(
            new_request_id(), self.client, source, self.defaults, known_speakers, task=task
        )

    async def run(self, request: TranscriptionRequest) -> Transcript:
        """The transcript; the request is withdrawn when the client disconnects."""
        return await self.wait(self.service.run(request, retry=self.retry))

    async def wait(self, work: Awaitable[T]) -> T:
        """`cancel_on_disconnect` of this client."""
        return await cancel_on_disconnect(self.request.receive, work)


async def _call(request: Request, client: ClientDep, services: ServicesDep) -> Call:
    return Call(
        request=request,
        client=client,
        service=services.service,
        uploads=services.uploads,
        defaults=services.defaults,
    )


CallDep = Annotated[Call, Depends(_call)]


def new_request_id() -> str:
    """Make an id for the pipeline: unlike a client's X-Request-ID it is unique."""
    return uuid.uuid4().hex


async def cancel_on_disconnect(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects.

    The request's body must have been read: the next message is then the disconnect.

    Raises:
        Cancelled: the client disconnected.
    """

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    gone = asyncio.create_task(disconnected())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
