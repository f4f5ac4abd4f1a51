"""Stores jobs and their transcripts on disk, so that they survive a restart."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from ..domain import Job, Segment, Transcript, TranscriptionRequest
from ..errors import ConfigurationError, Unavailable
from ..pipeline.events import WindowDone
from ..setting_types import NonNegativeFloat, PositiveFloat, PositiveInt, Section, UserPath

logger = logging.getLogger(__name__)

_JOB = TypeAdapter(Job)
_TRANSCRIPT = TypeAdapter(Transcript)
_SEGMENT = TypeAdapter(Segment)
JOB_ID = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = ".unfinished-"


class JobSettings(Section):
    """Jobs (`async=true`), and results kept for retries."""

    directory: UserPath | None = Field(
        None,
        description="Directory of job results, one per server; unset is "
        "`~/.local/state/whisperx-api-server/jobs-PORT`.",
    )
    max_age: PositiveFloat = Field(
        24 * 3600.0, description="Seconds until the result of a job is deleted."
    )
    max_count: PositiveInt = Field(
        1000,
        description="Maximum number of results kept, and of jobs under way; further jobs get 429.",
    )
    retry_window: NonNegativeFloat = Field(
        600.0,
        description="Seconds in which the same upload with the same parameters and API key joins "
        "the first run instead of starting another; 0 disables it.",
    )


def default_directory(environment: Mapping[str, str], port: int | None) -> Path:
    """Return the directory for the jobs of the server on a port, in the user's XDG state directory.

    Raises:
        ConfigurationError: the user has no home directory.
    """
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path("~/.local/state").expanduser()
        except RuntimeError as error:
            raise ConfigurationError(
                "JOBS__DIRECTORY: set it, you have no home directory"
            ) from error
    return state / "whisperx-api-server" / (f"jobs-{port}" if port else "jobs")


def transcript_lines(transcript: Transcript) -> Iterator[bytes]:
    """Yield a transcript as lines of JSON: first without its segments, then each segment.

    One call of the parser holds the interpreter's lock, and so blocks the event loop: half a
    second for hours of speech at once.
    """
    # Unlike the adapters' own, this writer keeps infinity.
    yield to_json(replace(transcript, segments=()))
    yield from map(to_json, transcript.segments)


def transcript_of(lines: Iterable[bytes]) -> Transcript:
    """Return the transcript of `transcript_lines`.

    Raises:
        ValidationError: the lines are damaged.
    """
    each = iter(lines)
    transcript = _TRANSCRIPT.validate_json(next(each, b""))
    return replace(transcript, segments=tuple(map(_SEGMENT.validate_json, each)))


class JobStore(Protocol):
    """Keeps jobs and their transcripts beyond the process."""

    async def load(self) -> list[Job]:
        """Return all jobs, oldest first, and reserve them for this process until `close`.

        Raises:
            ConfigurationError: another server, or another user, has them.
        """

    async def save(self, job: Job) -> None:
        """Store a job in its current state.

        Raises:
            TakenOver: another process has the job.
            Unavailable: it cannot be stored.
        """

    async def save_transcript(self, job_id: str, transcript: Transcript) -> None:
        """Store the result of a job.

        Raises:
            Unavailable: it cannot be stored.
        """

    async def transcript(self, job_id: str) -> Transcript | None:
        """Return the result of a job; None if it is absent, deleted or damaged."""

    async def delete(self, job_id: str) -> None:
        """Delete a job and its result.

        Raises:
            Unavailable: they cannot be deleted now.
        """

    def close(self) -> None:
        """Release the jobs, so that another server can load them."""


class SharedJobStore(JobStore, Protocol):
    """A JobStore that several processes share; the jobs of one that ends are taken up by others.

    Its methods raise Unavailable while the store cannot be reached.
    """

    async def accept(self, job: Job, request: TranscriptionRequest) -> None:
        """Store a new job, its request and its uploads."""

    def note(self, job: Job) -> None:
        """Publish the progress of a job to the other processes, soon."""

    async def find(self, job_id: str) -> Job | None:
        """Return the job, of any process; None if there is none."""

    async def all(self) -> list[Job]:
        """Return the jobs of all processes, in any order."""

    def windows(self, job_id: str) -> Callable[[], Awaitable[list[WindowDone]]]:
        """Return a function that reads the windows of a job under way which are new to it."""

    async def withdraw(self, job_id: str) -> None:
        """Ask the process that has a job to cancel it, or to forget it if it has ended."""


class DiskJobStore:
    """A JobStore of one JSON file per job and one of JSON lines per transcript, in a directory.

    Files are read and written on threads.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._claim: int | None = None

    def claim(self) -> None:
        """Lock the directory for this process until `close`; a second call does nothing.

        If the directory cannot be used, that is logged, and the server refuses jobs only.

        Raises:
            ConfigurationError: another server uses it, or another user can write to it.
        """
        if self._claim is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            logger.warning("jobs cannot be kept in JOBS__DIRECTORY: %s", error.strerror)
            return
        with ExitStack() as undo:
            undo.callback(os.close, directory)
            status = os.fstat(directory)
            foreign = status.st_uid not in (0, os.getuid())
            if foreign or (status.st_uid and status.st_mode & 0o002):
                raise ConfigurationError(
                    f"JOBS__DIRECTORY: other users can write to {self._directory}: set it to a "
                    "directory of your own"
                )
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigurationError(
                    f"JOBS__DIRECTORY: another server uses {self._directory}: stop that one, or "
                    "set another directory for this one"
                ) from error
            undo.pop_all()
        self._claim = directory

    def close(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    async def load(self) -> list[Job]:
        """See `JobStore.load`; a damaged file is reported and left out."""
        return await asyncio.to_thread(self._load)

    async def save(self, job: Job) -> None:
        await asyncio.to_thread(self._write, f"{job.id}.job.json", [_JOB.dump_json(job)])

    async def save_transcript(self, job_id: str, transcript: Transcript) -> None:
        lines = (line + b"\n" for line in transcript_lines(transcript))
        await asyncio.to_thread(self._write, f"{job_id}.transcript.jsonl", lines)

    async def transcript(self, job_id: str) -> Transcript | None:
        return await asyncio.to_thread(self._transcript, job_id)

    async def delete(self, job_id: str) -> None:
        await asyncio.to_thread(self._delete, job_id)

    def _load(self) -> list[Job]:
        self.claim()
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)  # the process was killed while it wrote this
        jobs = []
        for path in self._directory.glob("*.job.json"):
            try:
                jobs.append(_JOB.validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                logger.warning("the job in %s cannot be read: %s", path.name, error)
        return sorted(jobs, key=lambda job: job.submitted_at)

    def _transcript(self, job_id: str) -> Transcript | None:
        if not JOB_ID.fullmatch(job_id):
            return None
        path = self._directory / f"{job_id}.transcript.jsonl"
        try:
            with path.open("rb") as lines:
                return transcript_of(lines)
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logger.warning("the transcript in %s cannot be read: %s", path.name, error)
            return None

    def _delete(self, job_id: str) -> None:
        for kind in ("job.json", "transcript.jsonl"):
            path = self._directory / f"{job_id}.{kind}"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be deleted: %s", path.name, error)

    def _write(self, name: str, content: Iterable[bytes]) -> None:
        # A rename, so that a killed process leaves no incomplete file under this name.
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as undo:
                with tempfile.NamedTemporaryFile(
                    dir=self._directory, prefix=_UNFINISHED, delete=False
                ) as file:
                    unfinished = Path(file.name)
                    undo.callback(unfinished.unlink, missing_ok=True)
                    file.writelines(content)
                unfinished.replace(self._directory / name)
        except OSError as error:
            raise Unavailable(
                "the server cannot keep jobs: its disk is full or not writable"
            ) from error
