"""Voice samples of known speakers: data URLs in a form become files on disk."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from ..audio.uploads import BlobStore
from ..domain import KnownSpeaker
from ..errors import InvalidRequest
from ..fields.transcription import TranscriptionForm

PARAM = "known_speaker_references[]"

_DATA_URL = re.compile(r"data:[^,;]*(;[^,;]+)*;base64,", re.IGNORECASE)
_LONGEST_HEADER = 256
"""Maximum characters of a data URL before its content: the pattern is slow on megabytes."""


async def save_references(
    fields: TranscriptionForm, uploads: BlobStore, stack: AsyncExitStack
) -> tuple[KnownSpeaker, ...]:
    """The form's known speakers; `stack` deletes their files.

    Raises:
        InvalidRequest: a reference is not a base64 data URL.
    """
    known = []
    for name, reference in zip(
        fields.known_speaker_names, fields.known_speaker_references, strict=True
    ):
        saved = await uploads.put(_content(reference), filename=name, param=PARAM)
        stack.push_async_callback(uploads.release, saved)
        known.append(KnownSpeaker(name=name, reference=saved))
    return tuple(known)


async def _content(reference: str) -> AsyncIterator[bytes]:
    header = _DATA_URL.match(reference, 0, _LONGEST_HEADER)
    if header is None:
        raise InvalidRequest("a reference must be a data URL: data:audio/wav;base64,…", param=PARAM)
    try:
        content = reference[header.end() :]
        yield await asyncio.to_thread(base64.b64decode, content, validate=True)
    except binascii.Error as error:
        raise InvalidRequest("a reference is not valid base64", param=PARAM) from error
