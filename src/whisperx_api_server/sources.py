"""Where recordings come from: an upload or a URL becomes a clip."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from .audio import AudioDecoder
from .domain import AudioClip, RemoteUrl, Source, UploadedFile
from .urls import UrlFetcher


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
                    async with self._fetcher.open(url, param=param) as file:
                        decoding = self._decoder.open(file.path, param=param)
                        clip = await stack.enter_async_context(decoding)
                    yield clip
