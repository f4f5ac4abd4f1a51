"""The bucket over S3 (obstore): its settings, objects, and the checks at start."""

from __future__ import annotations

import asyncio
import errno
import math
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SecretStr

from ..errors import DiskFull
from ..setting_types import Section
from .protocols import ClusterError, ClusterUnavailable, StoredObject
from .s3_admin import BucketAdmin

if TYPE_CHECKING:
    from obstore import PutMode, PutResult
    from obstore.store import ObjectStore, S3Config

_CHUNK_BYTES = 8 << 20
_RETRY_AFTER = 10.0
_FULL = "507 Insufficient Storage"  # obstore has no error of its own for it
_DAY = 24 * 3600
_WRITE_ATTEMPTS = 5


class S3Settings(Section):
    """S3, or a store that speaks its protocol (`MODE=kafka`)."""

    endpoint_url: str = Field("http://localhost:9000", description="URL of the store.")
    bucket: str = Field(
        "whisperx-audio",
        description="Bucket of recordings and results; created if it does not exist.",
    )
    prefix: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")] = Field(
        "whisperx", description="Prefix of all keys in the bucket."
    )
    access_key_id: str | None = Field(
        None,
        description="Access key. Unset takes credentials from AWS's variables or the machine's "
        "role; the bucket must exist then.",
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    region: str = Field("us-east-1", description="Region of the bucket.")


async def open_bucket(settings: S3Settings, max_age: float | None = None) -> ObjectBucket:
    """Make the bucket if it is absent, and check that it can be used.

    With a `max_age` in seconds, the store deletes what is more than a day older.

    Raises:
        ClusterError: one line that names the setting: no store answers, it refuses the key, the
            key may not use the bucket, or the store has no conditional writes.
    """
    if settings.access_key_id and settings.secret_access_key:
        async with BucketAdmin(
            endpoint=settings.endpoint_url,
            bucket=settings.bucket,
            region=settings.region,
            access_key_id=settings.access_key_id,
            secret=settings.secret_access_key.get_secret_value(),
        ) as admin:
            await admin.make()
            if max_age is not None:
                await admin.expire(settings.prefix, math.ceil(max_age / _DAY) + 1)
    bucket = ObjectBucket(_store(settings))
    await _check(bucket, settings.bucket)
    return bucket


def _store(settings: S3Settings) -> ObjectStore:
    from obstore.store import S3Store

    config: S3Config = {"endpoint": settings.endpoint_url, "region": settings.region}
    if settings.access_key_id and settings.secret_access_key:
        config["access_key_id"] = settings.access_key_id
        config["secret_access_key"] = settings.secret_access_key.get_secret_value()
    return S3Store(
        settings.bucket,
        prefix=settings.prefix,
        config=config,
        # Large objects take long: what stalls is noticed by the time between two reads.
        client_options={
            "allow_http": True,
            "connect_timeout": "3s",
            "read_timeout": "20s",
            "timeout": "1h",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
    )


async def _check(bucket: ObjectBucket, name: str) -> None:
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    key = f"check/{uuid.uuid4().hex}"
    try:
        created = [await bucket.create(key, b""), await bucket.create(key, b"")]
        found = await bucket.get(key)
        etag = found.etag if found else ""
        replaced = [await bucket.replace(key, data, etag) is not None for data in (b"1", b"2")]
        await bucket.delete(key)
    except ClusterUnavailable as error:
        if isinstance(error.__cause__, (PermissionDeniedError, UnauthenticatedError)):
            raise ClusterError(
                f"S3__BUCKET: the access key may not read, write, list and delete in {name}"
            ) from error
        if isinstance(error.__cause__, (BaseError, FileNotFoundError)):
            raise ClusterError(
                f"S3__BUCKET: {name} cannot be used: it does not exist, or the store does not "
                "answer"
            ) from error
        raise
    for header, written in (("If-None-Match", created), ("If-Match", replaced)):
        if written != [True, False]:
            raise ClusterError(
                f"S3__ENDPOINT_URL: this store has no conditional writes by {header}, which "
                "MODE=kafka needs: use another store"
            )


class ObjectBucket:
    """Objects in a store of obstore; implements `protocols.Bucket`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def create(self, key: str, data: bytes) -> bool:
        with _translated():
            return await self._write(key, data, "create") is not None

    async def put(self, key: str, data: bytes) -> None:
        with _translated():
            await self._write(key, data, "overwrite")

    async def get(self, key: str) -> StoredObject | None:
        with _translated():
            try:
                found = await self._store.get_async(key)
            except FileNotFoundError:
                return None
            return StoredObject(
                data=bytes(await found.bytes_async()), etag=found.meta["e_tag"] or ""
            )

    async def replace(self, key: str, data: bytes, etag: str) -> str | None:
        from obstore.exceptions import PreconditionError

        with _translated():
            try:
                stored = await self._write(key, data, {"e_tag": etag})
            except PreconditionError:
                return None
            return stored and stored["e_tag"]

    async def upload(self, key: str, path: Path) -> None:
        with _translated():
            await self._write(key, path, "overwrite")

    async def _write(self, key: str, data: bytes | Path, mode: PutMode) -> PutResult | None:
        """Store an object, again after a conflict; None if it is to be created, and exists.

        S3 answers 409 to one of two writes at once; versitygw also while another object's deletion
        removes the folder, as if there were an object.
        """
        from obstore.exceptions import AlreadyExistsError

        attempts = 0
        while True:
            attempts += 1
            try:
                return await self._store.put_async(key, data, mode=mode)
            except AlreadyExistsError:
                if mode == "create" and await self.get(key) is not None:
                    return None
                if attempts == _WRITE_ATTEMPTS:
                    raise

    async def download(self, key: str, path: Path) -> bool:
        with _translated():
            try:
                found = await self._store.get_async(key)
            except FileNotFoundError:
                return False
            chunks = found.stream(min_chunk_size=_CHUNK_BYTES)
            try:
                with await asyncio.to_thread(path.open, "wb") as file:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            except BaseException:
                await asyncio.to_thread(path.unlink, missing_ok=True)
                raise
        return True

    async def list(self, prefix: str) -> Mapping[str, float]:
        with _translated():
            found = await self._store.list(prefix).collect_async()
        return {each["path"]: each["last_modified"].timestamp() for each in found}

    async def delete(self, prefix: str) -> None:
        keys = [prefix, *await self.list(prefix)]
        with _translated():
            await self._store.delete_async(keys)


@contextmanager
def _translated() -> Iterator[None]:
    from obstore.exceptions import BaseError

    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull from error
        raise _unavailable() from error
    except BaseError as error:
        if _FULL in str(error):
            raise ClusterUnavailable(
                "the server's object store is full: try again later", retry_after=_RETRY_AFTER
            ) from error
        raise _unavailable() from error


def _unavailable() -> ClusterUnavailable:
    return ClusterUnavailable(
        "the server cannot reach its object store: try again later", retry_after=_RETRY_AFTER
    )
