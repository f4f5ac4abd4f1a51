"""Bucket: the same of S3 as of its stand-in in memory, and of obstore's."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr

from brokers import S3_KEY, s3_server
from memory_cluster import MemoryBucket
from whisperx_api_server.distributed.bucket import ObjectBucket, S3Settings, _store, open_bucket
from whisperx_api_server.distributed.protocols import Bucket
from whisperx_api_server.errors import Unavailable

Buckets = Callable[[Callable[[Bucket], Awaitable[None]]], None]


@pytest.fixture(params=["memory", "obstore", "real"])
def on_bucket(request: pytest.FixtureRequest) -> Buckets:
    """Run a scene on a new bucket."""
    if request.param == "memory":
        return lambda scene: asyncio.run(_run(scene, MemoryBucket()))
    if request.param == "obstore":
        obstore = pytest.importorskip("obstore.store")
        return lambda scene: asyncio.run(_run(scene, ObjectBucket(obstore.MemoryStore())))
    url = request.getfixturevalue("s3_url")

    async def real(scene: Callable[[Bucket], Awaitable[None]]) -> None:
        await scene(await open_bucket(s3_settings(url)))

    return lambda scene: asyncio.run(real(scene))


async def _run(scene: Callable[[Bucket], Awaitable[None]], bucket: Bucket) -> None:
    await scene(bucket)


def s3_settings(url: str) -> S3Settings:
    return S3Settings(
        endpoint_url=url,
        bucket=f"t{uuid.uuid4().hex}",
        access_key_id=S3_KEY,
        secret_access_key=SecretStr(S3_KEY),
    )


def test_one_of_many_creates_an_object(on_bucket: Buckets) -> None:
    async def scene(bucket: Bucket) -> None:
        names = [str(n).encode() for n in range(64)]
        created = await asyncio.gather(*(bucket.create("runs/1/end", name) for name in names))
        assert sum(created) == 1
        stored = await bucket.get("runs/1/end")
        assert stored is not None
        assert stored.data == names[created.index(True)]

    on_bucket(scene)


def test_deletions_beside_it_hinder_no_write(on_bucket: Buckets, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"audio")

    async def scene(bucket: Bucket) -> None:
        async def write_and_delete(chain: int) -> None:
            for n in range(100):
                key = f"beside/{chain}-{n}"
                assert await bucket.create(f"{key}/end", b"")
                await bucket.delete(key)
                await bucket.put(f"{key}/request", b"")
                await bucket.delete(key)
                await bucket.upload(f"{key}/audio", source)
                await bucket.delete(key)

        await asyncio.gather(*map(write_and_delete, range(3)))

    on_bucket(scene)


def test_object_is_replaced_only_in_the_version_that_was_read(on_bucket: Buckets) -> None:
    async def scene(bucket: Bucket) -> None:
        assert await bucket.replace("owner", b"x", "none") is None
        await bucket.put("owner", b"a")
        first = await bucket.get("owner")
        assert first is not None
        second = await bucket.replace("owner", b"b", first.etag)
        assert second is not None
        assert await bucket.replace("owner", b"c", first.etag) is None
        assert await bucket.replace("owner", b"d", second) is not None
        stored = await bucket.get("owner")
        assert stored is not None
        assert stored.data == b"d"

    on_bucket(scene)


def test_prefix_ends_at_a_slash(on_bucket: Buckets) -> None:
    async def scene(bucket: Bucket) -> None:
        for key in ("runs/1", "runs/1/a", "runs/1/b/c", "runs/10/a"):
            if key != "runs/1":
                await bucket.put(key, b"")
        assert sorted(await bucket.list("runs/1")) == ["runs/1/a", "runs/1/b/c"]
        await bucket.delete("runs/1/a")
        assert sorted(await bucket.list("runs/1/")) == ["runs/1/b/c"]
        await bucket.delete("runs/1/")
        await bucket.delete("runs/1")
        assert sorted(await bucket.list("runs")) == ["runs/10/a"]
        assert abs((await bucket.list("runs"))["runs/10/a"] - time.time()) < 3600
        assert await bucket.get("runs/1/b/c") is None

    on_bucket(scene)


def test_file_is_stored_and_fetched_whole(on_bucket: Buckets, tmp_path: Path) -> None:
    source, copy, none = tmp_path / "source", tmp_path / "copy", tmp_path / "none"
    source.write_bytes(bytes(range(256)) * 80_000)  # 20 MB: several parts

    async def scene(bucket: Bucket) -> None:
        await bucket.upload("runs/1/source", source)
        assert await bucket.download("runs/1/source", copy)
        assert not await bucket.download("runs/2/source", none)

    on_bucket(scene)
    assert copy.read_bytes() == source.read_bytes()
    assert not none.exists()


def test_bucket_is_unavailable_while_the_store_is_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        with s3_server(tmp_path) as server:
            bucket = await open_bucket(s3_settings(f"http://{server.address}"))
            await bucket.put("runs/1/end", b"1")
            await asyncio.to_thread(server.stop)
            for call in (
                bucket.get("runs/1/end"),
                bucket.create("runs/2/end", b""),
                bucket.list("runs"),
                bucket.delete("runs"),
                bucket.upload("runs/1/source", tmp_path / "s3.out"),
                bucket.download("runs/1/end", tmp_path / "copy"),
            ):
                with pytest.raises(Unavailable) as error:
                    await call
                assert str(error.value) == (
                    "the server cannot reach its object store: try again later"
                )
            assert not (tmp_path / "copy").exists()
            await asyncio.to_thread(server.start)
            stored = await bucket.get("runs/1/end")
            assert stored is not None
            assert stored.data == b"1"

    asyncio.run(scenario())


class FullStore(BaseHTTPRequestHandler):
    """Answers writes as versitygw and MinIO do on a full disk; the bucket has nothing else."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(507, "Insufficient Storage")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_full_store_is_named(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    recording = tmp_path / "recording"
    recording.write_bytes(b"audio")

    async def scenario(url: str) -> None:
        bucket = ObjectBucket(_store(s3_settings(url)))
        for call in (
            bucket.put("runs/1/request.json", b""),
            bucket.create("runs/1/end", b""),
            bucket.upload("runs/1/audio/0", recording),
        ):
            with pytest.raises(Unavailable, match="object store is full: try") as error:
                await call
            assert error.value.retry_after

    with ThreadingHTTPServer(("127.0.0.1", 0), FullStore) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(scenario(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
