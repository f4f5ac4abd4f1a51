"""One-line errors, exit statuses and progress bars of the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FAILED = 1
"""Exit status if something failed."""

USAGE = 2
"""Exit status if an option or a setting is wrong."""


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print one line on standard error and exit."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


class ProgressReporter(Protocol):
    """Shows the progress of one recording."""

    def progress(self, part: float, detail: str, eta: float | None = None) -> None:
        """`part`, in [0, 1], is done; `eta` in seconds, None to estimate it here."""
        ...


class Terminal:
    """One progress bar per recording, on standard error if that is a terminal.

    Otherwise, and with `quiet`, only errors are shown.
    """

    def __init__(self, *, files: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            disable=quiet or not self._console.is_terminal,
        )
        self._files = files
        self._finished = 0
        self._all: TaskID | None = None

    def __enter__(self) -> Terminal:
        self._progress.start()
        if self._files > 1:
            self._all = self._progress.add_task("all", total=self._files, detail=self._count())
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def error(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(
            f"error: {message}", markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    @contextmanager
    def bar(self, name: str) -> Iterator[ProgressReporter]:
        """Show the bar of one recording."""
        task = self._progress.add_task(name, total=None, detail="")
        try:
            yield _Bar(self._progress, task)
        finally:
            self._progress.remove_task(task)
            self._finished += 1
            if self._all is not None:
                self._progress.update(self._all, completed=self._finished, detail=self._count())

    def _count(self) -> str:
        return f"{self._finished}/{self._files} files"


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._since: float | None = None

    def progress(self, part: float, detail: str, eta: float | None = None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif eta is None and part > 0:
            eta = (now - self._since) * (1 - part) / part
        if eta is not None:
            detail += f", {clock(eta)} left"
        self._progress.update(self._task, completed=part, total=1.0, detail=detail)


def clock(seconds: float) -> str:
    """Format seconds: 61.5 -> 1:01, 3600 -> 1:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
