"""The options of `transcribe`: those of the API's form, under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_WORDS = "Word times"
_SPEAKERS = "Speakers"
_DECODING = "Decoding"

OutputFormat = Literal[
    "text", "srt", "vtt", "json", "verbose_json", "vtt_json", "diarized_json", "aud"
]
"""Those of `domain.OutputFormat`, which is not imported because that takes longer than `--help`."""

Format = Annotated[
    OutputFormat, typer.Option("--format", "-f", help="What the transcript is written as.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write FILE's name with the format's extension here; made if absent.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Send the recordings to this server instead of loading models here."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="API_KEY", metavar="KEY", help="The server's key, with --url."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A published Whisper size or Parakeet, or one that the settings name; the configured "
        "one if absent.",
        rich_help_panel=_DECODING,
    ),
]
Language = Annotated[
    list[str] | None,
    typer.Option(
        "--language",
        "-l",
        metavar="CODE",
        help="ISO-639-1 code of what is spoken; detected if absent. Given several times: detected "
        "among these.",
        rich_help_panel=_DECODING,
    ),
]
Translate = Annotated[
    bool,
    typer.Option(
        "--translate",
        help="An English transcript of speech in any language.",
        rich_help_panel=_DECODING,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Context for the decoder, such as spellings.",
        rich_help_panel=_DECODING,
    ),
]
Hotwords = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS", help="Comma-separated words to listen for.", rich_help_panel=_DECODING
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="0..1",
        help="0, the default, searches; above it is sampled.",
        rich_help_panel=_DECODING,
    ),
]
SuppressNumerals = Annotated[
    bool | None,
    typer.Option(
        "--suppress-numerals/--numerals",
        help="Spell numbers out, or write digits.",
        show_default="suppressed",
        rich_help_panel=_DECODING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="The largest batch that a recording's windows join.",
        rich_help_panel=_DECODING,
    ),
]
ChunkSize = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=30,
        metavar="SECONDS",
        help="Longest window that is decoded at once, 1 to 30.",
        rich_help_panel=_DECODING,
    ),
]

Align = Annotated[
    bool | None,
    typer.Option(
        "--align/--no-align",
        help="Time words by forced alignment, or not at all; unset: where the format shows times.",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
WordTimestamps = Annotated[
    bool,
    typer.Option(
        "--word-timestamps",
        help="Every word's times; with verbose_json and vtt_json.",
        rich_help_panel=_WORDS,
    ),
]
HighlightWords = Annotated[
    bool | None,
    typer.Option(
        "--highlight-words",
        help="Underline each word as it is said; with srt and vtt.",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
Logprobs = Annotated[
    bool,
    typer.Option(
        "--logprobs",
        help="Every token's log probability; with json.",
        rich_help_panel=_DECODING,
    ),
]

Diarize = Annotated[
    bool | None,
    typer.Option(
        "--diarize",
        help="Say who speaks; the options below imply it.",
        show_default=False,
        rich_help_panel=_SPEAKERS,
    ),
]
NumSpeakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=50, metavar="N", help="How many speak, if known.", rich_help_panel=_SPEAKERS
    ),
]
MinSpeakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=50, metavar="N", help="At least so many speak.", rich_help_panel=_SPEAKERS
    ),
]
MaxSpeakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=50, metavar="N", help="At most so many speak.", rich_help_panel=_SPEAKERS
    ),
]
KnownSpeakers = Annotated[
    list[str] | None,
    typer.Option(
        "--known-speaker",
        metavar="NAME=FILE",
        help="Call a voice by its name: FILE has 2 to 10 s of it. Up to four times.",
        rich_help_panel=_SPEAKERS,
    ),
]
SpeakerEmbeddings = Annotated[
    bool | None,
    typer.Option(
        "--speaker-embeddings",
        help="One vector a speaker; with verbose_json and vtt_json.",
        show_default=False,
        rich_help_panel=_SPEAKERS,
    ),
]
