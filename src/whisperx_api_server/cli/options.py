"""Options of `transcribe`, named like the API's form fields."""

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
"""Equals `domain.OutputFormat`, which is not imported because that would slow `--help` down."""

Format = Annotated[OutputFormat, typer.Option("--format", "-f", help="Format of the transcript.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Directory for the transcripts, named like FILE; created if absent.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Server to send the recordings to, instead of loading models here."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="API_KEY", metavar="KEY", help="API key of the server, with --url."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress bars.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A published Whisper size or Parakeet, or a model that the settings name; default: "
        "the configured model.",
        rich_help_panel=_DECODING,
    ),
]
Language = Annotated[
    list[str] | None,
    typer.Option(
        "--language",
        "-l",
        metavar="CODE",
        help="ISO-639-1 code of the spoken language; default: detected. If repeated, detected "
        "among these languages.",
        rich_help_panel=_DECODING,
    ),
]
Translate = Annotated[
    bool,
    typer.Option(
        "--translate",
        help="Translate the speech into English.",
        rich_help_panel=_DECODING,
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Context for the decoder, for example spellings.",
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
        help="0 (default): beam search; above 0: draws among its hypotheses.",
        rich_help_panel=_DECODING,
    ),
]
SuppressNumerals = Annotated[
    bool | None,
    typer.Option(
        "--suppress-numerals/--numerals",
        help="Whether to write numbers as words or with digits.",
        show_default="suppressed",
        rich_help_panel=_DECODING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Maximum size of a batch that includes windows of the recording.",
        rich_help_panel=_DECODING,
    ),
]
ChunkSize = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=30,
        metavar="SECONDS",
        help="Maximum length of a window that is decoded at once, 1 to 30.",
        rich_help_panel=_DECODING,
    ),
]

Align = Annotated[
    bool | None,
    typer.Option(
        "--align/--no-align",
        help="Whether to time words by forced alignment; default: if the format shows times.",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
WordTimestamps = Annotated[
    bool,
    typer.Option(
        "--word-timestamps",
        help="Include the times of each word; with verbose_json and vtt_json.",
        rich_help_panel=_WORDS,
    ),
]
HighlightWords = Annotated[
    bool | None,
    typer.Option(
        "--highlight-words",
        help="Underline each word while it is spoken; with srt and vtt.",
        show_default=False,
        rich_help_panel=_WORDS,
    ),
]
Logprobs = Annotated[
    bool,
    typer.Option(
        "--logprobs",
        help="Include the log probability of each token; with json.",
        rich_help_panel=_DECODING,
    ),
]

Diarize = Annotated[
    bool | None,
    typer.Option(
        "--diarize",
        help="Label the speakers; implied by the options below.",
        show_default=False,
        rich_help_panel=_SPEAKERS,
    ),
]
NumSpeakers = Annotated[
    int | None,
    typer.Option(min=1, max=50, metavar="N", help="Number of speakers.", rich_help_panel=_SPEAKERS),
]
MinSpeakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=50, metavar="N", help="Minimum number of speakers.", rich_help_panel=_SPEAKERS
    ),
]
MaxSpeakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=50, metavar="N", help="Maximum number of speakers.", rich_help_panel=_SPEAKERS
    ),
]
KnownSpeakers = Annotated[
    list[str] | None,
    typer.Option(
        "--known-speaker",
        metavar="NAME=FILE",
        help="Name of a known speaker, and a FILE with 2 to 10 s of speech; up to four times.",
        rich_help_panel=_SPEAKERS,
    ),
]
SpeakerEmbeddings = Annotated[
    bool | None,
    typer.Option(
        "--speaker-embeddings",
        help="Include one embedding per speaker; with verbose_json and vtt_json.",
        show_default=False,
        rich_help_panel=_SPEAKERS,
    ),
]
