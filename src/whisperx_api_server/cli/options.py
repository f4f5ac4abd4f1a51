"""Options of `transcribe`; most are named like the API's form fields."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..output_formats import OutputFormat

_decoding = partial(typer.Option, rich_help_panel="Decoding", show_default=False)
_words = partial(typer.Option, rich_help_panel="Word times", show_default=False)
_speakers = partial(typer.Option, rich_help_panel="Speakers", show_default=False)

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="Recordings, in any container or codec.", show_default=False
    ),
]
Format = Annotated[OutputFormat, typer.Option("--format", "-f", help="Format of the transcript.")]
Output = Annotated[
    Path | None,
    typer.Option(
        *("--output", "-o"),
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

MODEL = (
    "A published Whisper size or Parakeet, or a model that the settings name; default: the "
    "configured model."
)
LANGUAGE = (
    "ISO-639-1 code of the spoken language; default: detected. If repeated, detected among these "
    "languages."
)
Model = Annotated[str | None, _decoding("--model", "-m", metavar="NAME", help=MODEL)]
Language = Annotated[list[str] | None, _decoding("--language", "-l", metavar="CODE", help=LANGUAGE)]
Translate = Annotated[bool, _decoding("--translate", help="Translate the speech into English.")]
Prompt = Annotated[
    str | None, _decoding(metavar="TEXT", help="Context for the decoder, for example spellings.")
]
Hotwords = Annotated[
    str | None, _decoding(metavar="WORDS", help="Comma-separated words to listen for.")
]
Temperature = Annotated[
    float | None,
    _decoding(
        min=0,
        max=1,
        metavar="0..1",
        help="0 (default): beam search; above 0: draws among its hypotheses.",
    ),
]
SuppressNumerals = Annotated[
    bool | None,
    _decoding(
        "--suppress-numerals/--numerals",
        help="Whether to write numbers as words (default) or with digits.",
    ),
]
BatchSize = Annotated[
    int | None,
    _decoding(
        min=1, metavar="N", help="Maximum size of a batch that includes windows of the recording."
    ),
]
ChunkSize = Annotated[
    float | None,
    _decoding(
        min=1,
        max=30,
        metavar="SECONDS",
        help="Maximum length of a window that is decoded at once, 1 to 30.",
    ),
]
Logprobs = Annotated[
    bool,
    _decoding("--logprobs", help="Include the log probability of each token; with json."),
]

Align = Annotated[
    bool | None,
    _words(
        "--align/--no-align",
        help="Whether to time words by forced alignment; default: if the format shows times.",
    ),
]
WordTimestamps = Annotated[
    bool,
    _words(
        "--word-timestamps",
        help="Include the times of each word; with verbose_json and vtt_json.",
    ),
]
HighlightWords = Annotated[
    bool | None,
    _words(
        "--highlight-words",
        help="Underline each word while it is spoken; with srt, vtt and vtt_json.",
    ),
]

Diarize = Annotated[
    bool | None,
    _speakers("--diarize", help="Label the speakers; implied by the options below."),
]
NumSpeakers = Annotated[
    int | None, _speakers(min=1, max=50, metavar="N", help="Number of speakers.")
]
MinSpeakers = Annotated[
    int | None, _speakers(min=1, max=50, metavar="N", help="Minimum number of speakers.")
]
MaxSpeakers = Annotated[
    int | None, _speakers(min=1, max=50, metavar="N", help="Maximum number of speakers.")
]
KnownSpeakers = Annotated[
    list[str] | None,
    _speakers(
        "--known-speaker",
        metavar="NAME=FILE",
        help="Name of a known speaker, and a FILE with 2 to 10 s of speech; up to four times.",
    ),
]
SpeakerEmbeddings = Annotated[
    bool | None,
    _speakers(
        "--speaker-embeddings",
        help="Include one embedding per speaker; with verbose_json and vtt_json.",
    ),
]
