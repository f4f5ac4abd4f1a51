"""URL fetches from a real server on the loopback interface.

Only name resolution is replaced. Where a test needs a public address, it calls 127.0.0.1 one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import shutil
import socket
import ssl
import subprocess
import threading
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from support import PATIENCE
from whisperx_api_server.audio import urls
from whisperx_api_server.audio.decode import AudioDecoder
from whisperx_api_server.audio.sources import SourceOpener
from whisperx_api_server.audio.uploads import DiskBlobStore
from whisperx_api_server.audio.urls import (
    SystemResolver,
    UrlFetcher,
    UrlFetchSettings,
    is_public_address,
)
from whisperx_api_server.domain import SAMPLE_RATE, RemoteUrl
from whisperx_api_server.errors import InvalidAudio, InvalidRequest, TooLarge

pytestmark = pytest.mark.anyio

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = ipaddress.ip_network("127.0.0.0/8")
    refused = tuple(network for network in urls._REFUSED_V4 if network != loopback)
    monkeypatch.setattr(urls, "_REFUSED_V4", refused)


class Site:
    """An HTTP/1.1 server that answers each path with the bytes that it is told."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[str] = []
        self.answers: dict[str, Answer] = {}

    def url(self, path: str, host: str = "audio.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def put(self, path: str, head: str, body: bytes = b"") -> None:
        """Answer with a status line, headers and a body, as they are."""

        async def answer(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 " + head.strip().replace("\n", "\r\n").encode())
            writer.write(b"\r\nConnection: close\r\n\r\n" + body)

        self.answers[path] = answer

    def put_file(self, path: str, body: bytes) -> None:
        self.put(path, f"200 OK\nContent-Length: {len(body)}", body)

    def redirect(self, path: str, location: str) -> None:
        self.put(path, f"302 Found\nLocation: {location}\nContent-Length: 0")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if length := re.search(r"(?i)content-length: (\d+)", head):
                head += (await reader.readexactly(int(length[1]))).decode()
            self.requests.append(head)
            await self.answers[head.split()[1]](writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has hung up, as some tests want it to
        finally:
            writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1")
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


class Names:
    """A name server: `audio.test` is the site. Each name may have several answers, one a query."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Sequence[str]]] = {"audio.test": [["127.0.0.1"]]}
        self.queries: list[str] = []
        self._system = SystemResolver()

    async def resolve(self, host: str) -> Sequence[str]:
        self.queries.append(host)
        if host not in self.answers:
            return await self._system(host)
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def fetcher_with(workdir: Path, names: Names) -> Callable[..., UrlFetcher]:
    def make(
        *,
        allowed_hosts: tuple[str, ...] = (),
        allow_private_hosts: bool = True,
        max_bytes: int = 1_000_000,
        timeout: float = 20,
    ) -> UrlFetcher:
        policy = UrlFetchSettings(
            allowed_hosts=list(allowed_hosts),
            allow_private_hosts=allow_private_hosts,
            timeout=timeout,
        )
        uploads = DiskBlobStore(workdir=workdir, max_bytes=max_bytes)
        return UrlFetcher(policy, uploads=uploads, resolve=names.resolve)

    return make


@pytest.fixture
def fetcher(fetcher_with: Callable[..., UrlFetcher]) -> UrlFetcher:
    return fetcher_with()


async def fetch(fetcher: UrlFetcher, url: str) -> bytes:
    async with fetcher.open(url) as path:
        return await asyncio.to_thread(path.read_bytes)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


# What is fetched


async def test_fetches_into_a_file_that_is_deleted(
    fetcher: UrlFetcher, site: Site, workdir: Path
) -> None:
    data = bytes(range(256)) * 1000
    site.put_file("/a.mp3?signature=x%2Fy", data)

    async with fetcher.open(site.url("/a.mp3?signature=x%2Fy")) as path:
        assert path.parent == workdir
        assert path.read_bytes() == data
    assert is_empty(workdir)
    assert "accept-encoding: identity" in site.requests[0].lower()


async def test_fetches_chunked_and_unmeasured_answers(fetcher: UrlFetcher, site: Site) -> None:
    site.put("/chunked", "200 OK\nTransfer-Encoding: chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    site.put("/until-close", "200 OK", b"abcde")

    assert await fetch(fetcher, site.url("/chunked")) == b"abcde"
    assert await fetch(fetcher, site.url("/until-close")) == b"abcde"


async def test_follows_redirects_but_not_forever(fetcher: UrlFetcher, site: Site) -> None:
    site.put_file("/end", b"sound")
    site.redirect("/1", "/2")
    for hop in range(2, 6):
        site.redirect(f"/{hop}", site.url(f"/{hop + 1}"))
    site.redirect("/5", "end")
    site.redirect("/0", "/1")

    assert await fetch(fetcher, site.url("/1")) == b"sound"
    with pytest.raises(InvalidRequest, match="redirected more than 5 times"):
        await fetch(fetcher, site.url("/0"))


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "206 Partial"])
async def test_names_the_status_when_there_is_no_file(
    fetcher: UrlFetcher, site: Site, status: str
) -> None:
    site.put("/a", f"{status}\nContent-Length: 0")

    with pytest.raises(InvalidRequest, match=f"status {status[:3]}") as caught:
        await fetch(fetcher, site.url("/a"))
    assert caught.value.param == "audio_url"
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("head", "error"),
    [
        ("200 OK\nContent-Length: 99999999", TooLarge),
        ("200 OK\nTransfer-Encoding: chunked", TooLarge),
        ("200 OK", TooLarge),
        ("200 OK\nContent-Length: 10\nContent-Encoding: gzip", InvalidRequest),
        ("200 OK\nContent-Length: 3000000000000000000000000000000000000", InvalidRequest),
    ],
)
async def test_size_is_capped_whatever_the_server_says(
    fetcher: UrlFetcher, site: Site, workdir: Path, head: str, error: type[Exception]
) -> None:
    body = b"80000\r\n" + bytes(0x80000) + b"\r\n" if "chunked" in head else bytes(0x80000)
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 {head}\n\n".replace("\n", "\r\n").encode())
        while True:
            writer.write(body)
            await writer.drain()
            sent += len(body)

    site.answers["/endless"] = endless
    with pytest.raises(error):
        await fetch(fetcher, site.url("/endless"))

    assert sent < 20_000_000  # what socket buffers hold beyond the limit of 1 MB
    assert is_empty(workdir)


async def test_a_truncated_download_is_an_error(
    fetcher: UrlFetcher, site: Site, workdir: Path
) -> None:
    site.put("/short", "200 OK\nContent-Length: 1000", b"only this")
    site.put("/nonsense", "this is no http")

    for path in ("/short", "/nonsense"):
        with pytest.raises(InvalidRequest, match="closed the connection"):
            await fetch(fetcher, site.url(path))
    assert is_empty(workdir)


@pytest.mark.parametrize("redirecting", [False, True])
async def test_time_is_capped_in_total(
    fetcher_with: Callable[..., UrlFetcher], site: Site, workdir: Path, redirecting: bool
) -> None:
    """Each byte comes soon enough for a read timeout; and a redirect's body is not waited for."""
    site.put_file("/end", b"sound")

    async def drip(writer: asyncio.StreamWriter) -> None:
        status = "302 Found\r\nLocation: /end" if redirecting else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 1000000\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    site.answers["/drip"] = drip
    fetcher = fetcher_with(timeout=60 if redirecting else 0.5)
    if redirecting:
        assert await fetch(fetcher, site.url("/drip")) == b"sound"
    else:
        with pytest.raises(InvalidRequest, match="took too long"):
            await fetch(fetcher, site.url("/drip"))
    assert is_empty(workdir)


async def test_cancelling_a_fetch_leaves_nothing(
    fetcher: UrlFetcher, site: Site, workdir: Path
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stall(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
        await writer.drain()
        begun.set()
        await ended.wait()

    site.answers["/stall"] = stall
    task = asyncio.create_task(fetch(fetcher, site.url("/stall")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_empty(workdir)
    ended.set()


async def test_ignores_proxies_and_credentials_of_the_environment(
    fetcher: UrlFetcher, site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine audio.test login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.put_file("/a", b"sound")

    assert await fetch(fetcher, site.url("/a")) == b"sound"
    assert "authorization" not in site.requests[0].lower()


# What is refused


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.mp3",
        "//audio.test/a",
        "file:///etc/passwd",
        "ftp://audio.test/a",
        "gopher://audio.test/a",
        "data:audio/wav;base64,AAAA",
        "http://",
        "http:///a",
        "http://audio.test:99999/a",
        "http://audio.test:port/a",
        "http://[::1/a",
        "http://audio.test/\n",
        "http://" + "a" * 70 + ".test/",
        "http://xn--\u00e4.test/",
        "http://.test/",
        "http://a..b/",
        "http://user@audio.test/a",
        "http://user:secret@audio.test/a",
        "http://audio.test/" + "a" * 70_000,
    ],
)
async def test_refuses_urls_that_are_not_plain_http(
    fetcher: UrlFetcher, site: Site, url: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await fetch(fetcher, url)
    assert caught.value.param == "audio_url"
    assert "secret" not in caught.value.message
    with pytest.raises(InvalidRequest):
        await fetcher.check(url)


PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:a9fe:a9fe::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "no address",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_knows_special_addresses(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "172.32.0.1",
        "100.128.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ],
)
async def test_knows_public_addresses(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "017700000001",
        "127.1",
        "[::1]",
        "0",
        "[::ffff:127.0.0.1]",
        "127.0.0.1.",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460\u2461\u2466.0.0.1",
    ],
)
async def test_refuses_the_loopback_in_every_spelling(
    fetcher_with: Callable[..., UrlFetcher], site: Site, host: str
) -> None:
    site.put_file("/a", b"internal")

    with pytest.raises(InvalidRequest):
        await fetch(fetcher_with(allow_private_hosts=False), site.url("/a", host))
    assert not site.requests


async def test_refuses_a_host_when_any_of_its_addresses_is_private(
    fetcher_with: Callable[..., UrlFetcher],
    site: Site,
    names: Names,
    loopback_is_public: None,
) -> None:
    site.put_file("/a", b"sound")
    fetcher = fetcher_with(allow_private_hosts=False)
    assert await fetch(fetcher, site.url("/a")) == b"sound"

    names.answers["audio.test"] = [["127.0.0.1", "10.0.0.1"]]
    with pytest.raises(InvalidRequest):
        await fetch(fetcher, site.url("/a"))
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:{port}/inside",
        "http://inside.test:{port}/inside",
        "//inside.test:{port}/inside",
        "file:///etc/passwd",
        "http://me:pw@audio.test:{port}/inside",
        "http://:99999/",
        "http://a:b:c/",
        "gopher:x",
    ],
)
async def test_refuses_redirects_to_where_it_would_not_go_itself(
    fetcher_with: Callable[..., UrlFetcher],
    site: Site,
    names: Names,
    loopback_is_public: None,
    location: str,
) -> None:
    names.answers["inside.test"] = [["192.168.0.9"]]
    site.put_file("/inside", b"internal")
    site.redirect("/a", location.format(port=site.port))

    with pytest.raises(InvalidRequest):
        await fetch(fetcher_with(allow_private_hosts=False), site.url("/a"))
    assert len(site.requests) == 1


async def test_connects_to_the_address_that_was_checked(
    fetcher_with: Callable[..., UrlFetcher],
    site: Site,
    names: Names,
    loopback_is_public: None,
) -> None:
    """A name server that answers the second query differently is not asked a second time."""
    names.answers["audio.test"] = [["127.0.0.1"], ["10.0.0.1"]]
    site.put_file("/a", b"sound")

    assert await fetch(fetcher_with(allow_private_hosts=False), site.url("/a")) == b"sound"
    assert names.queries == ["audio.test"]
    assert f"Host: audio.test:{site.port}" in site.requests[0]


async def test_does_not_tell_what_is_inside(
    fetcher_with: Callable[..., UrlFetcher], names: Names
) -> None:
    names.answers["exists.test"] = [["10.9.8.7"]]
    names.answers["exists-not.test"] = [[]]
    fetcher = fetcher_with(allow_private_hosts=False)
    messages = set()
    for host in ("exists.test", "exists-not.test"):
        with pytest.raises(InvalidRequest) as caught:
            await fetch(fetcher, f"http://{host}/")
        messages.add(caught.value.message)

    assert len(messages) == 1
    assert "10.9.8.7" not in messages.pop()


async def test_tries_the_next_address_of_a_host(
    fetcher: UrlFetcher, site: Site, names: Names
) -> None:
    names.answers["audio.test"] = [["127.0.0.2", "127.0.0.1"]]
    site.put_file("/a", b"sound")
    assert await fetch(fetcher, site.url("/a")) == b"sound"

    names.answers["audio.test"] = [["127.0.0.2", "127.0.0.3"]]
    with pytest.raises(InvalidRequest, match="cannot be reached") as caught:
        await fetch(fetcher, site.url("/a"))
    assert "127.0.0" not in caught.value.message


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("audio.test", True),
        ("AUDIO.Test", True),
        ("audio.test.", True),
        ("a.storage.test", True),
        ("a.b.storage.test", True),
        ("storage.test", False),
        ("evilstorage.test", False),
        ("audio.test.evil.test", False),
        ("127.0.0.1", False),
    ],
)
async def test_fetches_from_allowed_hosts_only(
    fetcher_with: Callable[..., UrlFetcher], site: Site, names: Names, host: str, allowed: bool
) -> None:
    names.answers[host.lower()] = [["127.0.0.1"]]
    site.put_file("/a", b"sound")
    site.redirect("/redirected", site.url("/a", host))
    fetcher = fetcher_with(allowed_hosts=("Audio.test", "*.storage.test"))

    for url in (site.url("/a", host), site.url("/redirected")):
        if allowed:
            assert await fetch(fetcher, url) == b"sound"
        else:
            with pytest.raises(InvalidRequest, match="not among those"):
                await fetch(fetcher, url)


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    name = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command.split(), *name, *files], check=True, capture_output=True)
    return certificate, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
