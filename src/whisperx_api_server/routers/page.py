"""The page for people at `/`, and the OpenAPI document's at `/docs`; neither needs another host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(str(files("whisperx_api_server") / "page"))
SWAGGER = Path(str(files("fastapi_offline") / "static"))

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Swagger UI writes styles into its elements."""

NO_CACHE = {"cache-control": "no-cache"}

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>whisperx-api-server: API</title>
<link rel="stylesheet" href="{root}/docs/files/swagger-ui.css">
<link rel="icon" href="{root}/page/icon.svg">
<main id="swagger-ui" data-document="{root}/openapi.json"></main>
<script src="{root}/docs/files/swagger-ui-bundle.js"></script>
<script src="{root}/page/js/api-docs.js" type="module"></script>
"""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=_headers(POLICY))


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The OpenAPI document, for people."""
    root = request.scope.get("root_path", "").rstrip("/")
    return HTMLResponse(DOCS.format(root=root), headers=_headers(DOCS_POLICY))


class PageFiles(StaticFiles):
    """Files that a browser asks for again: after an upgrade it would mix new and old ones."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, or 304 if the browser has it."""
        response = await super().get_response(path, scope)
        response.headers.update(NO_CACHE)
        return response


def install_pages(app: FastAPI) -> None:
    """Add the two pages and their files."""
    app.include_router(router)
    app.mount("/page", PageFiles(directory=PAGE))
    app.mount("/docs/files", PageFiles(directory=SWAGGER))


def _headers(policy: str) -> dict[str, str]:
    return {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    } | NO_CACHE
