"""One call of a running server, and the options that name the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import fail

if TYPE_CHECKING:
    import httpx

HERE = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(metavar="URL", help="URL of the server.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar="API_KEY", metavar="KEY", help="API key of the server.")
]


def call(method: str, path: str, url: str, api_key: str | None, **content: Any) -> httpx.Response:
    """The answer to a request; an error is printed as one line, and ends the process."""
    from .remote import ServerError, connect

    async def send() -> httpx.Response:
        async with connect(url, api_key) as server:
            return await server.send(method, path, **content)

    try:
        return asyncio.run(send())
    except ServerError as error:
        fail(str(error))
