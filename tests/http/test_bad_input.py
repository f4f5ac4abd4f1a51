"""Whatever a client sends, it gets the right answer, nothing stays, and the next request works."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recordings import encode, opus_bomb, silent_video
from server import REPOSITORY, Server
from support import PATIENCE, eventually, wav
from whisperx_api_server.backends.fake import say, silence

PATH = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
SAID = "red door house"
SPEECH = say(SAID)
GOOD = wav(SPEECH)
TEXT = "red door house."


def check_refusal(
    server: Server, answer: httpx.Response, status: int, code: str, param: str | None
) -> str:
    """That the answer is OpenAI's error, tells nothing of this machine, and left nothing behind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.headers["x-request-id"])
    body = answer.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["type"], str)
    assert (error["code"], error["param"]) == (code, param), error
    for secret in (str(server.temp), str(REPOSITORY), "Traceback", "site-packages", 'File "'):
        assert secret not in answer.text
    assert server.temp_files() == []
    assert server.transcribe(GOOD).json()["text"] == TEXT
    message: str = error["message"]
    assert message
    return message


# -- files --------------------------------------------------------------------------------------


def truncated_m4a(folder: Path) -> bytes:
    whole = encode(folder / "a.m4a", SPEECH)
    return whole[: len(whole) // 2]


def wav_header(rate: int, count: int) -> bytes:
    """A 16-bit mono WAV file of `count` silent samples."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<4sI", b"data", 2 * count) + bytes(2 * count)
    return struct.pack("<4sI", b"RIFF", 4 + len(form) + len(data)) + b"WAVE" + form + data


def playlist(folder: Path) -> bytes:
    (folder / "secret.wav").write_bytes(GOOD)
    return f"#EXTM3U\n#EXTINF:1,\n{folder / 'secret.wav'}\n#EXT-X-ENDLIST\n".encode()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("empty.wav", lambda _: b""),
        ("letter.mp3", lambda _: b"This is a letter, not a song.\n" * 200),
        ("truncated.m4a", truncated_m4a),
        ("silent.mp4", lambda folder: silent_video(folder / "v.mp4")),
        ("no-samples.wav", lambda _: wav_header(16_000, 0)),
        ("one-hertz.wav", lambda _: wav_header(1, 10)),
        ("list.m3u8", playlist),
        ("zeros.wav", lambda _: bytes(5000)),
    ],
)
def test_files_without_audio_are_refused(
    either_server: Server, tmp_path: Path, name: str, make: Callable[[Path], bytes]
) -> None:
    answer = either_server.http.post(PATH, files={"file": (name, make(tmp_path))})

    check_refusal(either_server, answer, 400, "invalid_audio", "file")


def test_a_day_of_silence_in_a_few_kilobytes_is_too_long(either_server: Server) -> None:
    bomb = opus_bomb(24)

    answer = either_server.http.post(PATH, files={"file": ("day.m4a", bomb)})

    assert len(bomb) < 50_000
    message = check_refusal(either_server, answer, 413, "file_too_large", "file")
    assert "seconds" in message


def test_minutes_of_silence_in_a_few_kilobytes_are_an_empty_text(either_server: Server) -> None:
    answer = either_server.transcribe(opus_bomb(0.05), response_format="verbose_json").json()

    assert (answer["text"], answer["segments"]) == ("", [])
    assert answer["duration"] == pytest.approx(180, abs=0.1)


@pytest.mark.parametrize("options", ["-ar 192000", "-ac 8", "-ar 192000 -ac 8", "-ar 8000"])
def test_unusual_rates_and_channels_are_heard(
    fake_server: Server, tmp_path: Path, options: str
) -> None:
    recording = encode(tmp_path / "a.wav", SPEECH, options)

    assert fake_server.transcribe(recording).json()["text"] == TEXT


@pytest.mark.parametrize(
    "filename",
    ["../../../../tmp/evil.wav", "/etc/passwd", "C:\\boot.ini", "a\x00b.wav", "é" * 2000, " "],
)
def test_a_path_as_filename_is_only_a_name(either_server: Server, filename: str) -> None:
    answer = either_server.http.post(PATH, files={"file": (filename, GOOD)})

    assert answer.json()["text"] == TEXT
    assert either_server.temp_files() == []
    assert not (either_server.temp.parent / "evil.wav").exists()
    assert not Path("/tmp/evil.wav").exists()


def test_an_upload_over_the_limit_is_refused(either_server: Server) -> None:
    limit = either_server.info()["limits"]["upload_bytes"]

    answer = either_server.http.post(PATH, files={"file": ("a.wav", bytes(limit + 1))})

    check_refusal(either_server, answer, 413, "file_too_large", "file")


# -- forms --------------------------------------------------------------------------------------

MULTIPART = "multipart/form-data; boundary=frontier"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = b"--frontier--\r\n"
FILE = part("file", GOOD, "a.wav")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MULTIPART, FILE),
        (MULTIPART, FILE[: len(FILE) // 2]),
        (MULTIPART, b""),
        (MULTIPART, b"\x00\xff" * 500),
        (MULTIPART, GOOD),
        ("multipart/form-data", FILE + END),
        ("multipart/form-data; boundary=", FILE + END),
        ("multipart/form-data; boundary=elsewhere", FILE + END),
        (f"multipart/form-data; boundary={'b' * 3000}", FILE + END),
        ("multipart/mixed; boundary=frontier", FILE + END),
        (MULTIPART, b"--frontier\r\nContent-Type: audio/wav\r\n\r\nabc\r\n" + END),
        (MULTIPART, b"--frontier\r\nno header at all\r\n\r\nabc\r\n" + END),
        (MULTIPART, part("model", b"\xff\xfe") + END),
        ("application/json", b'{"file": "a.wav"}'),
        ("audio/wav", GOOD),
        ("", GOOD),
        ("application/x-www-form-urlencoded", b"model=%ff%fe&language=" + b"\xff"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else f"{len(value)} bytes",
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_wrong_form_is_refused(
    fake_server: Server, content_type: str, body: bytes, chunked: bool
) -> None:
    pieces = (body[start : start + 700] for start in range(0, len(body), 700))

    answer = fake_server.http.post(
        PATH, content=pieces if chunked else body, headers={"content-type": content_type}
    )

    assert answer.json()["error"]["code"] in ("invalid_value", "missing_required_parameter")
    check_refusal(
        fake_server, answer, 400, answer.json()["error"]["code"], answer.json()["error"]["param"]
    )


def test_a_form_without_a_file_names_the_file(fake_server: Server) -> None:
    for form in ({"files": {"note": ("a.wav", GOOD)}}, {"data": {"model": "whisper-1"}}):
        answer = fake_server.http.post(PATH, **form)
        check_refusal(fake_server, answer, 400, "missing_required_parameter", "file")
    answer = fake_server.http.post(
        PATH, content=part("file", b"") + END, headers={"content-type": MULTIPART}
    )
    check_refusal(fake_server, answer, 400, "missing_required_parameter", "file")
    answer = fake_server.http.post(PATH, data={"file": "a.wav"})
    check_refusal(fake_server, answer, 400, "invalid_value", "file")


@pytest.mark.parametrize(
    "disposition", ["", "; filename*=UTF-8''na%C3%AFve.wav", '; filename=""', "; filename"]
)
def test_a_file_needs_no_filename(fake_server: Server, disposition: str) -> None:
    head = f"--frontier\r\nContent-Disposition: form-data; name=file{disposition}\r\n\r\n"

    answer = fake_server.http.post(
        PATH, content=head.encode() + GOOD + b"\r\n" + END, headers={"content-type": MULTIPART}
    )

    assert answer.json()["text"] == TEXT


def test_an_empty_file_input_counts_as_absent(fake_server: Server) -> None:
    """Browsers send it as an empty file with an empty name."""
    body = part("file", b"", "") + part("audio_url", b"http://127.0.0.1/a.wav") + END

    answer = fake_server.http.post(PATH, content=body, headers={"content-type": MULTIPART})

    check_refusal(fake_server, answer, 400, "invalid_value", "audio_url")


def test_a_body_without_a_declared_length_is_bounded_whatever_its_parts_are_called(
    fake_server: Server,
) -> None:
    limit: int = fake_server.info()["limits"]["upload_bytes"]
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--frontier\r\nContent-Disposition: form-data; name=cover; filename="c"\r\n\r\n'
        while sent < 8 * limit:
            yield bytes(1024**2)
            sent += 1024**2
        yield b"\r\n" + part("file", GOOD, "a.wav") + END

    answer = fake_server.http.post(PATH, content=body(), headers={"content-type": MULTIPART})

    check_refusal(fake_server, answer, 413, "file_too_large", None)


def test_files_of_unknown_names_count_as_files(fake_server: Server) -> None:
    limit: int = fake_server.info()["limits"]["upload_bytes"]
    body = part("cover", bytes(limit), "cover.png") + FILE + END

    answer = fake_server.http.post(PATH, content=body, headers={"content-type": MULTIPART})

    check_refusal(fake_server, answer, 413, "file_too_large", "file")
    small = part("cover", bytes(1_000_000), "cover.png") + FILE + END
    answer = fake_server.http.post(PATH, content=small, headers={"content-type": MULTIPART})
    assert answer.json()["text"] == TEXT


def test_two_files_are_one_too_many(fake_server: Server) -> None:
    both = [("file", ("a.wav", GOOD)), ("file", ("b.wav", GOOD))]

    answer = fake_server.http.post(PATH, files=both)
    check_refusal(fake_server, answer, 400, "invalid_value", "file")

    answer = fake_server.transcribe(GOOD, audio_url="http://example.com/a.wav")
    check_refusal(fake_server, answer, 400, "invalid_value", "file")


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a" * 10_000_000},
        {f"field{number}": "a" * 10_000 for number in range(1000)},
        {f"field{number}": "" for number in range(5000)},
        {"known_speaker_references[]": ["a" * 3_000_000] * 4, "prompt": "a" * 300_000},
        {"known_speaker_references[]": ["a" * 7_000_000] * 5},
    ],
    ids=["one", "many", "empty", "beside references", "references"],
)
def test_ten_megabytes_of_fields_are_too_many(fake_server: Server, fields: dict[str, Any]) -> None:
    answer = fake_server.transcribe(GOOD, **fields)

    check_refusal(fake_server, answer, 413, "file_too_large", answer.json()["error"]["param"])


def test_headers_of_a_part_are_bounded(fake_server: Server) -> None:
    note = b"X-Note: " + b"a" * 3500 + b"\r\n"
    head = b"--frontier\r\nContent-Disposition: form-data; name=a\r\n" + note * 6

    answer = fake_server.http.post(
        PATH, content=head + b"\r\n\r\n" + END, headers={"content-type": MULTIPART}
    )

    check_refusal(fake_server, answer, 413, "file_too_large", None)


@pytest.mark.parametrize("path", [PATH, TRANSLATIONS])
@pytest.mark.parametrize("sent", [0.0, 0.5, 0.99])
def test_a_client_may_hang_up_in_the_middle(either_server: Server, path: str, sent: float) -> None:
    body = part("file", bytes(3_000_000), "a.wav") + END
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {MULTIPART}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", either_server.port)) as connection:
        connection.sendall(head.encode() + body[: int(sent * len(body))])
        if sent:
            eventually(lambda: bool(either_server.temp_files()))

    eventually(lambda: not either_server.temp_files())
    assert either_server.transcribe(GOOD).json()["text"] == TEXT
    assert "Traceback" not in either_server.log


# -- fields -------------------------------------------------------------------------------------

GRANULARITIES = "timestamp_granularities[]"
REFERENCES = "known_speaker_references[]"
NAMES = "known_speaker_names[]"
VAD = "chunking_strategy"
LONG = "1" * 400

WRONG = [
    *[("temperature", v) for v in ("NaN", "inf", "-inf", "-0.1", "1.1", "warm", "1e999", "0,5")],
    *[("language", v) for v in ("xx", "klingon", "12", "e" * 1000, "en\0", "../en", "<en>")],
    *[("languages[]", v) for v in ("xx", '["en", "xx"]', '["en", 7]', '["en"', '[{"a": 1}]')],
    *[("response_format", v) for v in ("xml", "JSON", "json,text", "[]")],
    *[(GRANULARITIES, v) for v in ("letter", '["word"', "[1]", '["word", {"a": 1}]', "[[]]")],
    *[("include[]", v) for v in ("tokens", '["logprobs", "x"]', "[null]")],
    *[
        (name, value)
        for name in (
            *("stream", "align", "diarize", "speaker_embeddings"),
            *("highlight_words", "suppress_numerals"),
        )
        for value in ("maybe", "2", "-1", "[true]", "{}", "truefalse", LONG)
    ],
    *[
        (name, value)
        for name in ("min_speakers", "max_speakers", "num_speakers", "batch_size")
        for value in ("0", "-1", "1.5", "two", "1e3", LONG, "NaN", "[2]", "true")
    ],
    *[("chunk_size", v) for v in ("0", "-8", "0.5", "31", "NaN", "inf", "long", LONG, "[8]")],
    *[
        (VAD, v)
        for v in (
            "manual",
            '{"type": "manual"}',
            '{"type": "server_vad", "threshold": 2}',
            '{"type": "server_vad", "threshold": NaN}',
            '{"type": "server_vad", "silence_duration_ms": -1}',
            '{"type": "server_vad", "prefix_padding_ms": "long"}',
            '{"type": "server_vad", "unknown": 1}',
            '{"threshold": 0.5}',
            '{"type": "server_vad"',
            "[]",
            '{"a":' * 5000,
        )
    ],
    *[("keywords[]", v) for v in ("<b>", "one\ntwo", "a" * 201, '["ok", "<b>"]', "[1]")],
    *[("hotwords", v) for v in ("<b>", "one\ntwo", "ok, a>b")],
    *[("audio_url", v) for v in ("not a url", "http://", "http://[::1")],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: repr(value[:24]))
def test_a_wrong_value_names_its_field(fake_server: Server, name: str, value: str) -> None:
    files = {} if name == "audio_url" else {"file": ("a.wav", GOOD)}

    answer = fake_server.http.post(
        PATH, data={name: value}, files=files or {"unused": ("", b"", "text/plain")}
    )

    message = check_refusal(fake_server, answer, 400, "invalid_value", name)
    assert len(message) < 500


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"temperature": "NaN"}, "temperature"),
        ({"batch_size": "0"}, "batch_size"),
        ({"hotwords": "<"}, "hotwords"),
    ],
)
def test_translations_check_their_fields(
    fake_server: Server, fields: dict[str, str], param: str
) -> None:
    answer = fake_server.transcribe(GOOD, TRANSLATIONS, **fields)

    check_refusal(fake_server, answer, 400, "invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_speakers": "3", "max_speakers": "2", "diarize": "true"}, "min_speakers"),
        ({"min_speakers": "3", "num_speakers": "2", "diarize": "true"}, "num_speakers"),
        ({"max_speakers": "2", "num_speakers": "3", "diarize": "true"}, "num_speakers"),
        ({NAMES: ["a", "b"], "diarize": "true"}, REFERENCES),
        ({REFERENCES: ["data:audio/wav;base64,AAAA"], "diarize": "true"}, REFERENCES),
        ({NAMES: list("abcde"), REFERENCES: list("abcde"), "diarize": "true"}, NAMES),
        ({NAMES: ["a", "a"], REFERENCES: ["x", "y"], "diarize": "true"}, NAMES),
        ({NAMES: ["a"], REFERENCES: ["http://x/a.wav"], "diarize": "true"}, REFERENCES),
        ({NAMES: ["a"], REFERENCES: ["data:audio/wav;base64,!!"], "diarize": "true"}, REFERENCES),
        ({NAMES: ["a"], REFERENCES: ["data:audio/wav;base64,"], "diarize": "true"}, REFERENCES),
        ({f"{VAD}[type]": "server_vad", f"{VAD}[threshold]": "-1"}, VAD),
    ],
)
def test_fields_that_contradict_each_other_are_refused(
    fake_server: Server, fields: dict[str, Any], param: str
) -> None:
    check_refusal(fake_server, fake_server.transcribe(GOOD, **fields), 400, "invalid_value", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *[({"response_format": f, "align": "false"}, "align") for f in ("srt", "vtt", "aud")],
        ({"response_format": "vtt_json", "align": "0"}, "align"),
        ({"response_format": "diarized_json", "align": "false"}, "align"),
        ({"diarize": "true", "align": "false"}, "align"),
        (
            {"response_format": "verbose_json", GRANULARITIES: "word", "align": "false"},
            "align",
        ),
        ({GRANULARITIES: "word"}, GRANULARITIES),
        ({"response_format": "srt", GRANULARITIES: ["segment", "word"]}, GRANULARITIES),
        ({"response_format": "text", "include[]": "logprobs"}, "include[]"),
        ({"highlight_words": "true"}, "highlight_words"),
        ({"response_format": "srt", "stream": "true"}, "stream"),
        ({"response_format": "verbose_json", "stream": "true", "model": "tiny"}, "stream"),
        ({"speaker_embeddings": "true"}, "speaker_embeddings"),
        ({"speaker_embeddings": "true", "response_format": "verbose_json"}, "speaker_embeddings"),
        ({NAMES: ["a"], REFERENCES: ["data:audio/wav;base64,AAAA"]}, NAMES),
        ({"language": "en", "languages[]": ["en", "fr"]}, "languages[]"),
        ({"min_speakers": "1"}, "min_speakers"),
        ({"max_speakers": "2"}, "max_speakers"),
        ({"num_speakers": "2"}, "num_speakers"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(
    either_server: Server, fields: dict[str, Any], param: str
) -> None:
    check_refusal(
        either_server, either_server.transcribe(GOOD, **fields), 422, "invalid_value", param
    )


@pytest.mark.parametrize(
    "model", ["/etc/passwd", "../models/whisper", "a b", "a/b/c", "m" * 1000, "~root", "C:\\x"]
)
def test_a_model_cannot_be_a_path(fake_server: Server, model: str) -> None:
    answer = fake_server.transcribe(GOOD, model=model)

    check_refusal(fake_server, answer, 404, "model_not_found", "model")


@pytest.mark.parametrize("settings", [{}, {"MODELS__ALLOWED": '["private/*"]'}])
def test_a_model_name_does_not_tell_which_files_exist(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """Names that exist in the server's working directory are answered as those that do not."""
    (tmp_path / "private" / "customers").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    with Server(tmp_path, settings) as server:
        for exists, absent in (
            ("private/customers", "private/nobodyhere"),
            ("notes.txt", "other.txt"),
            ("private", "abscond"),
        ):
            for stage in ("models", "diarize_models"):
                messages = [
                    server.http.post(f"/{stage}/load", data={"model": name}).text.replace(name, "")
                    for name in (exists, absent)
                ]
                assert "model_not_found" in messages[0]
                assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a.wav",
        "http://127.0.0.1/a.wav",
        "http://[::1]/a.wav",
        "http://localhost:1/a.wav",
        "http://169.254.169.254/latest/meta-data",
        "http://user:password@example.com/a.wav",
        "http://0x7f.1/a.wav",
        "data:audio/wav;base64,AAAA",
    ],
)
def test_a_url_into_the_network_is_refused(either_server: Server, url: str) -> None:
    answer = either_server.http.post(PATH, data={"audio_url": url}, files={"x": ("", b"")})

    check_refusal(either_server, answer, 400, "invalid_value", "audio_url")


