"""Opens the source of a request, an upload or a URL, as a clip."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from ..domain import AudioClip, RemoteUrl, Source, Upload
from .decode import AudioDecoder
from .uploads import UploadReader
from .urls import UrlFetcher


class SourceOpener:
    """Turns a request's source into a clip."""

    def __init__(
        self, *, decoder: AudioDecoder, fetcher: UrlFetcher, uploads: UploadReader
    ) -> None:
        self._uploads = uploads
        self._decoder = decoder
        self._fetcher = fetcher

    @asynccontextmanager
    async def open(self, source: Source) -> AsyncIterator[AudioClip]:
        """Decode the recording; a fetched file is deleted as soon as it is decoded.

        Raises:
            ServiceError: what `UrlFetcher.open` and `AudioDecoder.open` raise.
        """
        match source:
            case Upload():
                file, param = self._uploads.open(source), "file"
            case RemoteUrl(url=url, param=param):
                file = self._fetcher.open(url, param=param)
        async with AsyncExitStack() as decoded:
            async with file as path:
                clip = await decoded.enter_async_context(self._decoder.open(path, param=param))
            yield clip
