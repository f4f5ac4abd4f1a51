"""Published Whisper models: names, repositories and languages.

A copy of faster-whisper's table, so that names can be checked without importing it; a test
compares both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

REPOSITORIES: Mapping[str, str] = {
    "tiny.en": "Systran/faster-whisper-tiny.en",
    "tiny": "Systran/faster-whisper-tiny",
    "base.en": "Systran/faster-whisper-base.en",
    "base": "Systran/faster-whisper-base",
    "small.en": "Systran/faster-whisper-small.en",
    "small": "Systran/faster-whisper-small",
    "medium.en": "Systran/faster-whisper-medium.en",
    "medium": "Systran/faster-whisper-medium",
    "large-v1": "Systran/faster-whisper-large-v1",
    "large-v2": "Systran/faster-whisper-large-v2",
    "large-v3": "Systran/faster-whisper-large-v3",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
}
"""Published size -> hub repository with its CTranslate2 conversion, as in faster-whisper."""

SYNONYMS: Mapping[str, str] = {"large": "large-v3", "turbo": "large-v3-turbo"}
"""Aliases of sizes."""


def published_model(name: str) -> str | None:
    """The size (a key of `REPOSITORIES`) for a name; None if the name is unknown.

    Case does not matter. Besides the sizes and the repositories these are names of a size:
    `[openai/]whisper-SIZE`, `[Systran/]faster-whisper-SIZE`, and for distilled ones
    `distil-whisper/distil-SIZE`, `[Systran/]faster-distil-whisper-SIZE`.
    """
    return _SIZES.get(name.casefold())


def is_english_only(name: str) -> bool:
    """Whether a published size is English-only: `.en` sizes, and distilled ones, which were trained
    on English only according to their model cards, although their tokenizer has all languages.
    """
    return name in REPOSITORIES and (name.endswith(".en") or name.startswith("distil-"))


def _names() -> Iterator[tuple[str, str]]:
    """Each name and its size; the last one wins if a name occurs twice."""
    for size, repository in REPOSITORIES.items():
        yield repository, size
    for name, size in {**{size: size for size in REPOSITORIES}, **SYNONYMS}.items():
        distilled = name.removeprefix("distil-")
        if distilled == name:
            converted = f"faster-whisper-{name}"
            yield from ((f"whisper-{name}", size), (f"openai/whisper-{name}", size))
        else:
            converted = f"faster-distil-whisper-{distilled}"
            yield f"distil-whisper/{name}", size
        yield from ((name, size), (converted, size), (f"Systran/{converted}", size))


_SIZES: Mapping[str, str] = {name.casefold(): size for name, size in _names()}
