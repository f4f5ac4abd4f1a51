"""The command line, on the fake backend: what it prints, writes and refuses."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import srt
import typer

from cli_support import Recorder, run
from fixtures.speech.speech import Speech
from server import FAKE, REPOSITORY, real_settings
from support import ALIGNER, WHISPER, wav, word_errors
from whisperx_api_server import __version__
from whisperx_api_server.backends import fake
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.cli import app
from whisperx_api_server.cli.form_fields import FormFields
from whisperx_api_server.cli.local import local_engine
from whisperx_api_server.config import load_settings
from whisperx_api_server.domain import (
    Samples,
    TranscriptionRequest,
    Upload,
    Window,
)
from whisperx_api_server.fields.transcription import FormDefaults

COMMAND = (sys.executable, "-m", "whisperx_api_server.cli")


def record(path: Path, *parts: Samples) -> Path:
    path.write_bytes(wav(np.concatenate(parts)))
    return path


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with recordings, the fake backend, and a temp directory of its own."""
    for name, value in FAKE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "a.wav", say("red door"), silence(1), say("blue house", speaker=1))
    record(tmp_path / "b.wav", say("rouge porte", language="fr"))
    (tmp_path / "c.wav").write_text("this is no audio")
    yield tmp_path
    assert list((tmp_path / "tmp").iterdir()) == []


# transcribe: output


@pytest.mark.usefixtures("recordings")
def test_transcripts_go_to_standard_output_in_the_order_given() -> None:
    assert run("transcribe", "b.wav", "a.wav") == (0, "rouge porte.\nred door. blue house.\n", "")


@pytest.mark.parametrize(
    ("output_format", "extension"),
    [
        ("text", "txt"),
        ("srt", "srt"),
        ("vtt", "vtt"),
        ("aud", "aud"),
        ("json", "json"),
        ("verbose_json", "json"),
        ("vtt_json", "json"),
        ("diarized_json", "json"),
    ],
)
def test_files_are_named_after_the_recording_and_the_format(
    recordings: Path, output_format: str, extension: str
) -> None:
    status = run("transcribe", "a.wav", "b.wav", "-f", output_format, "-o", "new/dir")
    assert status == (0, "", "")
    written = recordings / "new" / "dir"
    assert sorted(path.name for path in written.iterdir()) == [f"a.{extension}", f"b.{extension}"]
    body = (written / f"a.{extension}").read_text()
    assert "blue house" in body
    if extension == "json":
        assert json.loads(body)["text"] == "red door. blue house."


@pytest.mark.usefixtures("recordings")
def test_a_number_of_speakers_implies_diarization() -> None:
    status, subtitles, _ = run("transcribe", "a.wav", "-f", "srt", "--num-speakers", "2")
    assert status == 0
    assert [cue.content for cue in srt.parse(subtitles)] == [
        "[SPEAKER_00]: red door.",
        "[SPEAKER_01]: blue house.",
    ]


def test_a_known_voice_is_called_by_its_name(recordings: Path) -> None:
    record(recordings / "beth.wav", say("red blue green black white door house tree", speaker=1))
    status, body, _ = run(
        *("transcribe", "a.wav", "-f", "diarized_json", "--known-speaker", "Beth=beth.wav")
    )
    assert status == 0
    assert [each["speaker"] for each in json.loads(body)["segments"]] == ["A", "Beth"]


@pytest.mark.usefixtures("recordings")
def test_the_options_reach_the_decoder() -> None:
    options = ("--language", "de", "--prompt", "Rot", "--temperature", "0.5", "--word-timestamps")
    status, body, _ = run("transcribe", "a.wav", "-f", "verbose_json", *options)
    assert status == 0
    transcript = json.loads(body)
    assert transcript["language"] == "german"
    assert transcript["text"] == "Rot tür. blau haus."
    assert transcript["segments"][0]["temperature"] == 0.5
    assert [word["word"] for word in transcript["words"]] == ["Rot", "tür.", "blau", "haus."]
    assert run("transcribe", "b.wav", "--translate")[1] == "red door.\n"
    candidates = ("--language", "de", "--language", "en")
    assert run("transcribe", "b.wav", *candidates)[1] in ("red door.\n", "rot tür.\n")


