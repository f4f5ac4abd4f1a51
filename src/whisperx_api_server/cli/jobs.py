"""`jobs`: lists, shows, cancels and fetches the jobs of a running server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ..output_formats import OutputFormat
from .calls import HERE, ApiKey, Url, call
from .console import clock, print_table

app = typer.Typer(
    no_args_is_help=True,
    help="""List, show, cancel and fetch the jobs of a running server.

    A job is a transcription that runs without an open connection: a request with `async=true`.

    Examples:

        whisperx-api-server jobs list --status running
        whisperx-api-server jobs result 7b0c… --format srt
        whisperx-api-server jobs cancel 7b0c… --url http://gpu-box:8000
    """,
)

JOBS = "/v1/audio/transcriptions"

COLUMNS = ("id", "status", "percent", "left", "submitted", "length", "file", "error")

Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id of the job.",
        show_default=False,
        callback=lambda value: quote(value, safe=""),
    ),
]


@app.command("list")
def list_jobs(
    url: Url = HERE,
    api_key: ApiKey = None,
    status: Annotated[
        str | None,
        typer.Option(
            *("--status", "-s"),
            metavar="STATUS",
            help="List only jobs that are queued, running, completed, failed or cancelled.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of jobs.")] = 20,
    after: Annotated[
        str | None,
        typer.Option(metavar="ID", help="List only jobs older than this one.", show_default=False),
    ] = None,
) -> None:
    """List your jobs, newest first."""
    sent = {"status": status, "limit": limit, "after": after}
    params = {name: value for name, value in sent.items() if value is not None}
    jobs = call("GET", JOBS, url, api_key, params=params).json()["data"]
    print_table(COLUMNS, map(_row, jobs))


@app.command()
def show(job: Id, url: Url = HERE, api_key: ApiKey = None) -> None:
    """Show a job's status as JSON."""
    status = call("GET", f"{JOBS}/{job}/status", url, api_key).json()
    typer.echo(json.dumps(status, indent=2, ensure_ascii=False))


@app.command()
def cancel(job: Id, url: Url = HERE, api_key: ApiKey = None) -> None:
    """Cancel a job; one that has ended is deleted with its transcript."""
    call("DELETE", f"{JOBS}/{job}", url, api_key)


@app.command()
def result(
    job: Id,
    response_format: Annotated[
        OutputFormat | None,
        typer.Option(
            *("--format", "-f"),
            help="Format of the transcript; default: as submitted.",
            show_default=False,
        ),
    ] = None,
    url: Url = HERE,
    api_key: ApiKey = None,
) -> None:
    """Print a job's transcript."""
    params = {"response_format": response_format} if response_format else {}
    body = call("GET", f"{JOBS}/{job}/result", url, api_key, params=params).text
    typer.echo(body, nl=not body.endswith("\n"))


def _row(job: Mapping[str, Any]) -> dict[str, str]:
    submitted = datetime.fromtimestamp(job["submitted_at"])
    return {
        "id": job["request_id"],
        "status": job["status"],
        "percent": f"{job['percent']:.0f} %",
        "left": _clock(job["eta_seconds"]),
        "submitted": f"{submitted:%Y-%m-%d %H:%M:%S}",
        "length": _clock(job["duration"]),
        "file": job["filename"] or "",
        "error": job["error"]["message"] if job["error"] else "",
    }


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else clock(seconds)
