"""Where recordings come from: uploads and URLs become files on disk, files become clips.

A URL that a client names must not become a way into the network behind the server. So each hop
of a fetch (the URL and every redirect) is resolved here, every address found is judged, and the
connection goes to a judged address, with the host's name kept for `Host`, SNI and the certificate
check: a second answer of the name server is never asked for, so it cannot differ from the first.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import httpx

from .audio import AudioDecoder
from .domain import AudioClip, RemoteUrl, Source, UploadedFile
from .errors import InvalidRequest, TooLarge, Unavailable

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Host name -> its IP addresses, or OSError."""

_MAX_REDIRECTS = 5
_CONNECT_TIMEOUT = 10.0  # s, for each address
_WRITE_BLOCK = 1 << 20  # bytes that are gathered for one trip to the disk's thread


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in text.split())


# https://www.iana.org/assignments/iana-ipv4-special-registry, plus multicast, the reserved class E
# and the one cloud metadata service with a public address (Azure's 168.63.129.16).
_REFUSED_V4 = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 "
    "192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 "
    "192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
# Of IPv6 only global unicast is fetched from, and of that not what is special or carries an IPv4
# address past this check: 2001::/23 has Teredo, 2002::/16 is 6to4.
# https://www.iana.org/assignments/iana-ipv6-special-registry
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = _networks("2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20")
# Stand for the IPv4 address in their last 32 bits: mapped, and NAT64's well-known prefix.
_CARRIES_V4 = _networks("::ffff:0:0/96 64:ff9b::/96")


class AsyncReadable(Protocol):
    """What an upload is read from, such as Starlette's UploadFile."""

    async def read(self, size: int = -1, /) -> bytes: ...


