"""`mcp`: lets assistants use a running server, over the Model Context Protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .calls import HERE, ApiKey, Url
from .console import USAGE, fail


def mcp(
    url: Url = HERE,
    api_key: ApiKey = None,
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve HTTP at /mcp instead of stdin and stdout."),
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on, with --http.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port, with --http.", min=1, max=65535)] = 8010,
    files: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            file_okay=False,
            help=(
                "Directory whose files may be transcribed. Default: any file over stdin "
                "and stdout, none with --http."
            ),
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let an assistant transcribe with a running server, over the Model Context Protocol.

    Its tools transcribe a file or a URL, follow a job, and fetch its transcript in any format.
    With --http, each client sends the server's key itself, as `Authorization: Bearer KEY`;
    --api-key is not used.

    Examples:

        whisperx-api-server mcp --url http://gpu-box:8000
        whisperx-api-server mcp --http --port 8010 --files recordings
    """
    try:
        from .mcp_tools import build_server
    except ImportError:
        fail(
            "the MCP server needs packages that are not installed: "
            "pip install 'whisperx-api-server[mcp]'",
            USAGE,
        )
    if http:
        build_server(url, api_key=None, files=files).run("streamable-http", host=host, port=port)
    else:
        build_server(url, api_key=api_key, files=files or Path("/")).run("stdio")
