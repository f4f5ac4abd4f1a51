"""The command line, run inside a test."""

from __future__ import annotations

from typer.testing import CliRunner

from whisperx_api_server.cli import app


def run(*arguments: str, given: bytes | None = None) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command; `given` is its input."""
    result = CliRunner().invoke(app, list(arguments), input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


class Recorder:
    """Keeps what is reported of a recording."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str, float | None]] = []

    def __call__(self, part: float, detail: str, left: float | None) -> None:
        self.seen.append((round(part, 3), detail, left))
