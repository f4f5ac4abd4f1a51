"""Uploads become files that are bounded, and deleted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from io import FileIO
from pathlib import Path

import pytest

from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.domain import Upload
from whisperx_api_server.errors import TooLarge, Unavailable

pytestmark = pytest.mark.anyio


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_saves_an_upload_in_chunks(workdir: Path) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=3_000_000)
    data = bytes(range(256)) * 10_000

    chunks = chunks_of(data[:9], b"", data[9:2_000_000], data[2_000_000:])
    saved = await store.put(chunks, filename="talk.mp3")

    assert (workdir / saved.id).read_bytes() == data
    assert saved.filename == "talk.mp3"
    assert saved.digest == hashlib.blake2b(data).hexdigest()
    await store.release(saved)
    assert is_empty(workdir)
    await store.release(saved)


async def test_an_upload_stays_until_its_last_holder_releases_it(workdir: Path) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=9)
    saved = await store.put(chunks_of(b"abc"), filename="a.wav")
    store.retain(saved)

    await store.release(saved)
    assert contents(workdir) == [b"abc"]
    await store.release(saved)
    assert is_empty(workdir)


async def test_an_adopted_file_stays_where_it_is(workdir: Path, tmp_path: Path) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=1)
    recording = tmp_path / "talk.mp3"
    recording.write_bytes(b"a long recording")

    adopted = store.adopt(recording)
    async with store.open(adopted) as path:
        assert path.read_bytes() == b"a long recording"
    await store.release(adopted)

    assert is_empty(workdir)
    assert recording.read_bytes() == b"a long recording"


@pytest.mark.parametrize("name", ["../secret", "secret", "", "0" * 31, "/etc/passwd"])
async def test_only_ids_of_a_store_open_its_files(workdir: Path, name: str) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=9)
    with pytest.raises(ValueError, match="id of an upload"):
        async with store.open(Upload(id=name)):
            pass


@pytest.mark.parametrize("filename", ["../../escape", "/etc/passwd", "a\0b", "", "x" * 5000, "."])
async def test_a_clients_filename_is_never_a_path(workdir: Path, filename: str) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=9)
    saved = await store.put(chunks_of(b"abc"), filename=filename)

    async with store.open(saved) as path:
        assert path.parent == workdir
    assert contents(workdir) == [b"abc"]
    assert saved.filename == filename


async def test_an_upload_may_be_as_large_as_the_limit_and_no_larger(workdir: Path) -> None:
    store = DiskBlobStore(workdir=workdir, max_bytes=1000)
    await store.release(await store.put(chunks_of(bytes(999), b"x"), filename="fits"))

    with pytest.raises(TooLarge, match="1000 bytes") as caught:
        await store.put(chunks_of(bytes(999), b"xy"), filename="does not", param="files")

    assert caught.value.param == "files"
    assert is_empty(workdir)


async def test_an_upload_that_breaks_off_leaves_nothing(workdir: Path) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        begun.set()
        await asyncio.sleep(60)

    store = DiskBlobStore(workdir=workdir, max_bytes=9_000_000)
    task = asyncio.create_task(store.put(slow(), filename="slow"))
    await begun.wait()
    assert not is_empty(workdir)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert is_empty(workdir)


async def test_a_full_disk_is_said_and_leaves_nothing(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", open_full_file)

    with pytest.raises(Unavailable, match="disk is full"):
        await DiskBlobStore(workdir=workdir, max_bytes=9).put(chunks_of(b"abc"), filename="a")

    assert is_empty(workdir)


def open_full_file(path: Path, _mode: str, **_: object) -> FileIO:
    """Create a file in which nothing fits: Linux's device that is always full stands for it."""
    path.touch()
    return FileIO("/dev/full", "wb")