def test_empty_and_unknown_fields_are_absent(either_server: Server) -> None:
    answer = either_server.transcribe(
        GOOD, language="", temperature="", num_speakers=" ", response_format="", colour="blue"
    )

    assert answer.json()["text"] == TEXT


def test_a_language_may_be_named_in_several_ways(either_server: Server) -> None:
    recording = wav(np.concatenate([say("rouge porte", language="fr"), silence(0.5)]))

    for name in ("fr", "FR", "french", "fr-FR"):
        answer = either_server.transcribe(recording, language=name)
        assert answer.json()["text"] == "rouge porte."


# -- everything else ----------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["abc", "A.b_c-9", "x" * 128])
def test_a_good_request_id_is_kept(either_server: Server, given: str) -> None:
    for path in ("/healthcheck", "/nowhere"):
        answer = either_server.http.get(path, headers={"X-Request-ID": given})
        assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [b"", b"x" * 129, b"a b", b"a\xff", b"{}", "é".encode()])
def test_a_bad_request_id_is_replaced(fake_server: Server, given: bytes) -> None:
    answer = fake_server.http.get("/healthcheck", headers={b"X-Request-ID": given})

    (made,) = answer.headers.get_list("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/audio", 404, "not_found"),
        ("GET", "/etc/list", 404, "not_found"),
        ("POST", "/etc/load", 404, "not_found"),
        ("PUT", PATH, 405, "method_not_allowed"),
        ("DELETE", TRANSLATIONS, 405, "method_not_allowed"),
        ("POST", "/healthcheck", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods_have_the_error_shape(
    fake_server: Server, method: str, path: str, status: int, code: str
) -> None:
    answer = fake_server.http.request(method, path)

    check_refusal(fake_server, answer, status, code, None)
    assert ("allow" in answer.headers) == (status == 405)


@pytest.fixture
def odd_request(fake_server: Server) -> Iterator[Callable[[bytes], bytes]]:
    def send(raw: bytes) -> bytes:
        with socket.create_connection(
            ("127.0.0.1", fake_server.port), timeout=PATIENCE
        ) as connection:
            connection.sendall(raw)
            return connection.recv(4096)

    yield send
    assert fake_server.transcribe(GOOD).json()["text"] == TEXT


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\x00: y\r\n\r\n",
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["tls", "header", "length"],
)
def test_bytes_that_are_not_http_do_not_stop_the_server(
    odd_request: Callable[[bytes], bytes], raw: bytes
) -> None:
    assert b" 400 " in odd_request(raw).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({REFERENCES: "data:" + ";a" * 3_000_000, NAMES: "x"}, REFERENCES),
        ({REFERENCES: "data:" + "a" * 6_000_000, NAMES: "x"}, REFERENCES),
        ({REFERENCES: "[" + '"a",' * 1_500_000 + '"a"]', NAMES: "x"}, REFERENCES),
        (
            {"chunking_strategy": json.dumps(dict.fromkeys(map(str, range(20_000)), 1))},
            "chunking_strategy",
        ),
        ({"languages[]": "[" + '"a",' * 50_000 + '"a"]'}, "languages[]"),
    ],
)
def test_megabytes_of_small_values_do_not_hold_up_others(
    fake_server: Server, fields: dict[str, str], param: str
) -> None:
    """The server's fixture fails if anything has blocked its event loop for long."""
    answer = fake_server.transcribe(GOOD, diarize="true", **fields)

    check_refusal(fake_server, answer, 400, "invalid_value", param)
