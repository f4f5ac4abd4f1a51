"""Parakeet on the tiny `.nemo` fixture, through NeMo's real loader."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures.speech.speech import Speech, Utterance
from support import PARAKEET, word_errors
from whisperx_api_server.backends.base import ModelSpec, Transcriber
from whisperx_api_server.backends.parakeet import (
    load_transcriber,
    supported_languages,
)
from whisperx_api_server.backends.parakeet.words import (
    Token,
    timed_words,
    token_logprob,
    words_of_tokens,
)
from whisperx_api_server.domain import DecodeOptions, Window, WindowTranscript, Word
from whisperx_api_server.errors import ModelNotFound, NotConfigured

SAMPLE_RATE = 16_000
SPEAKERS = ("en-adam", "en-beth", "en-carl")
SPEC = ModelSpec(name=PARAKEET.name, path=PARAKEET)
OPTIONS = DecodeOptions(language="en")


@pytest.fixture(scope="module")
def parakeet() -> Transcriber:
    pytest.importorskip("nemo", reason="the parakeet extra is not installed")
    return load_transcriber(SPEC)


def window_of(samples: NDArray[np.float32], *, start: float = 0.0, index: int = 0) -> Window:
    return Window(
        request_id="test",
        index=index,
        start=start,
        end=start + len(samples) / SAMPLE_RATE,
        samples=samples,
    )


def transcribe(
    parakeet: Transcriber, windows: Sequence[Window], options: DecodeOptions = OPTIONS
) -> list[WindowTranscript]:
    features = [parakeet.features(window) for window in windows]
    return parakeet.transcribe(windows, [options] * len(windows), features)


def text_of(transcript: WindowTranscript) -> str:
    return " ".join(segment.text for segment in transcript.segments)


def words_in(transcript: WindowTranscript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words or ()]


@dataclass(frozen=True)
class Heard:
    said: Utterance
    window: Window
    transcript: WindowTranscript


@pytest.fixture(scope="module")
def heard(parakeet: Transcriber, speech: Speech) -> list[Heard]:
    """Twenty utterances of three speakers in one batch, lying one after the other."""
    windows, said = [], []
    start = 0.0
    for i in range(20):
        utterance = speech.random(SPEAKERS[i % 3], 6, seed=i)
        windows.append(window_of(utterance.audio, start=start, index=i))
        said.append(utterance)
        start = windows[-1].end
    transcripts = transcribe(parakeet, windows)
    return [Heard(*each) for each in zip(said, windows, transcripts, strict=True)]


def test_the_words_are_right(heard: list[Heard]) -> None:
    counts = [word_errors(each.said.text, text_of(each.transcript)) for each in heard]
    assert sum(errors for errors, _ in counts) <= 0.02 * sum(total for _, total in counts)


def test_words_start_when_they_are_said(heard: list[Heard]) -> None:
    off = []
    for each in heard:
        found, truth = words_in(each.transcript), each.said.words
        if len(found) == len(truth):
            off += [
                abs(word.start - each.window.start - true.start)
                for word, true in zip(found, truth, strict=True)
            ]
    assert len(off) > 100
    assert np.median(off) < 0.1


def test_no_word_overlaps_the_next_one_across_windows(heard: list[Heard]) -> None:
    for each in heard:
        for word in words_in(each.transcript):
            assert each.window.start <= word.start <= word.end <= each.window.end
    words = [word for each in heard for word in words_in(each.transcript)]
    assert all(word.end <= following.start for word, following in pairwise(words))


def test_every_word_has_a_confidence(heard: list[Heard]) -> None:
    scores = [word.score for each in heard for word in words_in(each.transcript)]
    assert all(score is not None and 0 <= score <= 1 for score in scores)
    assert np.median([score for score in scores if score is not None]) > 0.9


def test_each_window_is_one_segment_with_its_words_and_tokens(heard: list[Heard]) -> None:
    for each in heard:
        [segment] = each.transcript.segments
        assert segment.words is not None
        assert segment.text == " ".join(word.text for word in segment.words)
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        assert segment.tokens == tuple(t for word in segment.words for t in word.tokens)
        assert segment.avg_logprob < 0


def test_a_batch_gives_what_each_window_gives_alone(
    parakeet: Transcriber, heard: list[Heard]
) -> None:
    for each in heard:
        assert words_without_score(transcribe(parakeet, [each.window])[0]) == words_without_score(
            each.transcript
        )


def words_without_score(transcript: WindowTranscript) -> list[Word]:
    """Scores may differ in the last bits of a float: matrix products depend on their shape."""
    return [replace(word, score=None) for word in words_in(transcript)]


def test_without_features_they_are_computed(parakeet: Transcriber, heard: list[Heard]) -> None:
    each = heard[0]
    (transcript,) = parakeet.transcribe([each.window], [OPTIONS], [None])
    assert text_of(transcript) == text_of(each.transcript)


def test_short_and_silent_and_broken_windows(parakeet: Transcriber, speech: Speech) -> None:
    clip = speech.clip("en-adam", "seven")
    broken = speech.random("en-beth", 6, seed=1).audio.copy()
    intact = text_of(transcribe(parakeet, [window_of(broken)])[0])
    broken[-1] = np.nan
    windows = [
        window_of(clip[: int(0.2 * SAMPLE_RATE)], start=100.0),
        window_of(np.zeros(0, np.float32), index=1),
        window_of(np.zeros(3 * SAMPLE_RATE, np.float32), index=2),
        window_of(broken, index=3),
        window_of(clip, index=4),
    ]
    short, empty, silent, mended, single = transcribe(parakeet, windows)
    assert all(100.0 <= word.start <= word.end <= 100.2 for word in words_in(short))
    assert empty.segments == silent.segments == ()
    assert text_of(mended) == intact
    assert word_errors("seven", text_of(single)) == (0, 1)
    assert [each.window_index for each in transcribe(parakeet, windows)] == [0, 1, 2, 3, 4]


def test_an_empty_batch_is_accepted(parakeet: Transcriber) -> None:
    assert parakeet.transcribe([], [], []) == []


def test_read_only_samples_are_left_alone(parakeet: Transcriber, speech: Speech) -> None:
    samples = speech.random("en-adam", 6, seed=3).audio
    before = samples.copy()
    samples.flags.writeable = False
    assert text_of(transcribe(parakeet, [window_of(samples)])[0])
    assert np.array_equal(samples, before)


def test_logprobs_come_on_request(parakeet: Transcriber, heard: list[Heard]) -> None:
    options = replace(OPTIONS, logprobs=True)
    (transcript,) = transcribe(parakeet, [heard[0].window], options)
    listed = [each for segment in transcript.segments for each in segment.logprobs]
    assert "".join(each.token for each in listed).split() == text_of(transcript).split()
    assert all(each.logprob <= 0 for each in listed)
    assert heard[0].transcript.segments[0].logprobs == ()


def test_bfloat16_hears_the_same(heard: list[Heard]) -> None:
    model = load_transcriber(replace(SPEC, compute_type="bfloat16"))
    transcripts = transcribe(model, [each.window for each in heard[:6]])
    for each, transcript in zip(heard, transcripts, strict=False):
        assert word_errors(text_of(each.transcript), text_of(transcript))[0] <= 1


def test_stderr_stays_empty(parakeet: Transcriber) -> None:
    program = f"""
