"""Parakeet beside Whisper in one process: near the truth, whoever else is served meanwhile."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import srt
import webvtt

from fixtures.speech.speech import Speech, Utterance, Word
from server import Server
from support import PARAKEET, diarization_error, turns_of, wav, word_errors
from whisperx_api_server.domain import Samples

SPEAKERS = ("en-adam", "en-beth", "en-carl")
RATE = 16_000
WORDS = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}


def said(speech: Speech, speaker: str, seconds: float, seed: int) -> Utterance:
    return speech.random(speaker, seconds, seed=seed, pause=(0.6, 1.4), gap=(0.03, 0.15))


def ask(server: Server, samples: Samples, model: str = "parakeet", **fields: Any) -> dict[str, Any]:
    answer = server.transcribe(wav(samples), model=model, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    counts = [word_errors(reference, hypothesis) for reference, hypothesis in pairs]
    return sum(errors for errors, _ in counts) / sum(words for _, words in counts)


def start_errors(truth: Sequence[Word], found: Sequence[dict[str, Any]]) -> list[float]:
    """How far each word that was found begins from where it was said, in seconds."""
    same = SequenceMatcher(
        None,
        [word.word for word in truth],
        [word["word"].rstrip(".").lower() for word in found],
        autojunk=False,
    )
    return [
        abs(found[block.b + place]["start"] - truth[block.a + place].start)
        for block in same.get_matching_blocks()
        for place in range(block.size)
    ]


@pytest.fixture(scope="module")
def heard(parakeet_server: Server, speech: Speech) -> list[tuple[Utterance, dict[str, Any]]]:
    """Utterances of each speaker with the answers, asked for all at once."""
    utterances = [
        said(speech, speaker, seconds, seed)
        for speaker in SPEAKERS
        for seed, seconds in enumerate((4, 6, 8, 10, 12))
    ]
    with ThreadPoolExecutor(len(utterances)) as pool:
        answers = list(pool.map(lambda each: ask(parakeet_server, each.audio, **WORDS), utterances))
    return list(zip(utterances, answers, strict=True))


def test_words_are_right(heard: list[tuple[Utterance, dict[str, Any]]]) -> None:
    assert error_rate([(each.text, answer["text"]) for each, answer in heard]) <= 0.02
    assert {answer["language"] for _, answer in heard} == {"english"}


def test_word_starts_are_near_the_truth(heard: list[tuple[Utterance, dict[str, Any]]]) -> None:
    errors = [
        error for each, answer in heard for error in start_errors(each.words, answer["words"])
    ]

    assert len(errors) >= 0.95 * sum(len(each.words) for each, _ in heard)
    assert statistics.median(errors) <= 0.100


def test_alone_it_says_the_same(
    parakeet_server: Server, heard: list[tuple[Utterance, dict[str, Any]]]
) -> None:
    for each, answer in heard[::4]:
        alone = ask(parakeet_server, each.audio, batch_size="1", **WORDS)
        assert alone["text"] == answer["text"]
        assert [word["start"] for word in alone["words"]] == [
            word["start"] for word in answer["words"]
        ]
    lanes = parakeet_server.info()["queue"]["lanes"]
    (lane,) = (lane for lane in lanes if lane["model"] == PARAKEET.name)
    assert lane["largest_batch"] > 1


def test_three_minutes(parakeet_server: Server, speech: Speech) -> None:
    utterance = said(speech, "en-beth", 180, seed=7)

    answer = ask(parakeet_server, utterance.audio, **WORDS)

    assert answer["duration"] == pytest.approx(len(utterance.audio) / RATE, abs=0.01)
    assert error_rate([(utterance.text, answer["text"])]) <= 0.02
    assert statistics.median(start_errors(utterance.words, answer["words"])) <= 0.100
    assert all(word["start"] <= word["end"] for word in answer["words"])
    assert all(first["end"] <= then["start"] for first, then in pairwise(answer["words"]))


def test_a_fifth_of_a_second(parakeet_server: Server, speech: Speech) -> None:
    clip = speech.clip("en-adam", "red")[: RATE // 5]

    answer = ask(parakeet_server, clip, **WORDS)

    assert answer["duration"] == 0.2
    assert len(answer["words"]) <= 1
    assert all(0 <= word["start"] <= word["end"] <= 0.2 for word in answer["words"])


def test_silence_is_empty(parakeet_server: Server) -> None:
    answer = ask(parakeet_server, np.zeros(3 * RATE, np.float32), **WORDS)
    assert (answer["text"], answer["words"], answer["duration"]) == ("", [], 3.0)


def test_whisper_and_parakeet_take_turns(parakeet_server: Server, speech: Speech) -> None:
    """Each hears its own recordings right while the other works beside it."""
    jobs = [
        (model, said(speech, speaker, 8, seed))
        for seed in range(20, 23)
        for model, speaker in (
            ("parakeet", "en-adam"),
            ("whisper-1", "fr-alain"),
            ("parakeet", "en-carl"),
            ("whisper-1", "en-beth"),
        )
    ]

    def transcribe(job: tuple[str, Utterance]) -> dict[str, Any]:
        return ask(parakeet_server, job[1].audio, job[0], **WORDS)

    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(transcribe, jobs))

    for chosen in ("parakeet", "whisper-1"):
        pairs = [
            (each.text, answer["text"])
            for (model, each), answer in zip(jobs, answers, strict=True)
            if model == chosen
        ]
        assert error_rate(pairs) <= 0.02, chosen
    languages = {"en": "english", "fr": "french"}
    assert [answer["language"] for answer in answers] == [
        languages[each.language] for _, each in jobs
    ]


def test_forced_alignment_is_nearer(parakeet_server: Server, speech: Speech) -> None:
    utterance = said(speech, "en-adam", 10, seed=30)

    own = ask(parakeet_server, utterance.audio, **WORDS)
    forced = ask(parakeet_server, utterance.audio, align="true", **WORDS)

    assert forced["text"] == own["text"]
    by_itself = statistics.median(start_errors(utterance.words, own["words"]))
    aligned = statistics.median(start_errors(utterance.words, forced["words"]))
    assert aligned <= 0.030 < by_itself


def test_every_format(parakeet_server: Server, speech: Speech) -> None:
    utterance = said(speech, "en-carl", 6, seed=40)

    def body(output: str) -> str:
        answer = parakeet_server.transcribe(
            wav(utterance.audio), model="parakeet", response_format=output
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    verbose = json.loads(body("verbose_json"))
    text = verbose["text"]
    assert "words" not in verbose
    assert "".join(segment["text"] for segment in verbose["segments"]).strip() == text
    assert json.loads(body("json"))["text"] == text
    assert body("text") == f"{text}\n"
    assert " ".join(cue.content for cue in srt.parse(body("srt"))) == text
    captions = webvtt.from_string(body("vtt")).captions
    assert " ".join(caption.text for caption in captions) == text
    assert json.loads(body("vtt_json"))["vtt_text"] == body("vtt")
    assert " ".join(line.split("\t")[2] for line in body("aud").splitlines()) == text


def test_logprobs(parakeet_server: Server, speech: Speech) -> None:
    audio = said(speech, "en-carl", 4, seed=41).audio
    fields = {"response_format": "json", "include[]": "logprobs"}

    answer = ask(parakeet_server, audio, **fields)

    assert "".join(each["token"] for each in answer["logprobs"]).strip() == answer["text"]
    assert all(each["logprob"] <= 0 for each in answer["logprobs"])


def test_speakers_are_labelled(parakeet_server: Server, speech: Speech) -> None:
    dialogue = speech.dialogue(("en-adam", "en-beth"), 40, seed=1)

    answer = ask(parakeet_server, dialogue.audio, diarize="true", **WORDS)

    reference = turns_of((word.speaker, word.start, word.end) for word in dialogue.words)
    found = turns_of((word["speaker"], word["start"], word["end"]) for word in answer["words"])
    assert diarization_error(reference, found) <= 0.10


def test_streaming(parakeet_server: Server, speech: Speech) -> None:
    utterance = said(speech, "en-adam", 20, seed=50)

    answer = parakeet_server.transcribe(wav(utterance.audio), model="parakeet", stream="true")

    assert answer.headers["content-type"].startswith("text/event-stream")
    data = [
        line.removeprefix("data: ")
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]
    assert data[-1] == "[DONE]"
    events = [json.loads(each) for each in data[:-1]]
    deltas = [each["delta"] for each in events if each["type"] == "transcript.text.delta"]
    assert len(deltas) > 1
    assert events[-1]["text"] == "".join(deltas)
    assert error_rate([(utterance.text, events[-1]["text"])]) <= 0.02


@pytest.mark.parametrize(
    ("path", "fields", "param", "message"),
    [
        ("transcriptions", {"language": "fr"}, "language", "only supports English"),
        ("transcriptions", {"prompt": "red"}, "prompt", "does not support prompt"),
        ("transcriptions", {"hotwords": "red"}, "hotwords", "does not support hotwords"),
        ("translations", {}, "model", "does not translate"),
    ],
)
def test_unsupported_options_are_named(
    parakeet_server: Server,
    speech: Speech,
    path: str,
    fields: dict[str, str],
    param: str,
    message: str,
) -> None:
    answer = parakeet_server.transcribe(
        wav(speech.clip("en-adam", "red")),
        f"/v1/audio/{path}",
        model="parakeet",
        response_format="json",
        **fields,
    )

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert message in error["message"]
    assert "/" not in error["message"]


def test_a_model_that_is_not_there(parakeet_server: Server, speech: Speech) -> None:
    clip = wav(speech.clip("en-adam", "red"))
    answer = parakeet_server.transcribe(clip, model="nvidia/parakeet-tdt-0.6b-v3")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
