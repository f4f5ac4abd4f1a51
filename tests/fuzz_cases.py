"""Requests that nobody should send: mutated recordings, forms and HTTP, each from its own seed."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from recordings import encode
from whisperx_api_server.backends.fake import say, silence
from whisperx_api_server.domain import Samples
from whisperx_api_server.fields.transcription import TranscriptionForm

CONTAINERS = ("wav", "mp3", "ogg", "m4a", "webm", "flac")
TRANSCRIPTIONS = "/v1/audio/transcriptions"
ASR = ("/asr?output=json&encode=false", "/detect-language")
UPLOADS = (TRANSCRIPTIONS, "/v1/audio/translations", "/transcribe", "/diarize", *ASR)
TEXTS = ("/v1/audio/transcriptions-from-url", "/translate", "/llm")
MODELS = (b"whisper-1", b"tiny", b"gpt-4o-transcribe", b"../etc/passwd", b"a/b/c", b"x" * 300)
"""No Parakeet: its name would import NeMo in the server."""

LIMIT = 1024**2
"""What the server that is fuzzed takes for an upload, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Bytes for one connection.

    `hang_up` closes it without reading; `must_answer` is said of whatever HTTP/1.1 can read, and
    what is sent completely.
    """

    kind: str
    payload: bytes
    hang_up: bool = False
    must_answer: bool = True


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a form; `headers` beside Content-Disposition."""

    name: bytes
    content: bytes
    filename: bytes | None = None
    headers: bytes = b""


def make_corpus(directory: Path) -> tuple[bytes, ...]:
    """Half a second of speech in every container."""
    samples: Samples = say("red door", speaker=1)
    spoken = [encode(directory / f"a.{kind}", samples) for kind in CONTAINERS]
    return (*spoken, encode(directory / "silence.wav", silence(0.3)))


def make_request(corpus: Sequence[bytes], seed: str) -> Request:
    """One request; the same for the same seed and corpus."""
    random = Random(seed)
    kinds: Mapping[Callable[[Sequence[bytes], Random], Request], int] = {
        mutated_recording: 30,
        mutated_fields: 30,
        mutated_form: 20,
        mutated_json: 5,
        mutated_path: 5,
        mutated_http: 10,
    }
    (make,) = random.choices(list(kinds), weights=list(kinds.values()))
    return make(corpus, random)


# -- recordings ---------------------------------------------------------------------------------


def mutated_recording(corpus: Sequence[bytes], random: Random) -> Request:
    """A damaged file in a sound form."""
    data = bytearray(random.choice(corpus))
    for _ in range(random.choice((1, 1, 2, 4))):
        random.choice(_DAMAGES)(data, random, corpus)
    parts = [_file(bytes(data[:LIMIT]), random), *_few_fields(random)]
    return _form_request("recording", random.choice(UPLOADS), parts)


