"""Who may call, and what the log says of them, in both modes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import AuthenticationError

from server import FAKE, Mode, Server, command_of
from support import eventually, wav
from whisperx_api_server.backends.fake import say

PATH = "/v1/audio/transcriptions"
GOOD = wav(say("red door house"))
OWN = "geheim-Schlüssel-1"
ALICE = "key-of-alice"
BOB = "key-of-bob"


@pytest.fixture(scope="module")
def key_file(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_text(json.dumps({ALICE: "alice"}))
    return path


@pytest.fixture(scope="module")
def server(
    mode: Mode, tmp_path_factory: pytest.TempPathFactory, key_file: Path
) -> Iterator[Server]:
    settings = FAKE | {"API_KEY": OWN, "API_KEYS_FILE": str(key_file)}
    with Server(tmp_path_factory.mktemp("keyed"), settings, command=command_of(mode)) as server:
        yield server
    for key in (OWN, ALICE, BOB):
        assert key not in server.log


def ask(server: Server, authorization: str | bytes | None) -> httpx.Response:
    value = authorization.encode() if isinstance(authorization, str) else authorization
    headers = {} if value is None else {b"Authorization": value}
    return server.http.post(PATH, files={"file": ("a.wav", GOOD)}, headers=headers)


def replace_keys(path: Path, content: str) -> None:
    """As an editor does it: the new file takes the old one's place, a different time on it."""
    new = path.with_suffix(".new")
    new.write_text(content)
    os.utime(new, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    new.replace(path)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR", "Bearer "])
def test_the_scheme_may_be_in_any_case(server: Server, scheme: str) -> None:
    assert ask(server, f"{scheme} {ALICE}").status_code == 200


def test_a_key_may_have_letters_beyond_ascii(server: Server) -> None:
    assert ask(server, f"Bearer {OWN}").status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Basic a2V5LW9mLWFsaWNl",
        ALICE.encode(),
        b"Bearer wrong",
        b"Bearer " + ALICE.encode() + b"x",
        b"Bearer " + OWN.encode("latin-1"),
        b"Bearer \xff\xfe\x80",
        "Bearer ключ".encode(),
        b"Bearer " + b"k" * 5000,
    ],
)
def test_no_key_or_a_wrong_one_is_refused(server: Server, authorization: bytes | None) -> None:
    answer = ask(server, authorization)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert server.temp_files() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/whisper-1"),
        ("GET", "/info"),
        ("GET", "/models/list"),
        ("POST", "/models/load?model=whisper-1"),
        ("POST", "/models/unload?model=whisper-1"),
        ("POST", "/v1/audio/translations"),
    ],
)
def test_everything_but_health_needs_a_key(server: Server, method: str, path: str) -> None:
    assert server.http.request(method, path).status_code == 401
    assert server.http.get("/healthcheck").status_code == 200
    assert server.http.get("/ready").status_code == 200


def test_the_official_client_understands_the_refusal(server: Server) -> None:
    with server.openai(api_key="wrong") as client, pytest.raises(AuthenticationError) as refused:
        client.audio.transcriptions.create(file=("a.wav", GOOD), model="whisper-1")

    assert refused.value.code == "invalid_api_key"
    with server.openai(api_key=ALICE) as client:
        heard = client.audio.transcriptions.create(file=("a.wav", GOOD), model="whisper-1")
    assert heard.text == "red door house."


def test_the_log_has_the_name_of_the_client(server: Server) -> None:
    before = len(server.log)

    def said() -> str:
        return server.log[before:]

    ask(server, f"Bearer {ALICE}")
    ask(server, f"Bearer {OWN}")
    ask(server, "Bearer nobodys")

    for part in ("client=alice", "client=default", "status=401"):
        eventually(lambda part=part: part in said())  # type: ignore[misc]
    assert "nobodys" not in said()


def test_the_key_file_is_read_again_when_it_changes(server: Server, key_file: Path) -> None:
    assert ask(server, f"Bearer {BOB}").status_code == 401

    replace_keys(key_file, json.dumps({BOB: "bob"}))
    assert ask(server, f"Bearer {BOB}").status_code == 200
    assert ask(server, f"Bearer {ALICE}").status_code == 401

    for broken in ("{", "[]", '{"a": 1}', ""):
        replace_keys(key_file, broken)
        assert ask(server, f"Bearer {BOB}").status_code == 200
        assert ask(server, f"Bearer {ALICE}").status_code == 401
    key_file.unlink()
    assert ask(server, f"Bearer {BOB}").status_code == 200
    assert "the last valid keys stay" in server.log

    key_file.write_text(json.dumps({ALICE: "alice", BOB: "bob"}))
    assert ask(server, f"Bearer {ALICE}").status_code == 200
    assert ask(server, f"Bearer {OWN}").status_code == 200


def test_without_keys_any_authorization_will_do(fake_server: Server) -> None:
    for authorization in (None, b"Bearer sk-anything", b"\xff"):
        assert ask(fake_server, authorization).status_code == 200
