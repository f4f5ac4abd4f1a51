"""Parses a form while it arrives: files are written to disk, within the limits.

Starlette's form parser would spool files of any size first.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from urllib.parse import parse_qsl

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..audio.uploads import BlobStore
from ..domain import Upload
from ..errors import InvalidRequest, TooLarge
from .body import read_body, read_whole

MAX_FIELDS = 500
MAX_FILES = 100
MAX_FIELD_BYTES = 256 * 1024
MAX_HEADER_BYTES = 16 * 1024
MAX_REFERENCE_BYTES = 8 * 1024**2
"""A 10 s voice sample as a data URL: 48 kHz stereo PCM is 1.9 MB, and base64 adds a third."""

MAX_REFERENCES = 4

REFERENCE_FIELDS = ("known_speaker_references", "known_speaker_references[]")
FILE_FIELDS = ("file", "files", "files[]", "audio_file")
"""Parts of these names are files, with or without a filename: some clients send none."""

PCM_HEADER = (
    b"RIFF\xff\xff\xff\xffWAVE"
    + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    + b"data\xff\xff\xff\xff"
)
"""Makes a WAV file of 16-bit mono samples at 16 kHz; its lengths say that they are not known."""


@dataclass(kw_only=True, slots=True)
class Form:
    """A parsed form: fields as (name, value) in the order sent, and files by field name."""

    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[tuple[str, Upload]] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """All values of a field, also when it was sent as `name[]`."""
        return [value for key, value in self.fields if key in (name, f"{name}[]")]

    def uploads(self, *names: str) -> list[Upload]:
        """The files of these fields, in the order sent."""
        return [upload for name, upload in self.files if name in names]


@asynccontextmanager
async def read_form(
    request: Request, store: BlobStore, *, pcm: bool = False
) -> AsyncIterator[Form]:
    """The form of a request; its files are deleted at the end.

    `pcm`: the files are headerless 16-bit mono samples at 16 kHz, and are kept as WAV files.

    Raises:
        InvalidRequest: the form is malformed.
        TooLarge: the files, the fields or the whole body are over their limit.
        RequestTimeout, Cancelled: the client stalled or disconnected.
    """
    form = Form()
    content_type = request.headers.get("content-type", "")
    kind, options = parse_options_header(content_type)
    try:
        if kind == b"multipart/form-data":
            header = PCM_HEADER if pcm else b""
            await _read_multipart(request, options, store, form, header)
        elif kind == b"application/x-www-form-urlencoded":
            await _read_urlencoded(request, form)
        else:
            raise InvalidRequest("send the request as multipart/form-data")
        yield form
    finally:
        for _, upload in form.files:
            await store.release(upload)


def field_name(sent: str) -> str:
    """A field's name; `name[0]`, as PHP and axios number a list's values, is `name[]`."""
    return re.sub(r"\[\d+\]\Z", "[]", sent)


async def _read_urlencoded(request: Request, form: Form) -> None:
    body = await read_whole(request, max_bytes=MAX_FIELD_BYTES)
    try:
        sent = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        form.fields.extend((field_name(name), value) for name, value in sent)
    except ValueError as error:
        raise InvalidRequest("the form is malformed") from error


async def _read_multipart(
    request: Request,
    options: Mapping[bytes, bytes],
    store: BlobStore,
    form: Form,
    file_header: bytes,
) -> None:
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("the multipart form has no boundary")
    most = store.max_bytes + MAX_REFERENCE_BYTES * (MAX_REFERENCES + 1)
    parts = _Parts(read_body(request, max_bytes=most), boundary)
    file_bytes = 0
    sizes = {False: 0, True: 0}  # characters of fields, and of references
    while (part := await parts.next_part()) is not None:
        shown = part.name[:60]
        if part.name in FILE_FIELDS:
            content = _after(file_header, parts.content())
            saved = await store.put(content, filename=part.filename or "", param=shown)
            size = saved.size
            if size or part.filename:
                form.files.append((part.name, saved))
            else:  # a file input without a file
                await store.release(saved)
            file_bytes += size
            if len(form.files) > MAX_FILES:
                raise TooLarge(f"the form has more than {MAX_FILES} files", param=shown)
        elif part.filename is not None:  # a file that no field asks for: skipped
            async for chunk in parts.content():
                file_bytes += len(chunk)
        else:
            reference = part.name in REFERENCE_FIELDS
            limit = MAX_REFERENCE_BYTES if reference else MAX_FIELD_BYTES
            value = await _read_value(parts, part.name, limit)
            sizes[reference] += len(value)
            if (
                sizes[False] > MAX_FIELD_BYTES
                or sizes[True] > MAX_REFERENCES * MAX_REFERENCE_BYTES
                or len(form.fields) >= MAX_FIELDS
            ):
                raise TooLarge("the form has too many fields, or too large ones")
            form.fields.append((part.name, value))
        if file_bytes > store.max_bytes:
            raise TooLarge(f"the files are larger than {store.max_bytes} bytes", param=shown)


async def _after(header: bytes, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content of a file with a header before it; an empty file stays empty."""
    async for chunk in content:
        yield header + chunk
        header = b""


