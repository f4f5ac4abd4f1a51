"""Real speech that was once lost, moved or made up, over HTTP on Whisper base."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import srt

from live import Events, deltas
from real_speech import (
    BECKETT,
    DIALOGUE,
    DICKENS,
    FOLDER,
    RATE,
    Recording,
    chord,
    errors,
    excerpt,
    first_starts,
    hear,
    louder,
    needs_folder,
    noise,
    peak_at,
    silence,
    tokens,
)
from recordings import decode, encode
from server import Server
from support import wav, words_of
from whisperx_api_server.domain import Samples


def test_pauses_lose_nothing(base_server: Server) -> None:
    heard = hear(base_server, BECKETT)

    assert errors(BECKETT, heard["text"])[0] <= 1


def test_dialogue_becomes_sentences(base_server: Server) -> None:
    heard = hear(base_server, DIALOGUE, align="false")

    segments = heard["segments"]
    assert len(segments) >= 10
    assert all(segment["end"] - segment["start"] < 10 for segment in segments)
    assert all(segment["text"].rstrip()[-1] in ".?!," for segment in segments)


@pytest.mark.parametrize("level", [-40, -50])
def test_quiet_speech_keeps_its_words(base_server: Server, level: float) -> None:
    heard = hear(base_server, peak_at(BECKETT.samples, level))

    assert errors(BECKETT, heard["text"])[0] <= 1


def test_inverted_side_of_a_stereo_recording_is_heard(base_server: Server, tmp_path: Path) -> None:
    stereo = encode(
        tmp_path / "inverted.wav", BECKETT.samples, "-af pan=stereo|c0=c0|c1=-1*c0 -c:a pcm_s16le"
    )

    assert errors(BECKETT, hear(base_server, stereo)["text"])[0] <= 1


def test_no_word_stands_in_a_long_pause(base_server: Server, opening: Samples) -> None:
    first = BECKETT.samples
    begin, again = len(first) / RATE, len(first) / RATE + 12

    heard = hear(base_server, np.concatenate([first, silence(12), opening]))

    assert "best of times" in heard["text"]
    before = [word for word in heard["words"] if word["start"] < begin]
    after = [word for word in heard["words"] if word["start"] >= begin]
    said = " ".join(word["word"] for word in before)
    assert errors(BECKETT, said)[0] <= 1
    assert max(word["end"] for word in before) <= begin + 0.3
    assert min(word["start"] for word in after) >= again - 0.3
    assert max(word["end"] - word["start"] for word in heard["words"]) < 2.5


def test_speech_after_a_chord_is_heard(base_server: Server) -> None:
    one, other = excerpt(DICKENS, 0, 3.2), excerpt(DIALOGUE, 19.9, 22.3)

    heard = hear(base_server, np.concatenate([one, chord(1), other]))

    assert "best of times" in heard["text"]
    assert "you were in pain" in heard["text"]


def test_hole_in_the_sound_keeps_the_containers_clock(base_server: Server, tmp_path: Path) -> None:
    """As a recorder leaves it that was muted for 10 s: no packets in between."""
    one, other = excerpt(DICKENS, 0, 3.2), excerpt(DIALOGUE, 19.9, 22.3)
    gap = f"-af asetpts='if(lt(T,{len(one) / RATE}),PTS,PTS+10/TB)' -c:a libopus"
    holed = encode(tmp_path / "hole.webm", np.concatenate([one, other]), gap)

    said = first_starts(hear(base_server, holed)["words"])

    assert said["best"] < 3.2
    assert 13.2 <= said["pain"] <= 15.6


def test_word_times_do_not_depend_on_the_context(base_server: Server, opening: Samples) -> None:
    """With hotwords no comma is written before the second "it", which begins after a pause."""
    plain = hear(base_server, opening)
    contexts = [
        {"hotwords": "Dickens, Cruncher, Manette"},
        {"prompt": "A novel by Charles Dickens about London and Paris, read aloud."},
    ]

    for context in contexts:
        heard = hear(base_server, opening, **context)
        assert words_of(heard["text"]) == words_of(plain["text"])
        moved = [
            abs(one["start"] - other["start"])
            for one, other in zip(plain["words"], heard["words"], strict=True)
        ]
        assert max(moved) <= 0.1, context


@needs_folder
def test_words_begin_after_short_pauses(base_server: Server, clips: dict[str, Recording]) -> None:
    """ "…ask not [1.1 s] what your country can do for you": one region of speech."""
    said = first_starts(hear(base_server, clips["en_jfk"])["words"])

    assert said["and"] >= 0.25
    assert said["what"] >= 5.2


@needs_folder
@pytest.mark.parametrize(
    ("name", "number", "digits"),
    [
        ("de_cheetah_num", "zweihundertachtundsechzig", "268"),
        ("es_cheetah_num", "doscientos sesenta y ocho", "268"),
        ("fr_cheetah_num", "trois mille six cent un", "3601"),
    ],
)
def test_numbers_are_written_in_their_language(
    base_server: Server, clips: dict[str, Recording], name: str, number: str, digits: str
) -> None:
    clip = clips[name]
    fields = {"language": clip.language}

    spelled = hear(base_server, clip, **fields)["text"]
    plain = hear(base_server, clip, suppress_numerals="false", **fields)["text"]

    assert not any(letter.isdigit() for letter in spelled)
    assert number.replace(" ", "") in "".join(tokens(spelled, clip.language)).replace("-", "")
    assert digits in plain.replace(".", "").replace(" ", "")
    assert tokens(spelled, clip.language)[:3] == tokens(plain, clip.language)[:3]


@needs_folder
@pytest.mark.parametrize("gain", [-40, -50])
@pytest.mark.parametrize("room", [False, True], ids=["clean", "in a room"])
def test_distant_speech_keeps_its_words(
    base_server: Server, clips: dict[str, Recording], gain: float, room: bool
) -> None:
    clip = clips["en_jfk"]
    samples = louder(clip.samples, gain)
    if room:
        samples = samples + noise(len(samples) / RATE, level=0.0001)

    heard = hear(base_server, samples)["text"]

    assert "ask not what your country can do for you" in " ".join(words_of(heard))
    assert errors(clip, heard)[0] <= 3


@needs_folder
def test_a_sentence_said_again_after_a_chord_is_heard(
    base_server: Server, clips: dict[str, Recording]
) -> None:
    sentence = clips["en_cheetah"].samples

    heard = hear(base_server, np.concatenate([sentence, chord(1), sentence]))

    assert words_of(heard["text"]).count("platforms") == 2


@needs_folder
def test_whispering_is_heard(base_server: Server, clips: dict[str, Recording]) -> None:
    assert "whisper" in hear(base_server, clips["en_whispered"])["text"].lower()


@needs_folder
@pytest.mark.parametrize("times", [1, 3])
def test_laughter_says_nothing(
    base_server: Server, clips: dict[str, Recording], times: int
) -> None:
    heard = hear(base_server, np.tile(clips["en_laughter"].samples, times))

    assert words_of(heard["text"]) == []


@needs_folder
def test_laughter_after_speech_adds_no_words(
    base_server: Server, clips: dict[str, Recording]
) -> None:
    clip = clips["en_jfk"]

    heard = hear(base_server, np.concatenate([clip.samples, clips["en_laughter"].samples]))

    assert errors(clip, heard["text"])[0] <= 1


@needs_folder
def test_speech_far_from_the_microphone_is_heard(base_server: Server) -> None:
    """The first seconds of a meeting, before a speaker is close to the microphone."""
    meeting = decode(FOLDER / "meetings" / "trn04.flac")[: 9 * RATE]

    assert "first of all" in hear(base_server, meeting)["text"]


@needs_folder
def test_hotwords_are_not_heard_in_noise(base_server: Server, clips: dict[str, Recording]) -> None:
    hotwords = "Widget, Gadget, Sprocket, Gizmo, Doohickey, Contraption, Thingamajig, Whatsit"
    faint = peak_at(clips["noise_sb2"].samples, -40)

    for sound in (faint, noise(10, level=0.001), clips["en_laughter"].samples):
        heard = set(words_of(hear(base_server, sound, hotwords=hotwords)["text"]))
        assert not heard & set(words_of(hotwords))


@needs_folder
def test_repeated_word_gives_the_same_short_text_each_time(
    base_server: Server, clips: dict[str, Recording], tmp_path: Path
) -> None:
    """What loops is decoded again by sampling; the files differ, their samples do not."""
    said = np.tile(clips["en_cv_six"].samples, 14)
    files = [
        encode(tmp_path / f"six.{kind}", said, f"-c:a {codec}")
        for kind, codec in {
            "wav": "pcm_s16le",
            "flac": "flac -sample_fmt s16",
            "aiff": "pcm_s16be",
        }.items()
    ]

    with ThreadPoolExecutor() as pool:
        plain = list(pool.map(lambda file: hear(base_server, file)["text"], files[:2]))
    stream = Events(base_server, files[2]).rest()

    assert plain == [stream[-1]["text"]] * 2
    assert deltas(stream) == stream[-1]["text"]
    assert set(words_of(plain[0])) == {"six"}
    assert len(words_of(plain[0])) <= 1.5 * 14


@needs_folder
@pytest.mark.parametrize("path", ["transcriptions", "translations"])
def test_cues_stay_out_of_a_pause(
    base_server: Server, clips: dict[str, Recording], path: str
) -> None:
    one, other = clips["de_leopard"].samples, clips["de_cheetah"].samples
    begin, again = len(one) / RATE, len(one) / RATE + 12
    said = wav(np.concatenate([one, silence(12), other]))

    answer = base_server.transcribe(said, f"/v1/audio/{path}", response_format="srt", language="de")

    cues = [(cue.start.total_seconds(), cue.end.total_seconds()) for cue in srt.parse(answer.text)]
    assert len(cues) >= 2
    assert all(end <= begin + 1 or start >= again - 0.5 for start, end in cues)


@needs_folder
@pytest.mark.parametrize("output", ["srt", "verbose_json"])
def test_abbreviation_ends_no_sentence(
    base_server: Server, clips: dict[str, Recording], output: str
) -> None:
    answer = base_server.transcribe(clips["en_austen0870"].path, response_format=output)

    if output == "srt":
        parts = [cue.content.replace("\n", " ") for cue in srt.parse(answer.text)]
    else:
        parts = [segment["text"] for segment in answer.json()["segments"]]
    assert "Mr. John Dashwood" in " ".join(parts)
    assert not any(part.rstrip().endswith("Mr.") for part in parts)
