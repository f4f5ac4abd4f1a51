"""`transcribe`: transcribes recordings, in this process or on a server."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import typer

from . import options
from .console import FAILED, USAGE, Terminal, fail
from .form_fields import FormFields, OptionError, Transcribe, TranscriptionFailure, form_values

IN_FLIGHT = 8
"""Recordings transcribed at a time: enough to fill batches, few enough for the disk."""

NOT_FIELDS = frozenset({"files", "output", "url", "api_key", "quiet", "translate"})
"""The options that are not fields of the form."""

TERMINATED = 128 + signal.SIGTERM


def transcribe(
    files: options.Files,
    response_format: options.Format = "text",
    output: options.Output = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    quiet: options.Quiet = False,
    model: options.Model = None,
    language: options.Language = None,
    translate: options.Translate = False,
    prompt: options.Prompt = None,
    hotwords: options.Hotwords = None,
    temperature: options.Temperature = None,
    suppress_numerals: options.SuppressNumerals = None,
    align: options.Align = None,
    word_timestamps: options.WordTimestamps = False,
    highlight_words: options.HighlightWords = None,
    logprobs: options.Logprobs = False,
    diarize: options.Diarize = None,
    num_speakers: options.NumSpeakers = None,
    min_speakers: options.MinSpeakers = None,
    max_speakers: options.MaxSpeakers = None,
    known_speakers: options.KnownSpeakers = None,
    speaker_embeddings: options.SpeakerEmbeddings = None,
    batch_size: options.BatchSize = None,
    chunk_size: options.ChunkSize = None,
) -> None:
    """Transcribe recordings, in this process or on a server.

    Transcripts are written to --output under FILE's name with the format's extension, or printed
    on standard output. Several recordings are transcribed at a time and share batches. The exit
    status is 1 if a recording failed, 2 if an option or a setting is wrong.

    Without --url, models are loaded here, according to the settings in the environment and `.env`.

    Examples:

        whisperx-api-server transcribe talk.mp3
        whisperx-api-server transcribe *.m4a --format srt -o subtitles
        whisperx-api-server transcribe call.wav --num-speakers 2 --format vtt
        whisperx-api-server transcribe rede.ogg --language de --translate
        whisperx-api-server transcribe talk.mp3 --url http://gpu-box:8000 --format verbose_json
    """
    given = locals()
    of_field = {name: value for name, value in given.items() if name not in NOT_FIELDS}
    try:
        fields = FormFields.of(
            form_values(of_field), task="translate" if translate else "transcribe"
        )
        targets = _targets(files, output, fields.extension)
    except OptionError as error:
        fail(str(error), USAGE)
    _transcribe(files, targets, fields, url=url, api_key=api_key, quiet=quiet)


def _transcribe(
    files: Sequence[Path],
    targets: Sequence[Path | None],
    fields: FormFields,
    *,
    url: str | None,
    api_key: str | None,
    quiet: bool,
) -> None:
    from ..config import load_settings
    from ..errors import ConfigurationError, ServiceError

    try:
        if url:
            from .remote import remote_engine

            engine = remote_engine(url, api_key)
        else:
            from .local import local_engine

            engine = local_engine(load_settings())
        with Terminal(files=len(files), quiet=quiet) as terminal:
            bodies = asyncio.run(_run(files, targets, fields, terminal, engine))
    except (ConfigurationError, ServiceError) as error:
        fail(str(error), USAGE)
    except asyncio.CancelledError:
        raise typer.Exit(TERMINATED) from None
    for body, target in zip(bodies, targets, strict=True):
        if body is not None and target is None:
            typer.echo(body, nl=not body.endswith("\n"))
    if None in bodies:
        raise typer.Exit(FAILED)


async def _run(
    files: Sequence[Path],
    targets: Sequence[Path | None],
    fields: FormFields,
    terminal: Terminal,
    engine: AbstractAsyncContextManager[Transcribe],
) -> list[str | None]:
    """Transcribe each file, and write the transcripts that have a target.

    Returns the transcripts in order, None for a file that failed.
    """
    if current := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(transcribe_file: Transcribe, file: Path, target: Path | None) -> str | None:
        async with slots:
            with terminal.bar(file.name) as report:
                try:
                    await asyncio.to_thread(_check_file, file)
                    body = await transcribe_file(file, fields, report)
                    if target is not None:
                        await asyncio.to_thread(target.write_text, body, encoding="utf-8")
                except TranscriptionFailure as error:
                    terminal.error(f"{file}: {error}")
                except OSError as error:
                    terminal.error(f"{error.filename or target}: {error.strerror}")
                else:
                    return body
                return None

    async with engine as transcribe_file, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one(transcribe_file, file, target))
            for file, target in zip(files, targets, strict=True)
        ]
    return [task.result() for task in tasks]


def _targets(files: Sequence[Path], output: Path | None, extension: str) -> list[Path | None]:
    """Find the file that each transcript is written to; None is standard output.

    Raises:
        OptionError: two transcripts have the same file, or the directory cannot be created.
    """
    if output is None:
        return [None] * len(files)
    targets: list[Path | None] = [output / (file.stem + extension) for file in files]
    target, count = Counter(targets).most_common(1)[0]
    if count > 1:
        raise OptionError(f"{count} recordings would be written to {target}: run them one by one")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {output} cannot be created: {error.strerror}") from error
    return targets


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise TranscriptionFailure("is a directory: pass the recordings in it")
    if not file.exists():
        raise TranscriptionFailure("file not found")
