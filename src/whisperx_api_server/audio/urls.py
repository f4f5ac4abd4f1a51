"""Requests to URLs that clients name.

A client's URL must not give access to the network behind the server. So each hop of a fetch (the
URL and every redirect) is resolved here, all its addresses are checked, and the connection uses a
checked address, with the host's name for `Host`, SNI and the certificate. The name server is not
queried again, so its answer cannot change.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
from pydantic import Field

from ..domain import Upload
from ..errors import InvalidRequest
from ..setting_types import JsonList, PositiveFloat, Section
from .uploads import BlobStore

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""Host name -> its IP addresses, or OSError."""

_MAX_REDIRECTS = 5
_CONNECT_TIMEOUT = 10.0  # s, for each address
_DNS_THREADS = 64


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in text.split())


# https://www.iana.org/assignments/iana-ipv4-special-registry, plus multicast, the reserved class E
# and the one cloud metadata service with a public address (Azure's 168.63.129.16).
_REFUSED_V4 = _networks(
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 "
    "192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 "
    "192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
# Only global unicast is allowed in IPv6, without special networks and those that embed an IPv4
# address: 2001::/23 has Teredo, 2002::/16 is 6to4.
# https://www.iana.org/assignments/iana-ipv6-special-registry
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = _networks("2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20")
# Networks with an IPv4 address in the last 32 bits: mapped addresses, NAT64's well-known prefix.
_CARRIES_V4 = _networks("::ffff:0:0/96 64:ff9b::/96")


class UrlFetchSettings(Section):
    """URLs that clients name.

    `allow_private_hosts` disables the check of addresses, not that of hosts.
    """

    allowed_hosts: JsonList = Field(
        default_factory=list,
        description="JSON list of the only hosts to fetch from; empty allows all. `*.example.com` "
        "covers subdomains of example.com, not example.com itself.",
    )
    allow_private_hosts: bool = Field(
        False, description="Whether to fetch from private, loopback and link-local addresses too."
    )
    timeout: PositiveFloat = Field(
        300.0, description="Seconds until a fetch, with all its redirects, is stopped."
    )


class SystemResolver:
    """The system's resolver, on its own threads.

    A name server that does not answer blocks a thread for many seconds, which asyncio's default
    threads must not be.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="dns")

    async def __call__(self, host: str) -> Sequence[str]:
        """Return the addresses of a host.

        Raises:
            OSError: there is no such host.
        """
        lookup = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class UrlFetcher:
    """Requests to URLs that clients name, under the operator's settings.

    Args:
        settings: the URL policy.
        uploads: keeps the fetched files, and limits their size.
        resolve: the name resolution.
    """

    def __init__(
        self, settings: UrlFetchSettings, *, uploads: BlobStore, resolve: Resolver | None = None
    ) -> None:
        self._settings = settings
        self._uploads = uploads
        self._resolve = resolve or SystemResolver()
        self._tls: ssl.SSLContext | None = None

    @asynccontextmanager
    async def open(self, url: str, *, param: str = "audio_url") -> AsyncIterator[Path]:
        """Fetch a URL into a temporary file; `param` is the field for errors.

        Raises:
            InvalidRequest: the URL is malformed or refused, or its server does not give a file.
            TooLarge: the file is larger than an upload may be.
            Unavailable: the disk is full.
        """
        async with self._errors(param), self._client(param) as client:
            response = await _follow(client, client.build_request("GET", url), param)
            try:
                file = await self._save(response, param)
            finally:
                await response.aclose()
        try:
            async with self._uploads.open(file) as path:
                yield path
        finally:
            await self._uploads.release(file)

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
        """Check that a later request to the URL would be allowed.

        Raises:
            InvalidRequest: the URL is malformed or refused.
        """
        async with self._errors(param):
            await _vet(httpx.URL(url), self._settings, self._resolve, param)

    @asynccontextmanager
    async def _client(self, param: str) -> AsyncIterator[httpx.AsyncClient]:
        if self._tls is None:  # reads the certificate store: 30 ms
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        client = httpx.AsyncClient(
            transport=_GuardedTransport(self._settings, self._resolve, self._tls, param),
            headers={"accept": "*/*", "accept-encoding": "identity"},
            timeout=httpx.Timeout(self._settings.timeout, connect=_CONNECT_TIMEOUT),
            trust_env=False,
            follow_redirects=False,
        )
        async with client:
            yield client

    @asynccontextmanager
    async def _errors(self, param: str) -> AsyncIterator[None]:
        """Limit the time, and translate the errors of httpx."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                yield
        except (TimeoutError, httpx.TimeoutException) as error:
            raise InvalidRequest(
                f"the server of {param} took too long to answer: check that it is up", param=param
            ) from error
        except httpx.InvalidURL as error:
            raise _malformed(param) from error
        except httpx.HTTPError as error:
            raise InvalidRequest(
                f"the server of {param} cannot be reached, or closed the connection: check the URL",
                param=param,
            ) from error

    async def _save(self, response: httpx.Response, param: str) -> Upload:
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
        announced = response.headers.get("content-length", "")
        return await self._uploads.put(
            response.aiter_raw(),
            filename="",
            param=param,
            announced=int(announced) if announced.isdecimal() else 0,
        )


class _GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to checked addresses only."""

    def __init__(
        self, settings: UrlFetchSettings, resolve: Resolver, tls: ssl.SSLContext, param: str
    ) -> None:
        self._settings = settings
        self._resolve = resolve
        self._param = param
        # Connections are pooled by address, but a certificate is checked for one host: another
        # host at the same address must not reuse the connection. So none is kept.
        self._inner = httpx.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        addresses = await _vet(request.url, self._settings, self._resolve, self._param)
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
    """Send, and follow redirects without reading their bodies, as httpx would."""
    for _ in range(_MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        if response.next_request is None:
            return response
        await response.aclose()
        request = response.next_request
    raise InvalidRequest(
        f"{param} is redirected more than {_MAX_REDIRECTS} times: send the final URL", param=param
    )


async def _vet(
    url: httpx.URL, settings: UrlFetchSettings, resolve: Resolver, param: str
) -> Sequence[str]:
    """Return the addresses to connect to for this URL.

    Errors do not say which address is refused or whether there is one: that would reveal the
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
    if settings.allowed_hosts and not _is_allowed(url.host, settings.allowed_hosts):
        raise InvalidRequest(
            f"the host of {param} is not among those that this server fetches from", param=param
        )
    try:
        addresses = await resolve(url.raw_host.decode())
    except (OSError, UnicodeError):  # UnicodeError: a label longer than a name can have
        addresses = ()
    if not addresses or not (
        settings.allow_private_hosts or all(is_public_address(address) for address in addresses)
    ):
        raise InvalidRequest(
            f"the host of {param} cannot be resolved or is not public: "
            "upload the file, or send a URL that is reachable from the internet",
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
    """Whether an IP address is reachable from the internet."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if not any(address in network for network in _CARRIES_V4):
            return address in _GLOBAL_V6 and not any(address in net for net in _REFUSED_V6)
        address = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return not any(address in network for network in _REFUSED_V4)
