"""One-line errors, exit statuses and progress bars of the command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

FAILED = 1
"""Exit status if something failed."""

USAGE = 2
"""Exit status if an option or a setting is wrong."""


def fail(message: str, status: int = FAILED) -> NoReturn:
    """Print one line on standard error and exit."""
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status)


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Print the columns of each row on standard output; a value that is absent is blank."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    # A pipe has no width; its lines must not wrap.
    Console(width=None if sys.stdout.isatty() else 300, markup=False).print(table)


Report = Callable[[float, str, float | None], None]
"""Shows the part in [0, 1] of one recording that is done, a detail, and the seconds left.

Without the seconds, they are estimated from the part.
"""


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
    def bar(self, name: str) -> Iterator[Report]:
        """Show the bar of one recording."""
        task = self._progress.add_task(name, total=None, detail="")
        since: float | None = None

        def report(part: float, detail: str, left: float | None) -> None:
            nonlocal since
            if since is None:
                since = time.monotonic()
            elif left is None and part > 0:
                left = (time.monotonic() - since) * (1 - part) / part
            if left is not None:
                detail += f", {clock(left)} left"
            self._progress.update(task, completed=part, total=1.0, detail=detail)

        try:
            yield report
        finally:
            self._progress.remove_task(task)
            self._finished += 1
            if self._all is not None:
                self._progress.update(self._all, completed=self._finished, detail=self._count())

    def _count(self) -> str:
        return f"{self._finished}/{self._files} files"


def clock(seconds: float) -> str:
    """Format seconds: 61.5 -> 1:01, 3600 -> 1:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