async def test_a_certificate_must_be_the_hosts_not_the_addresss(
    fetcher: UrlFetcher,
    names: Names,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, key = make_certificate(tmp_path, "audio.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names.answers["other.test"] = [["127.0.0.1"]]
    site = Site()
    site.put_file("/a", b"sound")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)

    async with await asyncio.start_server(site.serve, "127.0.0.1", ssl=tls) as server:
        site.port = server.sockets[0].getsockname()[1]
        assert await fetch(fetcher, site.url("/a", scheme="https")) == b"sound"
        with pytest.raises(InvalidRequest, match="cannot be reached"):
            await fetch(fetcher, site.url("/a", host="other.test", scheme="https"))

    assert asked == ["audio.test", "other.test"]
    assert len(site.requests) == 1


# Webhooks


async def test_posts_under_the_same_guard(
    fetcher_with: Callable[..., UrlFetcher], site: Site, names: Names
) -> None:
    site.put("/hook", "202 Accepted\nContent-Length: 2", b"ok")
    site.redirect("/moved", site.url("/hook"))
    headers = {"content-type": "application/json", "x-signature": "abc"}

    fetcher = fetcher_with()
    assert await fetcher.post(site.url("/hook"), content=b'{"id": 1}', headers=headers) == 202
    assert site.requests[0].startswith("POST /hook ")
    assert "x-signature: abc" in site.requests[0]
    assert site.requests[0].endswith('{"id": 1}')
    assert await fetcher.post(site.url("/moved"), content=b"", headers=headers) == 302
    await fetcher.check(site.url("/hook"))

    guarded = fetcher_with(allow_private_hosts=False)
    with pytest.raises(InvalidRequest) as caught:
        await guarded.post(site.url("/hook"), content=b"", headers=headers)
    assert caught.value.param == "callback_url"
    with pytest.raises(InvalidRequest):
        await guarded.check(site.url("/hook"))
    assert len(site.requests) == 2


# Name servers that do not answer


async def test_silent_name_servers_hold_up_no_upload(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        answer.wait(60)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    uploads = DiskBlobStore(workdir=workdir, max_bytes=10_000_000)
    fetcher = UrlFetcher(UrlFetchSettings(timeout=60), uploads=uploads)
    asking = [asyncio.create_task(fetcher.check(f"http://{host}.example/")) for host in range(100)]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(1_000_000)

    try:
        async with asyncio.timeout(PATIENCE):
            saved = await uploads.put(chunks(), filename="a.wav")
            await uploads.release(saved)
            await asyncio.to_thread(is_empty, workdir)
        assert not any(task.done() for task in asking)
    finally:
        answer.set()
    refused = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, InvalidRequest) for each in refused)


# As the source of a request


async def test_opens_uploads_and_urls_alike(
    fetcher: UrlFetcher, site: Site, workdir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * 125)
    site.put_file("/a", path.read_bytes())
    site.put_file("/text", b"no sound")
    decoder = AudioDecoder(max_seconds=60, timeout=60, workdir=workdir)
    uploads = DiskBlobStore(workdir=workdir, max_bytes=1)
    opener = SourceOpener(decoder=decoder, fetcher=fetcher, uploads=uploads)
    upload = uploads.adopt(path)

    async with opener.open(upload) as uploaded:
        assert uploaded.duration == 1.0
    await uploads.release(upload)
    async with opener.open(RemoteUrl(url=site.url("/a"))) as fetched:
        assert is_empty(workdir)
        assert (fetched.samples == uploaded.samples).all()
    assert path.exists()

    with pytest.raises(InvalidAudio) as caught:
        async with opener.open(RemoteUrl(url=site.url("/text"))):
            pass
    assert caught.value.param == "audio_url"
    assert is_empty(workdir)