def test_recordings_share_batches(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULER__MAX_WAIT_MS", "2000")
    shared: list[int] = []
    transcribe = fake.FakeTranscriber.transcribe

    def counted(self: fake.FakeTranscriber, windows: Sequence[Window], *rest: Any) -> Any:
        shared.append(len({window.request_id for window in windows}))
        return transcribe(self, windows, *rest)

    monkeypatch.setattr(fake.FakeTranscriber, "transcribe", counted)
    for number in range(4):
        record(recordings / f"{number}.wav", say("red"))
    names = (f"{number}.wav" for number in range(4))
    status, texts, _ = run("transcribe", *names, "-l", "en")
    assert (status, texts) == (0, "red.\n" * 4)
    assert max(shared) > 1


# transcribe: what goes wrong


def test_one_bad_recording_does_not_stop_the_others(recordings: Path) -> None:
    status, text, errors = run("transcribe", "c.wav", "gone.wav", ".", "a.wav", "-o", "out")
    assert status == 1
    assert text == ""
    assert [path.name for path in (recordings / "out").iterdir()] == ["a.txt"]
    lines = sorted(errors.splitlines())
    assert len(lines) == 3
    assert lines[0] == "error: .: is a directory: pass the recordings in it"
    assert lines[1].startswith("error: c.wav: the file cannot be decoded: send audio")
    assert lines[2] == "error: gone.wav: file not found"


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-f srt --no-align", "--align: response_format srt cannot be combined with align=false"),
        ("--word-timestamps", "--word-timestamps: timestamp_granularities[]=word needs"),
        ("-f srt --logprobs", "--logprobs: include[]=logprobs needs response_format json"),
        ("--highlight-words", "--highlight-words: highlight_words needs"),
        ("--min-speakers 3 --max-speakers 2", "--min-speakers: min_speakers is greater"),
        ("--translate --language fr -l de", "--language does not go with --translate"),
        ("--translate --language xx", "--language: 'xx' is not a known language"),
        ("--translate --num-speakers 2", "--diarize does not go with --translate"),
        ("--translate -f diarized_json", "--format: "),
        ("--known-speaker Beth", "--known-speaker: give NAME=FILE, not 'Beth'"),
        ("--known-speaker Beth=gone.wav", "--known-speaker: gone.wav: No such file"),
        ("-o c.wav", "--output: c.wav cannot be created: File exists"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_at_once(arguments: str, message: str) -> None:
    status, text, errors = run("transcribe", "a.wav", *arguments.split())
    assert (status, text) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_two_recordings_never_overwrite_each_other(recordings: Path) -> None:
    (recordings / "a.mp3").write_bytes(b"")
    status, _, errors = run("transcribe", "a.wav", "a.mp3", "-o", "out")
    assert status == 2
    assert errors == "error: 2 recordings would be written to out/a.txt: run them one by one\n"


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("LIMITS__AUDIO_SECONDS", "LIMITS__AUDIO_SECONDS: "),
        ("BACKENDS__DIARIZATION", "there is no"),
    ],
)
def test_a_wrong_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.setenv(variable, "nonsense")
    for command in (("transcribe", "a.wav"), ("serve",)):
        status, _, errors = run(*command)
        assert status == 2
        assert errors.startswith(f"error: {message}")
        assert errors.count("\n") == 1


@pytest.mark.usefixtures("recordings")
def test_log_level_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise RuntimeError("the weights\nare torn")

    monkeypatch.setattr(fake, "load_transcriber", load)
    status, _, errors = run("transcribe", "a.wav")
    assert status == 1
    assert errors.startswith("error: a.wav: the model ")
    assert errors.endswith("(LOG_LEVEL=error shows the log)\n")
    assert errors.count("\n") == 1
    monkeypatch.setenv("LOG_LEVEL", "error")
    assert "are torn" in run("transcribe", "a.wav")[2]


