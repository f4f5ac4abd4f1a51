"""The command line against a running server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tones
from cli_support import run
from server import FAKE, LOCKED_KEY, Server
from support import wav
from whisperx_api_server.backends.fake import say, silence


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with recordings in it."""
    monkeypatch.chdir(tmp_path)
    pause = silence(1)
    talk = np.concatenate([say("red door"), pause, say("blue house", speaker=1)])
    (tmp_path / "a.wav").write_bytes(wav(talk))
    (tmp_path / "b.wav").write_bytes(wav(say("rouge porte", language="fr")))
    (tmp_path / "c.wav").write_text("this is no audio")
    return tmp_path


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(
    "output_format",
    ["text", "srt", "vtt", "aud", "json", "verbose_json", "vtt_json", "diarized_json"],
)
def test_a_server_writes_what_this_process_would(
    either_server: Server, monkeypatch: pytest.MonkeyPatch, output_format: str
) -> None:
    for name, value in FAKE.items():
        monkeypatch.setenv(name, value)
    arguments = ("transcribe", "a.wav", "b.wav", "-f", output_format, "--prompt", "House")
    here = run(*arguments)
    assert here[0] == 0
    assert "blue House" in here[1]
    assert run(*arguments, "--url", either_server.url) == here
    assert run(*arguments, "--url", f"{either_server.url}/v1/") == here


@pytest.mark.usefixtures("recordings")
def test_options_travel(either_server: Server) -> None:
    to = ("--url", either_server.url)
    assert run("transcribe", "b.wav", "--translate", *to)[1] == "red door.\n"
    options = ("--language", "de", "--word-timestamps", "-f", "verbose_json")
    transcript = json.loads(run("transcribe", "a.wav", *options, *to)[1])
    assert transcript["language"] == "german"
    assert [word["word"] for word in transcript["words"]] == ["rot", "tür.", "blau", "haus."]
    subtitles = run("transcribe", "a.wav", "-f", "srt", "--max-speakers", "2", *to)[1]
    assert "[SPEAKER_01]: blue house." in subtitles


def test_files_are_written_and_nothing_stays_on_the_server(
    recordings: Path, either_server: Server
) -> None:
    before = either_server.temp_files()
    (recordings / "long.wav").write_bytes(tones.sentences(40))
    names = ("a.wav", "c.wav", "long.wav", "gone.wav")
    status, text, errors = run("transcribe", *names, "-o", "out", "--url", either_server.url)
    assert (status, text) == (1, "")
    assert sorted(path.name for path in (recordings / "out").iterdir()) == ["a.txt", "long.txt"]
    assert (recordings / "out" / "long.txt").read_text() == tones.text(40) + "\n"
    lines = sorted(errors.splitlines())
    assert lines[0].startswith("error: c.wav: the file cannot be decoded")
    assert lines[1] == "error: gone.wav: file not found"
    assert either_server.temp_files() == before


@pytest.mark.usefixtures("recordings")
def test_a_refusal_of_the_server_names_the_file(either_server: Server) -> None:
    status, _, errors = run("transcribe", "a.wav", "--model", "../x", "--url", either_server.url)
    assert status == 1
    assert errors.startswith("error: a.wav: there is no model '../x' here")


@pytest.mark.usefixtures("recordings")
def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("transcribe", "a.wav"), ("models", "list")):
        status, _, errors = run(*command, "--url", "http://127.0.0.1:9")
        assert status == 1
        assert "no server answers at http://127.0.0.1:9: start one with" in errors
        assert errors.count("\n") == 1
        status, _, errors = run(*command, "--url", "ftp://[x")
        assert status == 1
        assert "is not a server's URL" in errors


def test_a_proxy_is_not_asked_for_this_machine(
    either_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run("models", "list", "--url", either_server.url)[0] == 0


# keys


@pytest.mark.usefixtures("recordings")
def test_the_key_comes_from_the_option_or_the_environment(
    locked_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    ask = ("transcribe", "a.wav", "--url", locked_server.url)
    status, _, errors = run(*ask)
    assert status == 1
    assert errors.startswith("error: a.wav: ")
    assert errors.endswith("give the server's key with --api-key or API_KEY\n")
    assert run(*ask, "--api-key", LOCKED_KEY) == (0, "red door. blue house.\n", "")
    monkeypatch.setenv("API_KEY", LOCKED_KEY)
    assert run(*ask)[0] == 0
    assert run("models", "list", "--url", locked_server.url)[0] == 0


# jobs


def test_jobs_are_listed_shown_fetched_and_cancelled(locked_server: Server) -> None:
    to = ("--url", locked_server.url, "--api-key", LOCKED_KEY)
    key = {"authorization": f"Bearer {LOCKED_KEY}"}
    submitted = locked_server.http.post(
        "/v1/audio/transcriptions",
        files={"file": ("kitchen.wav", wav(say("red door")))},
        data={"async": "true"},
        headers=key,
    ).json()
    job = submitted["request_id"]
    locked_server.http.get(submitted["events_url"], headers=key)

    columns, line = run("jobs", "list", "--limit", "1", *to)[1].splitlines()
    assert columns.split()[:2] == ["id", "status"]
    assert line.split()[:4] == [job, "completed", "100", "%"]
    assert line.split()[-1] == "kitchen.wav"
    assert job not in run("jobs", "list", "--status", "failed", *to)[1]
    assert json.loads(run("jobs", "show", job, *to)[1])["filename"] == "kitchen.wav"
    assert run("jobs", "result", job, "-f", "text", *to) == (0, "red door.\n", "")
    assert run("jobs", "cancel", job, *to) == (0, "", "")
    for command in ("show", "result", "cancel"):
        refused = (1, "", "error: there is no such transcription\n")
        assert run("jobs", command, job, *to) == refused


# models


def test_models_are_loaded_listed_and_unloaded(locked_server: Server) -> None:
    to = ("--url", locked_server.url, "--api-key", LOCKED_KEY)
    named = {"transcription": ["tiny"], "alignment": ["de"], "diarization": []}
    for stage, name in named.items():
        assert run("models", "load", *name, "--stage", stage, *to) == (0, "", "")
    listed = run("models", "list", *to)[1].splitlines()
    assert listed[0].split()[:2] == ["stage", "model"]
    for stage, model in (("transcription", "tiny"), ("alignment", "fake-de")):
        assert any(line.split()[:2] == [stage, model] for line in listed)
        only = run("models", "list", "--stage", stage, *to)[1].splitlines()[1:]
        assert {line.split()[0] for line in only} == {stage}
    for stage, name in named.items():
        assert run("models", "unload", *name, "--stage", stage, *to) == (0, "", "")
    left = run("models", "list", *to)[1]
    assert not any(name in left for name in ("tiny", "fake-de", "diarization"))


def test_models_that_cannot_be_are_one_line(locked_server: Server) -> None:
    to = ("--url", locked_server.url, "--api-key", LOCKED_KEY)
    for arguments, message in (
        (("unload", "tiny"), "is not loaded"),
        (("load", "xx", "-s", "alignment"), "language"),
        (("load",), "model is missing"),
        (("load", "someone/voices", "-s", "diarization"), "DIARIZATION__MODEL"),
    ):
        status, text, errors = run("models", *arguments, *to)
        assert (status, text) == (1, "")
        assert errors.startswith("error: ")
        assert message in errors
        assert errors.count("\n") == 1
