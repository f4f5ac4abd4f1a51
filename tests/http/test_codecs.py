"""One utterance in whatever container and codec a client has it says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.speech.speech import Speech, Utterance
from recordings import encode
from server import Server
from support import words_of

PICTURE = ("testsrc=size=64x64:rate=10:duration=8",)

RECORDINGS = {
    "u8.wav": "-c:a pcm_u8",
    "s24.wav": "-c:a pcm_s24le",
    "f32.wav": "-c:a pcm_f32le",
    "s16-44100-stereo.wav": "-ar 44100 -ac 2",
    "s16-96000-5.1.wav": "-ar 96000 -ac 6",
    "adpcm.wav": "-c:a adpcm_ms",
    "big-endian.aiff": "-c:a pcm_s16be",
    "sun.au": "-c:a pcm_s16be",
    "apple.caf": "-c:a alac",
    "lossless.flac": "",
    "lossless.m4a": "-c:a alac",
    "aac.m4a": "-b:a 64k",
    "aac.mp4": "-b:a 64k",
    "raw.aac": "-b:a 64k -f adts",
    "fragments.mp4": "-b:a 64k -movflags frag_keyframe+empty_moov",
    "cbr.mp3": "-b:a 64k",
    "vbr.mp3": "-q:a 3 -ar 44100",
    "mp2.mpga": "-c:a mp2 -b:a 96k -f mp2",
    "opus.ogg": "-c:a libopus -b:a 32k",
    "opus.webm": "-c:a libopus -b:a 32k",
    "opus.opus": "-c:a libopus -b:a 32k",
    "vorbis.ogg": "-c:a libvorbis",
    "vorbis.mkv": "-c:a libvorbis",
    "wma.wma": "-c:a wmav2 -b:a 64k",
    "ac3.ac3": "-c:a ac3 -b:a 96k",
    "transport.ts": "-c:a aac -b:a 64k",
}


@pytest.fixture(scope="module")
def said(speech: Speech) -> Utterance:
    return speech.random("en-beth", 6, seed=5)


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_codec_says_the_same(
    real_server: Server, said: Utterance, tmp_path: Path, name: str
) -> None:
    recording = encode(tmp_path / name, said.audio, RECORDINGS[name])

    answer = real_server.http.post(
        "/v1/audio/transcriptions", files={"file": (name, recording)}, data={"language": "en"}
    )

    assert answer.status_code == 200, answer.text
    assert words_of(answer.json()["text"]) == words_of(said.text)
    assert answer.json()["usage"]["seconds"] == pytest.approx(len(said.audio) / 16_000, abs=1)


@pytest.mark.parametrize("name", ["film.mp4", "film.webm", "film.mpeg"])
def test_a_film_is_heard_not_seen(
    real_server: Server, said: Utterance, tmp_path: Path, name: str
) -> None:
    rate = "-r 25 -ar 44100" if name.endswith("mpeg") else ""
    recording = encode(tmp_path / name, said.audio, f"{rate} -shortest", inputs=PICTURE)

    answer = real_server.transcribe(recording, language="en")

    assert words_of(answer.json()["text"]) == words_of(said.text)


def test_a_name_that_lies_about_the_format_does_no_harm(
    real_server: Server, said: Utterance, tmp_path: Path
) -> None:
    recording = encode(tmp_path / "a.ogg", said.audio)

    answer = real_server.http.post(
        "/v1/audio/transcriptions", files={"file": ("a.mp3", recording, "audio/mpeg")}
    )

    assert words_of(answer.json()["text"]) == words_of(said.text)


@pytest.mark.parametrize("sides", ["stereo|c0=c0|c1=-1*c0", "5.1|c0=c0|c1=-1*c0|c4=c0|c5=-1*c0"])
def test_opposite_sides_are_heard(
    real_server: Server, said: Utterance, tmp_path: Path, sides: str
) -> None:
    recording = encode(tmp_path / "a.m4a", said.audio, f"-af pan={sides} -b:a 128k")

    answer = real_server.transcribe(recording, language="en")

    assert words_of(answer.json()["text"]) == words_of(said.text)


@pytest.mark.parametrize(
    ("name", "stamps"),
    [
        ("film.mp4", "PTS+5/TB"),
        ("film.mkv", "PTS+5/TB"),
        ("pause.webm", "if(gte(T\\,0.1)\\,PTS+5/TB\\,PTS)"),
    ],
)
def test_words_are_on_the_clock_of_the_film(
    real_server: Server, said: Utterance, tmp_path: Path, name: str, stamps: str
) -> None:
    films = [
        encode(tmp_path / name, said.audio, f"-af asetpts={each} -b:a 64k", inputs=PICTURE)
        for each in ("PTS", stamps)
    ]

    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    plain, late = (real_server.transcribe(film, language="en", **fields).json() for film in films)

    assert [word["word"] for word in late["words"]] == [word["word"] for word in plain["words"]]
    for early, shifted in zip(plain["words"], late["words"], strict=True):
        assert shifted["start"] == pytest.approx(early["start"] + 5, abs=0.1)
        assert shifted["end"] == pytest.approx(early["end"] + 5, abs=0.1)
    assert late["duration"] == pytest.approx(plain["duration"] + 5, abs=0.1)
