"""Jobs and their transcripts on disk: they outlive a restart, and go when old or too many."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from .domain import Job, Transcript
from .errors import Unavailable

logger = logging.getLogger(__name__)

_JOB = TypeAdapter(Job)
_TRANSCRIPT = TypeAdapter(Transcript)
_ID = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = ".unfinished-"


def default_directory() -> Path:
    """Where jobs are kept when no setting says so: a directory of this user's."""
    return Path(tempfile.gettempdir()) / f"whisperx-api-server-jobs-{os.getuid()}"


class JobStore:
    """One JSON file a job and one a transcript, in a directory of its own; called off the loop."""

    def __init__(self, directory: Path, *, max_age: float, max_count: int) -> None:
        self._directory = directory
        self._max_age = max_age
        self._max_count = max_count

    def load(self) -> list[Job]:
        """All jobs on disk, oldest first; a damaged file is reported and left out."""
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            path.unlink(missing_ok=True)  # the process was killed while it wrote this
        jobs = []
        for path in self._directory.glob("*.job.json"):
            try:
                jobs.append(_JOB.validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                logger.warning("the job in %s cannot be read: %s", path.name, error)
        return sorted(jobs, key=lambda job: job.submitted_at)

    def save(self, job: Job) -> None:
        """Keep a job as it is now.

        Raises:
            Unavailable: the disk does not take it.
        """
        self._write(f"{job.id}.job.json", _JOB.dump_json(job))

    def save_transcript(self, job_id: str, transcript: Transcript) -> None:
        """Keep what a job gave.

        Raises:
            Unavailable: the disk does not take it.
        """
        self._write(f"{job_id}.transcript.json", _TRANSCRIPT.dump_json(transcript))

    def transcript(self, job_id: str) -> Transcript | None:
        """What a job gave; None if it is not there, no longer, or damaged."""
        if not _ID.fullmatch(job_id):
            return None
        path = self._directory / f"{job_id}.transcript.json"
        try:
            return _TRANSCRIPT.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            logger.warning("the transcript in %s cannot be read: %s", path.name, error)
            return None

    def delete(self, job_id: str) -> None:
        """Forget a job and what it gave."""
        for kind in ("job", "transcript"):
            path = self._directory / f"{job_id}.{kind}.json"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s cannot be deleted: %s", path.name, error)

    def surplus(self, jobs: list[Job], now: float) -> list[Job]:
        """Which ended jobs are too old, or too many; `now` in seconds since the epoch."""
        ended = sorted((job for job in jobs if job.ended), key=lambda job: -job.submitted_at)
        return [
            job
            for place, job in enumerate(ended)
            if place >= self._max_count or now - (job.finished_at or now) > self._max_age
        ]

    def _write(self, name: str, content: bytes) -> None:
        # Whole or not at all, also when the process is killed halfway.
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with ExitStack() as undo:
                with tempfile.NamedTemporaryFile(
                    dir=self._directory, prefix=_UNFINISHED, delete=False
                ) as file:
                    unfinished = Path(file.name)
                    undo.callback(unfinished.unlink, missing_ok=True)
                    file.write(content)
                unfinished.replace(self._directory / name)
        except OSError as error:
            raise Unavailable(
                "the server cannot keep jobs: its disk is full or not writable"
            ) from error
