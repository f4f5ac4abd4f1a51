"""Checks the options of a request against the capabilities of its engine."""

from __future__ import annotations

from dataclasses import replace

from ..backends.base import Capabilities
from ..domain import DecodeOptions
from ..errors import InvalidRequest

SILENCE_LANGUAGE = "en"
"""The language of a silent recording if the request names none, as in WhisperX."""


def check_options(
    model: str | None, options: DecodeOptions, capabilities: Capabilities
) -> DecodeOptions:
    """Return the decode options of a request for the engine that has its `model`.

    Raises:
        InvalidRequest: the model does not support an option; names the field.
    """
    if options.task not in capabilities.tasks:
        raise InvalidRequest(
            f"the model {model} does not translate speech: choose a multilingual Whisper",
            param="model",
        )
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
                raise InvalidRequest(f"the model {model} {only}, not {language!r}", param=param)
    if (options.prompt or options.hotwords) and not capabilities.can_prompt:
        param = "prompt" if options.prompt else "hotwords"
        raise InvalidRequest(
            f"the model {model} does not support {param}: leave it out", param=param
        )
    if options.logprobs and not capabilities.can_logprobs:
        raise InvalidRequest(f"the model {model} gives no logprobs", param="include[]")
    if options.temperature and not capabilities.can_sample:
        raise InvalidRequest(
            f"the model {model} does not sample: leave temperature at 0",
            param="temperature",
        )
    if options.language is None and not capabilities.detects_language:
        if options.languages:
            raise InvalidRequest(
                f"the model {model} does not detect languages: name one as language",
                param="languages[]",
            )
        return replace(options, language=SILENCE_LANGUAGE)
    return options