def _flip_bits(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    reach = random.choice((64, 512, len(data)))
    for _bit in range(random.choice((1, 4, 32, 256))):
        if data:
            data[random.randrange(min(reach, len(data)))] ^= 1 << random.randrange(8)


def _truncate(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    del data[random.randrange(len(data) + 1) :]


def _behead(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    del data[: random.randrange(min(200, len(data) + 1))]


def _splice(data: bytearray, random: Random, corpus: Sequence[bytes]) -> None:
    other = random.choice(corpus)
    at, begin = random.randrange(len(data) + 1), random.randrange(len(other))
    data[at : at + random.randrange(4096)] = other[begin : begin + random.randrange(8192)]


def _write_number(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    number = random.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, random.getrandbits(32)))
    at = random.randrange(min(random.choice((64, 1024)), len(data)) + 1)
    data[at : at + 4] = struct.pack(random.choice("<>") + "I", number)


def _blot(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at, length = random.randrange(len(data) + 1), random.randrange(1, 2000)
    data[at : at + length] = random.choice((b"\0", b"\xff", b"A")) * length


def _repeat(data: bytearray, random: Random, _: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    data[at:at] = data[at : at + random.randrange(2000)] * random.randrange(1, 8)


_DAMAGES = (_flip_bits, _truncate, _behead, _splice, _write_number, _blot, _repeat)


# -- fields -------------------------------------------------------------------------------------

FIELDS = tuple(
    sorted(
        {
            alias
            for name, info in TranscriptionForm.model_fields.items()
            for alias in (name, info.alias)
            if alias
        }
        - {"model"}
    )
)

_TEXTS = (
    *("", " ", "0", "1", "-1", "2", "1e309", "-0.0", "nan", "inf", "0x10", "1_000", "9" * 400),
    *(
        "true",
        "FALSE",
        "yes",
        "None",
        "null",
        "undefined",
        "[]",
        "{}",
        "[[]]",
        "[1, null]",
        '["en"]',
    ),
    *(
        "[" * 3000,
        '{"a":' * 500,
        '{"type": "server_vad"}',
        '{"type": "server_vad", "threshold": 1e999}',
    ),
    *("json", "text", "verbose_json", "srt", "vtt", "vtt_json", "aud", "diarized_json", "pdf"),
    *("word", "segment", "logprobs", "auto", "server_vad", "en", "fr", "EN-us", "english", "xx"),
    *("http://127.0.0.1:1/a", "http://[::1]/", "file:///etc/passwd", "gopher://a/", "http://%00/"),
    *(
        "http://169.254.169.254/latest",
        "http://a@127.0.0.1:99999/",
        "https://",
        "http://" + "a" * 9000,
    ),
    *("data:audio/wav;base64,", "data:audio/wav;base64,AAAA", "data:;base64,====", "data:,x"),
    *("\0", "a\0b", "\r\n", "<b>", "a,b,,c", ",", "../../etc/passwd", "${7*7}", "%s%n", "'; --"),
    *(
        "\ufeff",
        "\u202e",
        "é",
        "e\u0301" * 200,
        "👩‍👩‍👧",
        "\U0010ffff",
        "語" * 1000,
        "\u2028",
        "\ud7ff",
    ),
)
VALUES = (
    *(text.encode() for text in _TEXTS),
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"x" * 300_000,
)


def mutated_fields(corpus: Sequence[bytes], random: Random) -> Request:
    """A sound file and form; one to five fields have some value or other."""
    parts = [_file(random.choice(corpus), random)] if random.random() < 0.9 else []
    parts += [_field(random) for _ in range(random.randint(1, 5))]
    parts += [Part(name=b"model", content=random.choice(MODELS))] if random.random() < 0.3 else []
    random.shuffle(parts)
    return _form_request("fields", random.choice(UPLOADS), parts)


def _field(random: Random) -> Part:
    name = random.choice(FIELDS)
    if random.random() < 0.05:
        name = random.choice((f"{name}[]", f"{name}[type]", f"{name}[", name.upper(), f"{name}[0]"))
    return Part(name=name.encode(), content=random.choice(VALUES))


def _few_fields(random: Random) -> list[Part]:
    """Some that are right together."""
    return [
        Part(name=name.encode(), content=value.encode())
        for name, value in random.choice(
            (
                (),
                (("response_format", "verbose_json"), ("timestamp_granularities[]", "word")),
                (("response_format", "diarized_json"),),
                (("response_format", "srt"), ("chunk_size", "5")),
                (("stream", "true"),),
                (("async", "true"),),
            )
        )
    ]


def _file(data: bytes, random: Random) -> Part:
    name = random.choice(
        (b"a.wav", b"a.mp3", b"a.m4a", b"", b"\0.wav", b"../a", b"\xff\xfe", b"n" * 3000)
    )
    field = random.choice((b"file", b"file", b"audio_file"))
    return Part(name=field, content=data, filename=name, headers=b"Content-Type: audio/wav\r\n")


# -- forms --------------------------------------------------------------------------------------

BOUNDARY = b"frontier"


def encode_form(parts: Sequence[Part]) -> bytes:
    """The parts as multipart/form-data."""
    body = b""
    for part in parts:
        named = b"" if part.filename is None else b'; filename="' + part.filename + b'"'
        disposition = b'Content-Disposition: form-data; name="' + part.name + b'"' + named
        head = b"--" + BOUNDARY + b"\r\n" + disposition + b"\r\n" + part.headers + b"\r\n"
        body += head + part.content + b"\r\n"
    return body + b"--" + BOUNDARY + b"--\r\n"


def mutated_form(corpus: Sequence[bytes], random: Random) -> Request:
    """A body that is not quite multipart/form-data, or has too much of it."""
    parts = [_file(corpus[0], random), Part(name=b"temperature", content=b"0")]
    parts += random.choice(
        (
            [],
            [parts[0]],
            [parts[1]] * random.choice((2, 600)),
            [Part(name=b"files", content=corpus[0], filename=b"b.wav")],
            [Part(name=b"n" * random.choice((100, 20_000)), content=b"")],
            [Part(name=b"a", content=b"", headers=b"X-Long: " + b"y" * 20_000 + b"\r\n")],
            [Part(name=b"model", content=corpus[0])],
            [Part(name=b'quoted\\"', content=b"\r\n--frontie\r\n--frontier", filename=b'"')],
            [Part(name=b"file", content=b"", headers=b"Content-Transfer-Encoding: base64\r\n")],
        )
    )
    body = bytearray(encode_form(parts))
    content_type = b"multipart/form-data; boundary=" + BOUNDARY
    for _ in range(random.choice((0, 1, 1, 3))):
        _damage_form(body, random)
    if random.random() < 0.2:
        content_type = random.choice(
            (
                b"multipart/form-data",
                b"multipart/form-data; boundary=",
                b"multipart/form-data; boundary=" + b"b" * random.choice((71, 9000)),
                b'multipart/form-data; boundary="front\\"ier',
                b"multipart/form-data; boundary=frontier; boundary=other",
                b"multipart/form-data; charset=utf-16; boundary=frontier",
                b"multipart/form-data; boundary*=utf-8''fr%ffontier",
                b"multipart/mixed; boundary=frontier",
                b"application/x-www-form-urlencoded",
                b"application/json",
                b"\xff\xfe",
                b"",
            )
        )
    return Request(
        kind="form",
        payload=_http(b"POST", random.choice(UPLOADS), bytes(body), content_type=content_type),
    )


def _damage_form(body: bytearray, random: Random) -> None:
    marks = (b"\r\n", b"--frontier", b"form-data", b'name="', b"Content-Disposition", b'"', b": ")
    mark = random.choice(marks)
    found = body.find(mark, random.randrange(len(body) + 1) if random.random() < 0.5 else 0)
    if found < 0:
        body[random.randrange(len(body) + 1) :] = b""
    elif random.random() < 0.5:
        del body[found : found + len(mark)]
    else:
        junk = (b"\0", b"\n", b"\r", b"--", b"\xff", b";;", b'filename*="', random.randbytes(20))
        body[found:found] = random.choice(junk)


# -- JSON, paths --------------------------------------------------------------------------------


def mutated_json(_: Sequence[bytes], random: Random) -> Request:
    """A body for the routes that read JSON."""
    names = [
        *("audio_file_url", "model", "language", "timestamp_offset", "text", "source_language"),
        *("target_language", "prompt", "gen_schema", "gen_cfg"),
    ]
    values: list[object] = [None, True, -1, 1e308, [], {}, {"a": [{}]}, "\0", "é", "x" * 9000]
    values.append("http://127.0.0.1:1/")
    chosen = {name: random.choice(values) for name in random.sample(names, random.randint(0, 8))}
    body = bytearray(json.dumps(chosen).encode())
    if random.random() < 0.5:
        body = bytearray(
            random.choice((b"[" * 9000, b"NaN", b'"\\ud800"', b"\xff", b"{", b"", b"1"))
        )
    payload = _http(b"POST", random.choice(TEXTS), bytes(body), content_type=b"application/json")
    return Request(kind="json", payload=payload)


def mutated_path(_: Sequence[bytes], random: Random) -> Request:
    """Odd paths, queries and methods."""
    paths = [
        *(f"{TRANSCRIPTIONS}/%s/status", f"{TRANSCRIPTIONS}/%s", f"{TRANSCRIPTIONS}/%s/result"),
        *("/v1/models/%s", "/models/load?model=%s", "/align_models/load?language=%s", "/%s/list"),
        *("/asr?output=%s", "/asr?language=%s", "/detect-language?encode=%s", "/openai/v1/%s"),
        *("/diarize?audio_file_url=%s", "/diarize?timestamp=%s", "/models/unload?model=%s"),
    ]
    filled = ["a", "%00", "%ff", "..%2f..", "%2e%2e", "x" * 5000, "a/b", "en", "-1", "nan"]
    filled.append("http:%2f%2f[")
    method = random.choice((b"GET", b"POST", b"DELETE", b"HEAD", b"PUT", b"OPTIONS", b"TRACE"))
    path = random.choice(paths) % random.choice(filled)
    return Request(kind="path", payload=_http(method, path, b""))


# -- HTTP ---------------------------------------------------------------------------------------


def mutated_http(corpus: Sequence[bytes], random: Random) -> Request:
    """HTTP that is wrong itself: lengths, chunks, lines; and clients that hang up half-way."""
    sound = _form_request("http", random.choice(UPLOADS), [_file(corpus[0], random)]).payload
    head, _, body = sound.partition(b"\r\n\r\n")
    line, *headers = [
        each for each in head.split(b"\r\n") if not each.startswith(b"Content-Length")
    ]
    chosen = random.randrange(6)
    if chosen == 0:
        sound = random.choice((sound, mutated_json(corpus, random).payload))
        return Request(kind="hang-up", payload=sound[: random.randrange(len(sound))], hang_up=True)
    if chosen == 1:
        return Request(kind="hang-up", payload=sound, hang_up=True)
    if chosen == 2:
        length = random.choice(
            (b"-1", b"0", b"1", b"9" * 30, b"abc", b"", b"10, 10", b"%d" % (len(body) + 9))
        )
        headers.append(b"Content-Length: " + length)
    elif chosen == 3:
        headers.append(b"Transfer-Encoding: chunked")
        size = random.choice(
            (b"zz", b"-5", b"f" * 40, b"%x" % len(body), b"%x;ext" % (len(body) // 2), b"")
        )
        body = (
            size
            + b"\r\n"
            + body
            + random.choice((b"", b"\r\n0\r\n\r\n", b"\r\nxx\r\n", b"\r\n0\r\nA: b\r\n\r\n"))
        )
    elif chosen == 4:
        headers.append(
            random.choice((b"X: " + b"y" * 70_000, b"\0: 1", b": a", b"A\xff: \xff", b"no colon"))
        )
    else:
        line = random.choice(
            (b"", b"GET", b"POST / HTTP/9.9", b"\x16\x03\x01\x02", b"POST " + b"/a" * 40_000)
        )
    return Request(
        kind="http",
        payload=b"\r\n".join((line, *headers)) + b"\r\n\r\n" + body,
        must_answer=False,
    )


def _form_request(kind: str, path: str, parts: Sequence[Part]) -> Request:
    content_type = b"multipart/form-data; boundary=" + BOUNDARY
    return Request(
        kind=kind, payload=_http(b"POST", path, encode_form(parts), content_type=content_type)
    )


def _http(method: bytes, path: str, body: bytes, *, content_type: bytes | None = None) -> bytes:
    lines = [
        method + b" " + path.encode() + b" HTTP/1.1",
        b"Host: fuzz",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
    ]
    if content_type is not None:
        lines.append(b"Content-Type: " + content_type)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