class UploadStore:
    """Keeps uploads as files in a private directory, under names of its own."""

    def __init__(self, *, workdir: Path, max_bytes: int) -> None:
        self._workdir = workdir
        self._max_bytes = max_bytes

    async def save(
        self, upload: AsyncReadable | AsyncIterator[bytes], *, filename: str, param: str = "file"
    ) -> UploadedFile:
        """Stream an upload to disk; the caller deletes it with `discard`.

        `filename`, the client's, is kept for echoing. Nothing stays on disk when this fails or
        is cancelled.

        Raises:
            TooLarge: more than `max_bytes`.
            Unavailable: the disk is full.
        """
        chunks = upload if isinstance(upload, AsyncIterator) else _read_chunks(upload)
        too_large = TooLarge(
            f"the upload is larger than {self._max_bytes} bytes: send a smaller file", param=param
        )
        with ExitStack() as undo:
            path = _create_file(self._workdir)
            undo.callback(path.unlink, missing_ok=True)
            digest = await _write(chunks, path, self._max_bytes, too_large)
            undo.pop_all()
        return UploadedFile(path=path, filename=filename, digest=digest)

    async def discard(self, file: UploadedFile) -> None:
        """Delete an upload; once more does no harm."""
        await asyncio.to_thread(file.path.unlink, missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlPolicy:
    """What may be fetched.

    `allowed_hosts`: when there are any, no other host; `*.example.com` covers subdomains, not
    example.com itself. `allow_private_hosts` lifts the check of addresses, not that of hosts.
    `timeout` is in seconds, for the whole fetch with all its redirects.
    """

    allowed_hosts: tuple[str, ...] = ()
    allow_private_hosts: bool = False
    max_bytes: int
    timeout: float


async def resolve_host(host: str) -> Sequence[str]:
    """Ask the system's resolver.

    Raises:
        OSError: there is no such host.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class UrlFetcher:
    """Requests to URLs that clients name, under a policy.

    Args:
        policy: what may be fetched.
        workdir: an existing private directory for what is fetched.
        resolve: finds the addresses of a host.
    """

    def __init__(
        self, policy: UrlPolicy, *, workdir: Path, resolve: Resolver = resolve_host
    ) -> None:
        self._policy = policy
        self._workdir = workdir
        self._resolve = resolve
        self._tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def open(self, url: str, *, param: str = "audio_url") -> AsyncIterator[Path]:
        """Fetch a URL into a file that is deleted at the end; `param` is the field errors name.

        Raises:
            InvalidRequest: the URL is malformed or refused, or its server does not give a file.
            TooLarge: more than the policy's `max_bytes`.
            Unavailable: the disk is full.
        """
        path = _create_file(self._workdir)
        try:
            async with self._errors(param), self._client(param) as client:
                request = client.build_request("GET", url)
                response = await _follow(client, request, param)
                try:
                    await self._save(response, path, param)
                finally:
                    await response.aclose()
            yield path
        finally:
            path.unlink(missing_ok=True)

    async def post(
        self, url: str, *, content: bytes, headers: Mapping[str, str], param: str = "callback_url"
    ) -> int:
        """Post to a URL and return the status of the answer; redirects are not followed.

        Raises:
            InvalidRequest: the URL is malformed or refused, or its server cannot be reached.
        """
        async with self._errors(param), self._client(param) as client:
            request = client.build_request("POST", url, content=content, headers=dict(headers))
            response = await client.send(request, stream=True)
            await response.aclose()
            return response.status_code

    async def check(self, url: str, *, param: str = "callback_url") -> None:
        """Refuse now what a later request to the URL would be refused for.

        Raises:
            InvalidRequest: the URL is malformed or refused.
        """
        async with self._errors(param):
            await _vet(httpx.URL(url), self._policy, self._resolve, param)

    @asynccontextmanager
    async def _client(self, param: str) -> AsyncIterator[httpx.AsyncClient]:
        if self._tls is None:  # reads the certificate store: 30 ms
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        client = httpx.AsyncClient(
            transport=_GuardedTransport(self._policy, self._resolve, self._tls, param),
            headers={"accept": "*/*", "accept-encoding": "identity"},
            timeout=httpx.Timeout(self._policy.timeout, connect=_CONNECT_TIMEOUT),
            trust_env=False,
            follow_redirects=False,
        )
        async with client:
            yield client

    @asynccontextmanager
    async def _errors(self, param: str) -> AsyncIterator[None]:
        """Bound the time, and translate what httpx raises."""
        try:
            async with asyncio.timeout(self._policy.timeout):
                yield
        except (TimeoutError, httpx.TimeoutException) as error:
            raise InvalidRequest(
                f"the server of {param} took too long to answer: check that it is up", param=param
            ) from error
        except httpx.InvalidURL as error:
            raise _malformed(param) from error
        except httpx.HTTPError as error:
            raise InvalidRequest(
                f"the server of {param} cannot be reached, or broke off: check the URL",
                param=param,
            ) from error

    async def _save(self, response: httpx.Response, path: Path, param: str) -> None:
        if response.status_code != httpx.codes.OK:
            raise InvalidRequest(
                f"the server of {param} answered with status {response.status_code} instead of 200",
                param=param,
            )
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise InvalidRequest(
                f"the server of {param} compressed its answer although it was asked not to: "
                "serve the file as it is",
                param=param,
            )
        too_large = TooLarge(
            f"the file at {param} is larger than {self._policy.max_bytes} bytes", param=param
        )
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._policy.max_bytes:
            raise too_large
        await _write(response.aiter_raw(), path, self._policy.max_bytes, too_large)


class SourceOpener:
    """Turns a request's source into a clip."""

    def __init__(self, *, decoder: AudioDecoder, fetcher: UrlFetcher) -> None:
        self._decoder = decoder
        self._fetcher = fetcher

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        """The recording, decoded. What was fetched for it is deleted as soon as it is decoded.

        Raises:
            ServiceError: what `UrlFetcher.open` and `AudioDecoder.open` raise.
        """
        match source:
            case UploadedFile(path=path):
                async with self._decoder.open(path) as clip:
                    yield clip
            case RemoteUrl(url=url, param=param):
                async with AsyncExitStack() as stack:
                    async with self._fetcher.open(url, param=param) as path:
                        decoding = self._decoder.open(path, param=param)
                        clip = await stack.enter_async_context(decoding)
                    yield clip


class _GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to addresses that were judged, and to no other."""

    def __init__(
        self, policy: UrlPolicy, resolve: Resolver, tls: ssl.SSLContext, param: str
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._param = param
        # Connections are pooled by address: one that was opened, and its certificate checked, for
        # one host must not serve another on the same address. So none is kept.
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        addresses = await _vet(request.url, self._policy, self._resolve, self._param)
        refused: httpx.TransportError | None = None
        for address in addresses:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # Host among them
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode()},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = error
        raise refused or httpx.ConnectError("the host has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _follow(client: httpx.AsyncClient, request: httpx.Request, param: str) -> httpx.Response:
    """Send, and follow redirects; their bodies are not read (httpx would, into memory)."""
    for _ in range(_MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        if response.next_request is None:
            return response
        await response.aclose()
        request = response.next_request
    raise InvalidRequest(
        f"{param} is redirected more than {_MAX_REDIRECTS} times: send the final URL", param=param
    )


async def _vet(url: httpx.URL, policy: UrlPolicy, resolve: Resolver, param: str) -> Sequence[str]:
    """The addresses that may be connected to for this URL.

    Which of a host's addresses is refused, or whether it has any, is not told: that would map the
    network behind the server.

    Raises:
        InvalidRequest: any part of the URL, or any address of its host, is refused.
    """
    if url.scheme not in ("http", "https") or not url.host or (url.port or 1) > 65535:
        raise _malformed(param)
    if url.userinfo:
        raise InvalidRequest(
            f"{param} must not contain a user name or password: use a signed URL", param=param
        )
    if policy.allowed_hosts and not _is_allowed(url.host, policy.allowed_hosts):
        raise InvalidRequest(
            f"the host of {param} is not among those that this server fetches from", param=param
        )
    try:
        addresses = await resolve(url.raw_host.decode())
    except (OSError, UnicodeError):  # UnicodeError: a label longer than a name can have
        addresses = ()
    if not addresses or not (
        policy.allow_private_hosts or all(is_public_address(address) for address in addresses)
    ):
        raise InvalidRequest(
            f"the host of {param} is unknown or not a public one: "
            "upload the file, or send a URL that the internet can reach",
            param=param,
        )
    return addresses


def _malformed(param: str) -> InvalidRequest:
    return InvalidRequest(f"{param} must be an absolute http or https URL", param=param)


def _is_allowed(host: str, allowed_hosts: Sequence[str]) -> bool:
    host = host.lower().rstrip(".")
    for pattern in allowed_hosts:
        suffix = pattern.lower().removeprefix("*")
        if host == suffix or (pattern.startswith("*.") and host.endswith(suffix)):
            return True
    return False


def is_public_address(text: str) -> bool:
    """Whether an IP address is one that anybody on the internet could reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if not any(address in network for network in _CARRIES_V4):
            return address in _GLOBAL_V6 and not any(address in net for net in _REFUSED_V6)
        address = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return not any(address in network for network in _REFUSED_V4)


def _create_file(workdir: Path) -> Path:
    """An empty file that nobody else may read, under a new name."""
    handle, name = tempfile.mkstemp(dir=workdir)
    os.close(handle)
    return Path(name)


async def _read_chunks(upload: AsyncReadable) -> AsyncIterator[bytes]:
    while chunk := await upload.read(_WRITE_BLOCK):
        yield chunk


async def _write(
    chunks: AsyncIterator[bytes], path: Path, max_bytes: int, too_large: TooLarge
) -> bytes:
    """Write chunks as they come, a block at a time on a thread; their BLAKE2b digest.

    Raises:
        TooLarge: the given one, before a byte beyond the limit is written.
        Unavailable: the disk is full.
    """
    total = 0
    digest = hashlib.blake2b()
    pending = bytearray()
    with path.open("wb") as file:
        async for chunk in chunks:
            total += len(chunk)
            if total > max_bytes:
                raise too_large
            pending += chunk
            if len(pending) >= _WRITE_BLOCK:
                await _flush(file, pending, digest)
                pending = bytearray()
        await _flush(file, pending, digest)
    return digest.digest()


async def _flush(file: BinaryIO, block: bytearray, digest: hashlib.blake2b) -> None:
    try:
        await asyncio.to_thread(_write_through, file, block, digest)
    except OSError as error:
        raise Unavailable("the server's disk is full: try again later", retry_after=60.0) from error


def _write_through(file: BinaryIO, block: bytearray, digest: hashlib.blake2b) -> None:
    digest.update(block)
    file.write(block)
    file.flush()
