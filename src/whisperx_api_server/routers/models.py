"""Models: OpenAI's list; list, load and unload for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ..answers.server import LoadedModels, Model, ModelChange, ModelList
from ..backends import ModelKey
from ..backends.base import Stage
from ..catalog import ALIASES, Catalog
from ..errors import MissingParameter, NotFound
from ..languages import parse_language
from ..scheduling.model_pool import Models
from . import openapi
from .deps import ActiveDep, Call, CallDep, CatalogDep, ClientDep, ModelsDep
from .forms import parse_form, parse_query

router = APIRouter(tags=["models"])

ModelStage = Literal["models", "align_models", "diarize_models"]


class ModelName(BaseModel):
    """A model, in the query or the form."""

    model: str | None = Field(None, description="For models and diarize_models.")
    language: str | None = Field(None, description="For align_models.")


NAME = openapi.query(ModelName) | openapi.form(openapi.fields(ModelName))

_STAGES: Mapping[ModelStage, Stage] = {
    "models": "transcription",
    "align_models": "alignment",
    "diarize_models": "diarization",
}


@router.get("/v1/models", responses=openapi.errors())
async def list_models(pool: ModelsDep, catalog: CatalogDep, _: ClientDep) -> ModelList:
    """The models that a request can name, as OpenAI lists them."""
    return {"object": "list", "data": [_model_object(name) for name in _model_names(pool, catalog)]}


@router.get("/v1/models/{model_id:path}", responses=openapi.errors(404))
async def get_model(model_id: str, catalog: CatalogDep, _: ClientDep) -> Model:
    """One model that a request can name, listed or not."""
    catalog.transcriber(model_id)
    return _model_object(model_id)


@router.get("/{stage}/list", responses=openapi.errors(404))
async def list_loaded(stage: ModelStage, pool: ModelsDep, _: ClientDep) -> LoadedModels:
    """The loaded models of a stage."""
    return {"models": pool.loaded(_STAGES[stage])}


@router.post(
    "/{stage}/load",
    responses=openapi.errors(400, 404, 408, 413, 501, 503),
    openapi_extra=NAME,
)
async def load(
    stage: ModelStage, call: CallDep, active: ActiveDep, pool: ModelsDep, catalog: CatalogDep
) -> ModelChange:
    """Load a model, by `model` (`language` for align_models), in the form or the query."""
    active.ensure_accepting()
    key = await _named(stage, call, catalog)
    await pool.load(key)
    return _change("loaded", key)


@router.post(
    "/{stage}/unload",
    responses=openapi.errors(400, 404, 408, 409, 413),
    openapi_extra=NAME,
)
async def unload(
    stage: ModelStage, call: CallDep, pool: ModelsDep, catalog: CatalogDep
) -> ModelChange:
    """Unload a model; 409 while requests use it, 404 if it is not loaded."""
    key = await _named(stage, call, catalog)
    if not await pool.unload(key):
        raise NotFound(f"{key} is not loaded", param="model")
    return _change("unloaded", key)


async def _named(stage: ModelStage, call: Call, catalog: Catalog) -> ModelKey:
    """The model that a request names."""
    fields = parse_query(ModelName, call.request)
    if not (fields.model or fields.language) and call.request.headers.get("content-type"):
        async with call.form() as form:
            fields = parse_form(ModelName, form)
    if stage == "diarize_models":
        return catalog.diarizer(fields.model)
    param = "language" if stage == "align_models" else "model"
    name = getattr(fields, param)
    if not name:
        raise MissingParameter(f"{param} is missing", param=param)
    if stage == "models":
        return catalog.transcriber(name)
    language = parse_language(name)
    key = catalog.aligner(language)
    if key is None:
        raise NotFound(f"there is no align model for {language!r}", param="language")
    return key


def _model_names(pool: Models, catalog: Catalog) -> list[str]:
    loaded = [each["model"] for each in pool.loaded("transcription")]
    names = [
        catalog.default_model,
        *ALIASES,
        *(spec.name for spec in catalog.transcribers.values()),
        *loaded,
    ]
    return list(dict.fromkeys(names))


def _model_object(name: str) -> Model:
    return {"id": name, "object": "model", "created": 0, "owned_by": "whisperx-api-server"}


def _change(status: Literal["loaded", "unloaded"], key: ModelKey) -> ModelChange:
    body: ModelChange = {"status": status, "model": key.name, "backend": key.backend}
    if key.spec.language:
        body["language"] = key.spec.language
    return body
