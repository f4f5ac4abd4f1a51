"""What runs on the lanes for each stage, and what can be asked of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .backends.base import Aligner, AlignItem, Capabilities, Diarizer, Transcriber, VoiceDetector
from .domain import (
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Segment,
    SpeechRegion,
    TranscriptionRequest,
    Window,
    WindowTranscript,
)
from .errors import InvalidRequest
from .scheduler import Work

UNDETERMINED = "en"
"""What a silent recording is said to be in when nobody named a language, as WhisperX does."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decode:
    """A window, and how to decode it."""

    window: Window
    options: DecodeOptions


TRANSCRIBE: Work[Transcriber, Decode, WindowTranscript] = Work(
    run=lambda model, batch, features: model.transcribe(
        [each.window for each in batch], [each.options for each in batch], features
    ),
    prepare=lambda model, each: model.features(each.window),
)
DETECT_LANGUAGE: Work[Transcriber, Window, Mapping[str, float]] = Work(
    run=lambda model, batch, _: model.detect_language(batch)
)
ALIGN: Work[Aligner, AlignItem, Segment] = Work(run=lambda model, batch, _: model.align(batch))
DIARIZE: Work[Diarizer, tuple[AudioClip, DiarizeOptions], Diarization] = Work(
    run=lambda model, batch, _: [model.diarize(clip, options) for clip, options in batch]
)
EMBED: Work[Diarizer, AudioClip, tuple[float, ...] | None] = Work(
    run=lambda model, batch, _: model.embed(batch)
)
NEXT_REGIONS: Work[VoiceDetector, Any, Sequence[SpeechRegion] | None] = Work(
    run=lambda _model, batch, _: [next(steps, None) for steps in batch]
)


class Observer:
    """What a caller may watch of a run; called on the event loop, in order."""

    def stage(self, name: str) -> None:
        """A stage begins: open, transcribe, diarize, finish."""

    def opened(self, duration: float) -> None:
        """The recording is decoded and lasts so many seconds."""

    def heard(self, transcript: WindowTranscript, until: float) -> None:
        """The next window, in order, is done; all is transcribed up to that second."""

    def spoken(self, segments: Sequence[Segment]) -> None:
        """The next segments, in order, are final: it is known who says them."""


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """What a run has found out: another run of the same request goes on from there."""

    windows: dict[int, WindowTranscript] = field(default_factory=dict)
    told_apart: tuple[Diarization, Mapping[str, str]] | None = None


def check_options(request: TranscriptionRequest, capabilities: Capabilities) -> DecodeOptions:
    """The request's decode options as this engine can honour them.

    Raises:
        InvalidRequest: it cannot; naming the field.
    """
    options = request.decode
    if options.task not in capabilities.tasks:
        raise InvalidRequest(f"{request.model} does not translate", param="model")
    known = capabilities.languages
    if known is not None:
        only = (
            "only supports English"
            if known == {"en"}
            else f"only supports these languages: {', '.join(sorted(known))}"
        )
        for param, language in (
            ("language", options.language),
            *(("languages[]", each) for each in options.languages),
        ):
            if language is not None and language not in known:
                raise InvalidRequest(
                    f"the model {request.model} {only}, not {language!r}", param=param
                )
    if (options.prompt or options.hotwords) and not capabilities.can_prompt:
        param = "prompt" if options.prompt else "hotwords"
        raise InvalidRequest(f"the model {request.model} takes no {param}", param=param)
    if options.logprobs and not capabilities.can_logprobs:
        raise InvalidRequest(f"the model {request.model} gives no logprobs", param="include[]")
    if options.temperature and not capabilities.can_sample:
        raise InvalidRequest(
            f"the model {request.model} does not sample: leave temperature at 0",
            param="temperature",
        )
    if options.language is None and not capabilities.detects_language:
        if options.languages:
            raise InvalidRequest(
                f"the model {request.model} does not detect languages: name one as language",
                param="languages[]",
            )
        return replace(options, language=UNDETERMINED)
    return options
