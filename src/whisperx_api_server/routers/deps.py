"""Dependencies of the routes: each service by itself, and the client's name."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..active_requests import ActiveRequests
from ..answers.common import Configuration
from ..audio.uploads import BlobStore
from ..catalog import Catalog
from ..errors import Cancelled
from ..fields.common import FormDefaults
from ..jobs.admission import AdmissionControl
from ..jobs.service import LocalService
from ..keys import KeyRing
from ..loop_lag import LoopLag
from ..scheduling.model_pool import ModelPool
from ..text_service import TextService

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Services:
    """What `create_app` wires together; routes find it in `app.state.services`.

    `configuration` is what /info says of the settings; `preloaded` is set once the models that load
    at start are loaded.
    """

    service: LocalService
    text: TextService
    active: ActiveRequests
    pool: ModelPool
    admission: AdmissionControl
    catalog: Catalog
    keys: KeyRing
    uploads: BlobStore
    defaults: FormDefaults
    preloaded: asyncio.Event
    loop_lag: LoopLag
    configuration: Configuration


# Coroutines, though they await nothing: FastAPI would run plain functions on a thread per request.
async def get_services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


async def _service(services: ServicesDep) -> LocalService:
    return services.service


async def _text(services: ServicesDep) -> TextService:
    return services.text


async def _active(services: ServicesDep) -> ActiveRequests:
    return services.active


async def _models(services: ServicesDep) -> ModelPool:
    return services.pool


async def _catalog(services: ServicesDep) -> Catalog:
    return services.catalog


async def _uploads(services: ServicesDep) -> BlobStore:
    return services.uploads


async def _defaults(services: ServicesDep) -> FormDefaults:
    return services.defaults


ServiceDep = Annotated[LocalService, Depends(_service)]
TextDep = Annotated[TextService, Depends(_text)]
ActiveDep = Annotated[ActiveRequests, Depends(_active)]
ModelsDep = Annotated[ModelPool, Depends(_models)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
UploadsDep = Annotated[BlobStore, Depends(_uploads)]
DefaultsDep = Annotated[FormDefaults, Depends(_defaults)]


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
) -> str:
    """The name of the client behind the request's API key.

    Raises:
        Unauthorized: no key, or a wrong one.
    """
    headers = dict(request.scope["headers"])
    client = services.keys.client(headers.get(b"authorization"))
    request.state.client = client
    return client


ClientDep = Annotated[str, Depends(authenticate)]


def new_request_id() -> str:
    """An id for the pipeline: unlike a client's X-Request-ID it is never used twice."""
    return uuid.uuid4().hex


def is_retry(request: Request) -> bool:
    """Whether OpenAI's SDK says that it sends this once more, having got no answer before."""
    return request.headers.get("x-stainless-retry-count", "0") not in ("", "0")


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up.

    The request's body must have been read: what comes after it is the disconnect.

    Raises:
        Cancelled: the client is gone.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.create_task(_disconnected(request))
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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
