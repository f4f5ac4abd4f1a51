"""What the fixture models hear through the whole pipeline, over HTTP, against the ground truth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import pytest

from fixtures.make.lexicon import FR2EN
from fixtures.speech.speech import Speech, Utterance
from server import Server
from support import diarization_error, turns_of, wav, word_errors

SPEAKERS = ("en-adam", "en-beth", "en-carl", "fr-alain", "fr-berthe", "fr-claude")
SHORT = (3, 6, 9, 12)  # s
LONG = 30  # s, with pauses, in windows of 8 s
CLIENTS = 8
LANGUAGES = {"en": "english", "fr": "french"}

TRANSLATIONS = "/v1/audio/translations"


@dataclass(frozen=True)
class Heard:
    """An utterance and the server's answer to it."""

    said: Utterance
    answer: dict[str, Any]


def utterances(speech: Speech) -> list[Utterance]:
    """Four short ones and a long one of each speaker; the models know these pauses and gaps."""
    return [
        speech.random(speaker, seconds, seed=seed, pause=(0.6, 1.4), gap=(0.03, 0.15))
        for speaker in SPEAKERS
        for seed, seconds in enumerate((*SHORT, LONG))
    ]


def hear(server: Server, said: Sequence[Utterance], path: str, **fields: object) -> list[Heard]:
    """Ask for all of them at once, so that strangers' windows share batches."""

    def ask(utterance: Utterance) -> Heard:
        answer = server.transcribe(
            wav(utterance.audio), path, response_format="verbose_json", **fields
        )
        assert answer.status_code == 200, answer.text
        return Heard(utterance, answer.json())

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(ask, said))


@pytest.fixture(scope="module")
def transcribed(real_server: Server, speech: Speech) -> list[Heard]:
    """Every utterance, its language left open, with aligned words."""
    return hear(
        real_server,
        utterances(speech),
        "/v1/audio/transcriptions",
        align="true",
        **{"timestamp_granularities[]": "word"},
    )


@pytest.fixture(scope="module")
def translated(real_server: Server, speech: Speech) -> list[Heard]:
    """Every French utterance in English."""
    french = [said for said in utterances(speech) if said.language == "fr"]
    return hear(real_server, french, TRANSLATIONS)


def error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Word error rate over (reference, hypothesis) pairs."""
    counts = [word_errors(reference, hypothesis) for reference, hypothesis in pairs]
    return sum(errors for errors, _ in counts) / sum(words for _, words in counts)


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("language", ["en", "fr"])
def test_words_are_right(transcribed: list[Heard], language: str, long: bool) -> None:
    chosen = [
        each
        for each in transcribed
        if each.said.language == language and (each.answer["duration"] > max(SHORT)) == long
    ]

    assert len(chosen) == 3 * (1 if long else len(SHORT))
    assert error_rate([(each.said.text, each.answer["text"]) for each in chosen]) <= 0.02


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_french_becomes_english(translated: list[Heard], long: bool) -> None:
    chosen = [each for each in translated if (each.answer["duration"] > max(SHORT)) == long]
    pairs = [
        (" ".join(FR2EN[word.word] for word in each.said.words), each.answer["text"])
        for each in chosen
    ]

    assert len(pairs) == 3 * (1 if long else len(SHORT))
    assert error_rate(pairs) <= 0.02
    assert {each.answer["language"] for each in chosen} == {"english"}


def test_language_is_always_right(transcribed: list[Heard]) -> None:
    assert [each.answer["language"] for each in transcribed] == [
        LANGUAGES[each.said.language] for each in transcribed
    ]


def test_word_starts_are_near_the_truth(transcribed: list[Heard]) -> None:
    errors = []
    for each in transcribed:
        truth, found = each.said.words, each.answer["words"]
        same = SequenceMatcher(
            None, [word.word for word in truth], [word["word"].rstrip(".") for word in found], False
        )
        errors += [
            abs(found[block.b + place]["start"] - truth[block.a + place].start)
            for block in same.get_matching_blocks()
            for place in range(block.size)
        ]

    assert len(errors) >= 0.95 * sum(len(each.said.words) for each in transcribed)
    assert statistics.median(errors) <= 0.030


def test_strangers_share_batches(transcribed: list[Heard], real_server: Server) -> None:
    assert real_server.lane("transcription")["largest_batch"] > 1
    assert real_server.lane("alignment")["largest_batch"] > 1


@pytest.mark.parametrize(
    ("speakers", "fields"),
    [
        (("fr-alain", "fr-berthe"), {}),
        (("en-adam", "en-beth", "en-carl"), {"num_speakers": "3"}),
    ],
    ids=["alain+berthe", "adam+beth+carl"],
)
def test_speakers_are_labelled(
    real_server: Server,
    speech: Speech,
    speakers: tuple[str, ...],
    fields: dict[str, str],
) -> None:
    said = speech.dialogue(speakers, 40, seed=1)

    (heard,) = hear(
        real_server,
        [said],
        "/v1/audio/transcriptions",
        diarize="true",
        **{"timestamp_granularities[]": "word"},
        **fields,
    )

    reference = turns_of((word.speaker, word.start, word.end) for word in said.words)
    words = heard.answer["words"]
    hypothesis = turns_of((word["speaker"], word["start"], word["end"]) for word in words)
    assert diarization_error(reference, hypothesis) <= 0.10
    assert len({word["speaker"] for word in words}) == len(speakers)