BUSY = """
import signal, threading
from whisperx_api_server.backends import fake
from whisperx_api_server.cli import app
from whisperx_api_server.scheduling.model_pool import ModelPool

# A shell that starts pytest in the background has children ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
closing, close = threading.Event(), ModelPool.close

def transcribe(self, windows, options, features):
    print("decoding", flush=True)
    closing.wait()
    return []

def close_pool(self, *patience):
    closing.set()
    return close(self, *patience)

fake.FakeTranscriber.transcribe = transcribe
ModelPool.close = close_pool
app()
"""
"""Decodes until the interrupt has reached the pool."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_leaves_nothing_behind(
    recordings: Path, number: signal.Signals, status: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, "transcribe", "a.wav"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(recordings / "tmp")},
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoding\n"
        assert list((recordings / "tmp").iterdir())
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors
    assert list((recordings / "tmp").iterdir()) == []


# transcribe: progress


def test_progress_counts_audio_seconds(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER__CHUNK_SIZE", "2")
    long = record(recordings / "long.wav", *[say("red door"), silence(1.4)] * 40)
    watch = Recorder()

    async def transcribe() -> None:
        async with local_engine(load_settings()) as transcribe_file:
            await transcribe_file(long, FormFields.of({"response_format": "text"}), watch)

    asyncio.run(transcribe())
    parts = [part for part, _, _ in watch.seen]
    assert parts == sorted(parts)
    assert parts[0] == 0
    assert len(set(parts)) > 10
    assert watch.seen[0][1] == "0:00 of 1:20"
    assert watch.seen[-1][1].startswith("1:1")


def test_bars_are_drawn_on_the_terminal_and_never_into_the_output(recordings: Path) -> None:
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "transcribe", "a.wav", "b.wav", "c.wav"],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm", "TMPDIR": str(recordings / "tmp")},
        text=True,
    ) as process:
        os.close(terminal)
        drawn = b""
        try:
            while piece := os.read(ours, 4096):
                drawn += piece
        except OSError:  # how a pseudo-terminal ends
            pass
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.read() == "red door. blue house.\nrouge porte.\n"
    assert process.returncode == 1
    assert b"3/3 files" in drawn
    assert b"error: c.wav: the file cannot be decoded" in drawn


# help


def commands() -> list[Any]:
    """Every command and group of the program."""
    found = [typer.main.get_command(app)]
    for command in found:
        found += getattr(command, "commands", {}).values()
    return found


EXAMPLES = sorted(
    {
        line.partition("whisperx-api-server ")[2]
        for text in (*(each.help for each in commands()), (REPOSITORY / "docs/cli.md").read_text())
        for line in text.splitlines()
        if re.match(r"( *[A-Z_]+=\S+)* *whisperx-api-server ", line)
    }
)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_help_and_the_docs_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
) -> None:
    """Each example is parsed; those of `transcribe` make up a request."""
    monkeypatch.chdir(tmp_path)
    called: list[str] = []
    requests: list[TranscriptionRequest] = []

    def run_nothing(
        files: Sequence[Path], _targets: object, fields: FormFields, **_: object
    ) -> None:
        source = Upload(id=files[0].name)
        defaults = FormDefaults(model="small")
        request, output = fields.form().request("id", "cli", source, defaults, task=fields.task)
        assert output.format == fields.values["response_format"]
        requests.append(request)

    monkeypatch.setattr(
        sys.modules["whisperx_api_server.cli.transcribe"], "_transcribe", run_nothing
    )
    program = typer.main.get_command(app)
    pending: list[Any] = [program]
    for command in pending:
        children = getattr(command, "commands", {}).values()
        pending += children
        if not children and command.name != "transcribe":
            command.callback = lambda _name=command.name, **_: called.append(_name)

    arguments = shlex.split(example, comments=True)
    program.main(arguments, prog_name="whisperx-api-server", standalone_mode=False)

    if arguments[0] == "transcribe":
        (request,) = requests
        assert (request.decode.task == "translate") == ("--translate" in arguments)
        if "--language" in arguments:
            assert request.decode.language == arguments[arguments.index("--language") + 1]
    else:
        assert called == [arguments[1] if arguments[0] in ("models", "jobs") else arguments[0]]


def test_every_option_is_described() -> None:
    described = 0
    for command in commands():
        assert command.help
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"
            described += 1
    assert described > 30


def test_help_waits_for_nothing_heavy() -> None:
    heavy = "{'numpy', 'pydantic', 'fastapi', 'httpx', 'torch'} & sys.modules.keys()"
    code = f"import sys; import whisperx_api_server.cli; print({heavy})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_the_version_is_shown() -> None:
    assert run("--version") == (0, f"whisperx-api-server {__version__}\n", "")


# On a real model.


def test_a_real_model_transcribes_a_recording(
    tmp_path: Path, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = speech.random("en-adam", 4, seed=11)
    said.write(str(tmp_path / "talk.wav"))
    for name, value in (real_settings(WHISPER, ALIGNER) | {"HF_HUB_OFFLINE": "1"}).items():
        monkeypatch.setenv(name, value)
    status, body, said_wrong = run("transcribe", str(tmp_path / "talk.wav"), "-f", "srt")
    assert (status, said_wrong) == (0, "")
    cues = list(srt.parse(body))
    errors, words = word_errors(said.text, " ".join(cue.content for cue in cues))
    assert errors / words <= 0.02