import numpy as np
from pathlib import Path
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.parakeet import load_transcriber
from whisperx_api_server.domain import DecodeOptions, Window
model = load_transcriber(ModelSpec(name="p", path=Path({str(PARAKEET)!r})))
samples = np.random.default_rng(0).standard_normal(8000).astype(np.float32) / 10
window = Window(request_id="r", index=0, start=0, end=0.5, samples=samples)
assert len(model.transcribe([window], [DecodeOptions()], [None])) == 1
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=250
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_languages_follow_the_version() -> None:
    assert supported_languages("nvidia/parakeet-tdt-0.6b-v2") == {"en"}
    assert supported_languages("mine.nemo") == {"en"}
    european = supported_languages("nvidia/parakeet-tdt-0.6b-v3")
    assert len(european) == 25
    assert {"en", "fr", "uk"} <= european


def test_english_is_known_without_being_named(parakeet: Transcriber, heard: list[Heard]) -> None:
    (transcript,) = transcribe(parakeet, [heard[0].window], DecodeOptions())
    assert (transcript.language, transcript.language_probability) == ("en", 1.0)
    assert parakeet.capabilities.native_words


def test_a_missing_file_names_no_path() -> None:
    pytest.importorskip("nemo")
    with pytest.raises(ModelNotFound, match=r"no file 'none\.nemo'") as failure:
        load_transcriber(ModelSpec(name="none.nemo", path=Path("/secret/none.nemo")))
    assert "secret" not in failure.value.message


def test_a_wrong_precision_names_its_setting() -> None:
    with pytest.raises(NotConfigured, match="PARAKEET__PRECISION"):
        load_transcriber(ModelSpec(name="parakeet-tdt-0.6b-v2", compute_type="int8"))


def token(piece: str, start: int, end: int, probability: float = 0.9) -> Token:
    return Token(id=0, piece=piece, start=start, end=end, logprob=math.log(probability))


def test_words_gather_their_tokens_and_punctuation() -> None:
    pieces = ["▁", "O", "pen", "▁it", "▁.", "▁Now", "?"]
    tokens = [
        Token(id=i, piece=piece, start=i, end=i + 1, logprob=0.0) for i, piece in enumerate(pieces)
    ]
    words = words_of_tokens(tokens, lambda ids: "".join(pieces[i] for i in ids).replace("▁", " "))
    assert [word.text for word in words] == ["Open", "it.", "Now?"]


def test_times_come_from_the_sound_and_stay_in_the_window() -> None:
    tokens = [
        token("▁", 0, 2), token("one", 4, 9, 0.8), token("▁two", 6, 8), token(".", 20, 21, 0.1)
    ]  # fmt: skip
    words = words_of_tokens(tokens, lambda ids: "two." if len(ids) == 2 else "x")
    window = Window(
        request_id="r", index=0, start=10.0, end=10.7, samples=np.zeros(11_200, np.float32)
    )
    one, two = timed_words(words, window, 0.1)
    assert (one.start, one.end, one.score) == pytest.approx((10.4, 10.6, 0.8))
    assert (two.start, two.end, two.score) == pytest.approx((10.6, 10.7, 0.9))


def test_byte_pieces_keep_their_byte() -> None:
    assert token_logprob(token("<0xC3>", 0, 1)).bytes == (0xC3,)
    assert token_logprob(token("▁é", 0, 1)).bytes == (0x20, 0xC3, 0xA9)
