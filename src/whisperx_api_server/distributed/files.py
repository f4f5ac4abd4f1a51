"""Objects of runs in the bucket: requests, recordings, events, checkpoints and results."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from pydantic import TypeAdapter

from ..audio.uploads import BlobStore
from ..domain import Diarization, TranscriptionRequest, Upload, WindowTranscript
from ..errors import NotFound, Unavailable
from ..pipeline.runner import Checkpoint
from ..trace_context import trace_context
from .protocols import Bucket, StoredObject
from .retries import until_available
from .stored import (
    RUN_EVENT,
    STORED_REQUEST,
    AnyRequest,
    End,
    RunEvent,
    StoredRequest,
    audio_prefix,
    dump_checkpoint,
    dump_end,
    load_checkpoint,
    load_end,
    memory_name,
    pack,
    run_prefix,
)
from .wire import Kind, Notice, Wire

logger = logging.getLogger(__name__)

MEMORY = "memory"

_PART = re.compile(r"/(?P<time>\d+)-(?P<run>[^/-]+)-[^/]+$")

READS = 16
"""Objects that are read at the same time."""


class RunFiles:
    """The objects of runs; each method raises Unavailable while the bucket cannot be reached.

    For `retry_window` seconds, a run resumes from the checkpoint of an equal one that did not end.
    """

    def __init__(self, bucket: Bucket, *, retry_window: float) -> None:
        self.retry_window = retry_window
        self._bucket = bucket
        self._in_use: set[str] = set()
        self._unwanted: set[str] = set()

    # -- requests -----------------------------------------------------------------------------

    async def store(
        self,
        request: AnyRequest,
        kind: Kind,
        blobs: BlobStore,
        *,
        replica: str,
    ) -> StoredRequest:
        """Store a request and its uploads, all at once."""
        packed = pack(request) if isinstance(request, TranscriptionRequest) else None
        stored = StoredRequest(
            request=request if packed is None else packed.request,
            replica=replica,
            memory=memory_name(request, kind),
            trace=dict(trace_context.get()),
        )

        async def store_upload(key: str, upload: Upload) -> None:
            async with blobs.open(upload) as path:
                await self._bucket.upload(key, path)

        outcomes = await asyncio.gather(
            self._bucket.put(_request_key(request.id), STORED_REQUEST.dump(stored)),
            *(store_upload(*each) for each in (packed.uploads.items() if packed else ())),
            return_exceptions=True,  # none goes on after this call
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return stored

    async def request(self, run: str) -> StoredRequest | None:
        """The request of a run; None if the run is gone.

        Raises:
            ValueError: another version has stored it, and it is not understood.
        """
        found = await self._bucket.get(_request_key(run))
        return None if found is None else STORED_REQUEST.load(found.data)

    async def join(self, run: str, replica: str) -> bool:
        """Make a replica the one that a run is computed for; False if the run is gone.

        Raises:
            ValueError: another version has stored the request, and it is not understood.
        """
        version: str | None = None
        while version is None:
            found = await self._bucket.get(_request_key(run))
            if found is None:
                return False
            stored = replace(STORED_REQUEST.load(found.data), replica=replica)
            data = STORED_REQUEST.dump(stored)
            version = await self._bucket.replace(_request_key(run), data, found.etag)
        return True

    async def replica(self, run: str) -> str:
        """The replica that a run is computed for; empty if the run is gone or not understood."""
        try:
            stored = await self.request(run)
        except ValueError:
            return ""
        return "" if stored is None else stored.replica

    async def owner(self, job_id: str) -> str | None:
        """The replica that has a job; None if the job does not exist."""
        found = await self._bucket.get(job_key(job_id))
        return None if found is None else owner_of(found)

    # -- ends ---------------------------------------------------------------------------------

    async def finish(self, run: str, end: End) -> bool:
        """Decide how a run ended; False if that is decided already."""
        data = await asyncio.to_thread(dump_end, end)
        return await self._bucket.create(_end_key(run), data)

    async def end(self, run: str) -> End | None:
        """How a run ended; None if it has not.

        Raises:
            ValueError: another version has stored it, and it is not understood.
        """
        found = await self._bucket.get(_end_key(run))
        return None if found is None else await asyncio.to_thread(load_end, found.data)

    # -- events -------------------------------------------------------------------------------

    async def store_events(
        self, run: str, attempt: str, part: int, events: Sequence[RunEvent]
    ) -> None:
        """Store the next events of an attempt; parts are counted from 0."""
        data = await asyncio.to_thread(lambda: b"\n".join(map(RUN_EVENT.dump, events)))
        await self._bucket.put(f"{_events_prefix(run)}/{attempt}/{part}", data)

    async def events(self, run: str, attempt: str, parts: Iterable[int]) -> list[RunEvent]:
        """The events of some parts, in order; those that cannot be read are left out."""
        keys = [f"{_events_prefix(run)}/{attempt}/{part}" for part in parts]
        found = await self._contents(keys)
        lines = [line for each in found for line in each.split(b"\n")]
        return await asyncio.to_thread(lambda: [*_read_events(run, lines)])

    async def notices(self, run: str) -> list[Notice]:
        """What the topic `events` has said of a run by now; nothing if the run is gone."""
        keys = await self._bucket.list(run_prefix(run))
        if _request_key(run) not in keys:
            return []
        ended = _end_key(run) in keys
        below = f"{_events_prefix(run)}/"
        parts = Counter(key[len(below) :].split("/")[0] for key in keys if key.startswith(below))
        return [Notice(run=run, attempt=each, parts=count) for each, count in parts.items()] + [
            Notice(run=run, ended=ended)
        ]

    # -- what is deleted ----------------------------------------------------------------------

    async def delete_audio(self, run: str) -> None:
        """Delete the recordings of a run that has ended."""
        await self._bucket.delete(audio_prefix(run))

    async def delete(self, run: str) -> None:
        """Delete all of a run, once it is not in use; a worker that gets it then ignores it."""
        if run in self._in_use:
            self._unwanted.add(run)
        else:
            await self._bucket.delete(run_prefix(run))

    @asynccontextmanager
    async def in_use(self, run: str) -> AsyncIterator[None]:
        """Keep a run while the context is open: its job may end before others that share it."""
        self._in_use.add(run)
        try:
            yield
        finally:
            self._in_use.remove(run)
            if run in self._unwanted:
                self._unwanted.remove(run)
                await self.discard(run)

    async def discard(self, run: str) -> None:
        """Delete a run; if the bucket cannot be reached, `delete_old` deletes it later."""
        try:
            await self.delete(run)
        except Unavailable as error:
            logger.warning("run %s could not be deleted: %s", run, error.message)

    # -- attempts and checkpoints -------------------------------------------------------------

    async def deaths(self, run: str) -> int:
        """How many workers may have died with a suspect: they had it, and have not survived."""
        attempts = await self._bucket.list(_attempts_prefix(run))
        survived = await self._bucket.list(_survived_prefix(run))
        return 1 + len(attempts) - len(survived)  # the first attempt is not stored

    async def begin_attempt(self, run: str) -> None:
        """Count a further attempt at a suspect."""
        await self._bucket.put(f"{_attempts_prefix(run)}/{uuid4().hex}", b"")

    async def survive(self, run: str) -> None:
        """Note that a worker gave up a run that it had, and lives."""
        await self._bucket.put(f"{_survived_prefix(run)}/{uuid4().hex}", b"")

    async def checkpoint(self, stored: StoredRequest) -> Checkpoint:
        """The results so far of a run, and of equal ones that did not end.

        Parts that cannot be read are left out.
        """
        oldest = time.time() - self.retry_window
        keys = [
            key
            for key in await self._bucket.list(_memory(stored))
            if (written := _PART.search(key))
            and (written["run"] == stored.request.id or int(written["time"]) > oldest)
        ]
        return await asyncio.to_thread(load_checkpoint, await self._contents(keys))

    async def _contents(self, keys: Iterable[str]) -> list[bytes]:
        """The objects of keys, in order, without those that are gone."""
        reads = asyncio.Semaphore(READS)

        async def content(key: str) -> StoredObject | None:
            async with reads:
                return await self._bucket.get(key)

        found = await asyncio.gather(*map(content, keys))
        return [each.data for each in found if each is not None]

    async def remember(
        self,
        stored: StoredRequest,
        windows: Iterable[WindowTranscript],
        diarization: Diarization | None,
    ) -> None:
        """Add a part to the checkpoint of a run."""
        data = await asyncio.to_thread(dump_checkpoint, list(windows), diarization)
        name = f"{int(time.time())}-{stored.request.id}-{uuid4().hex}"
        await self._bucket.put(f"{_memory(stored)}/{name}", data)

    async def forget(self, stored: StoredRequest) -> None:
        """Delete a checkpoint: the next equal request is computed anew."""
        await self._bucket.delete(_memory(stored))

    async def delete_old(self, before: float, kept: Container[str]) -> None:
        """Delete the checkpoints, and the runs except those `kept`, that are older than a time."""
        for key, stored in (await self._bucket.list(MEMORY)).items():
            if stored < before:
                await self._bucket.delete(key)
        for run, stored in last_stored(await self._bucket.list("runs")).items():
            if stored < before and run not in kept:
                await self.delete(run)


def last_stored(keys: Mapping[str, float]) -> dict[str, float]:
    """When something of each run or job was stored last, of their keys and times."""
    last: dict[str, float] = {}
    for key, stored in keys.items():
        name = key.split("/")[1]
        last[name] = max(stored, last.get(name, stored))
    return last


class BucketUploads:
    """Recordings that the uploads of a `StoredRequest` name, copied here while they are read."""

    def __init__(self, bucket: Bucket, workdir: Path) -> None:
        self._bucket = bucket
        self._workdir = workdir

    @asynccontextmanager
    async def open(self, upload: Upload) -> AsyncIterator[Path]:
        """See `BlobStore.open`; waits while the bucket is away.

        Raises:
            NotFound: the run has ended, and its recordings are deleted.
        """
        path = self._workdir / uuid4().hex
        try:
            if not await until_available(lambda: self._bucket.download(upload.id, path)):
                raise NotFound("the recording is gone: the request has ended")
            yield path
        finally:
            await asyncio.to_thread(path.unlink, missing_ok=True)


def job_key(job_id: str) -> str:
    """Where a job is, with the name of the replica that has it."""
    return f"jobs/{job_id}/job.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Owned:
    owner: str


_OWNED: Wire[_Owned] = Wire(TypeAdapter(_Owned))


def owner_of(job: StoredObject) -> str:
    """The replica that has a stored job; empty if it is of a version that is not understood."""
    try:
        return _OWNED.load(job.data).owner
    except ValueError:
        return ""


def _memory(stored: StoredRequest) -> str:
    return f"{MEMORY}/{stored.memory}"


def _request_key(run: str) -> str:
    return f"{run_prefix(run)}/request.json"


def _end_key(run: str) -> str:
    return f"{run_prefix(run)}/end"


def _events_prefix(run: str) -> str:
    return f"{run_prefix(run)}/events"


def _read_events(run: str, lines: Iterable[bytes]) -> Iterator[RunEvent]:
    for line in lines:
        try:
            yield RUN_EVENT.load(line)
        except ValueError as error:  # of a newer version
            logger.warning("an event of %s is not understood: %s", run, error)


def _attempts_prefix(run: str) -> str:
    return f"{run_prefix(run)}/attempts"


def _survived_prefix(run: str) -> str:
    return f"{run_prefix(run)}/survived"
