"""Opens and checks the voice samples of known speakers, and computes their embeddings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from ..audio.sources import SourceOpener
from ..domain import AudioClip, KnownSpeaker
from ..errors import InvalidRequest
from .stages import Diarizing

SAMPLE_SECONDS = (2.0, 10.0)
"""Minimum and maximum length of a voice sample, as in OpenAI's API."""

PARAM = "known_speaker_references[]"


@asynccontextmanager
async def open_samples(
    speakers: Sequence[KnownSpeaker], opener: SourceOpener
) -> AsyncIterator[dict[str, AudioClip]]:
    """Decode each speaker's sample; returns them by name.

    Raises:
        InvalidRequest: a sample is not audio, or is too short or too long.
    """
    shortest, longest = SAMPLE_SECONDS
    samples: dict[str, AudioClip] = {}
    async with AsyncExitStack() as stack:
        for speaker in speakers:
            with _naming(speaker.name):
                clip = await stack.enter_async_context(opener.open(speaker.reference))
                if not shortest <= clip.duration <= longest:
                    raise InvalidRequest(f"it must last {shortest:g} to {longest:g} s")
            samples[speaker.name] = clip
        yield samples


async def embed_samples(
    samples: Mapping[str, AudioClip], engine: Diarizing
) -> dict[str, tuple[float, ...]]:
    """Compute each speaker's embedding; returns them by name.

    Raises:
        InvalidRequest: a sample contains no speech.
    """
    voices = {}
    for name, sample in samples.items():
        with _naming(name):
            vector = await engine.embed(sample)
            if vector is None:
                raise InvalidRequest("it contains no speech: send 2 to 10 s of the speaker's voice")
        voices[name] = vector
    return voices


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Add the speaker's name to the errors of their sample."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"the reference of {name!r}: {error.message}", param=PARAM) from error
