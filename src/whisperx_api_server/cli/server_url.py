"""URLs of servers, and the errors about them."""

from __future__ import annotations

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are reached without a proxy: its loopback address is not this machine."""


def server_root(url: str) -> str:
    """The URL without the `/v1` that OpenAI's clients need."""
    return url.rstrip("/").removesuffix("/v1")


def invalid_url(url: str) -> str:
    """The error for what is not a URL of a server."""
    return f"{url!r} is not a server's URL: give one like http://host:8000"


def unreachable(url: str) -> str:
    """The error where no server answers."""
    return (
        f"no server answers at {url}: start one with `whisperx-api-server serve`, or give "
        "another --url"
    )