async def _read_value(parts: _Parts, name: str, limit: int) -> str:
    """Read the value of a field that is not a file."""
    shown = name[:60]
    value = bytearray()
    async for chunk in parts.content():
        value += chunk
        if len(value) > limit:
            raise TooLarge(f"the field {shown!r} is too large", param=shown)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the field {shown!r} is not UTF-8", param=shown) from error


class _Part(NamedTuple):
    name: str
    filename: str | None


_DATA_ENDS = b""
"""Marks the end of a part's data in the event queue; parsed data is never empty."""


class _Parts:
    """The parts of a multipart body in order; unread content of a part is skipped.

    The parser calls back while it is fed; its events are queued here until they are read.
    """

    def __init__(self, body: AsyncIterator[bytes], boundary: bytes) -> None:
        self._body = body
        self._events: deque[_Part | bytes | None] = deque()
        self._header = [b"", b""]  # name and value
        self._header_bytes = 0
        self._disposition = b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": partial(self._on_header, 0),
                    "on_header_value": partial(self._on_header, 1),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": lambda: self._events.append(_DATA_ENDS),
                    "on_end": lambda: self._events.append(None),
                },
            )
        except (FormParserError, ValueError) as error:
            raise InvalidRequest("the multipart form's boundary is malformed") from error

    async def next_part(self) -> _Part | None:
        """The next part's header; None at the end of the form."""
        while True:
            event = await self._next()
            if event is None or isinstance(event, _Part):
                return event

    async def content(self) -> AsyncIterator[bytes]:
        """The data of the part that was returned last."""
        while (event := await self._next()) != _DATA_ENDS:
            assert isinstance(event, bytes)
            yield event

    async def _next(self) -> _Part | bytes | None:
        while not self._events:
            try:
                chunk = await anext(self._body)
            except StopAsyncIteration:
                raise InvalidRequest("the multipart form ends too early") from None
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise InvalidRequest("the multipart form is malformed") from error
        return self._events.popleft()

    def _on_header(self, place: int, data: bytes, start: int, end: int) -> None:
        self._header[place] += data[start:end]
        self._header_bytes += end - start
        if self._header_bytes > MAX_HEADER_BYTES:
            raise TooLarge("a part of the form has too large headers")

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition, self._header_bytes = b"", 0
        name, filename = options.get(b"name"), options.get(b"filename")
        if name is None:
            raise InvalidRequest("a part of the multipart form has no name")
        shown = None if filename is None else filename.decode(errors="replace")
        self._events.append(_Part(field_name(name.decode(errors="replace")), shown))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if end > start:
            self._events.append(bytes(data[start:end]))
