"""Known voices are called by their names, by real diarization of synthetic speakers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionTextSegmentEvent

from fixtures.speech.speech import Speech, Utterance
from server import Server
from support import wav
from whisperx_api_server.backends.fake import say, silence

MODEL = "gpt-4o-transcribe-diarize"


def data_url(speech: Speech, speaker: str, seconds: float = 7) -> str:
    """A sample of a voice that says something else than the recording does."""
    sample = speech.random(speaker, seconds, seed=77, gap=(0.03, 0.15))
    return f"data:audio/wav;base64,{base64.b64encode(wav(sample.audio)).decode()}"


def spoken_by(said: Utterance, start: float, end: float) -> str:
    """Who truly says most between two times."""
    shares: dict[str, float] = {}
    for word in said.words:
        overlap = min(end, word.end) - max(start, word.start)
        shares[word.speaker] = shares.get(word.speaker, 0.0) + max(0.0, overlap)
    return max(shares, key=lambda speaker: shares[speaker])


@pytest.mark.parametrize(
    "speakers",
    [("en-adam", "en-beth"), ("fr-berthe", "fr-alain")],
    ids=["adam+beth", "berthe+alain"],
)
def test_two_voices_are_named_right(
    real_server: Server, speech: Speech, speakers: Sequence[str]
) -> None:
    said = speech.dialogue(speakers, 30, seed=4)
    # Not in the order in which they speak.
    names = {speaker: speaker.upper() for speaker in reversed(speakers)}

    with real_server.openai() as client:
        heard = client.audio.transcriptions.create(
            model=MODEL,
            file=("dialogue.wav", wav(said.audio)),
            response_format="diarized_json",
            chunking_strategy="auto",
            known_speaker_names=list(names.values()),
            known_speaker_references=[data_url(speech, speaker) for speaker in names],
        )

    assert {segment.speaker for segment in heard.segments} == set(names.values())
    wrong = [
        segment
        for segment in heard.segments
        if segment.speaker != names[spoken_by(said, segment.start, segment.end)]
    ]
    assert wrong == []


def test_an_unknown_voice_keeps_its_letter_also_in_a_stream(
    real_server: Server, speech: Speech
) -> None:
    said = speech.dialogue(("en-adam", "en-beth"), 30, seed=5)

    with real_server.openai() as client:
        stream = client.audio.transcriptions.create(
            model=MODEL,
            file=("dialogue.wav", wav(said.audio)),
            response_format="diarized_json",
            stream=True,
            known_speaker_names=["Beth"],
            known_speaker_references=[data_url(speech, "en-beth")],
            extra_body={"num_speakers": 2},
        )
        segments = [each for each in stream if isinstance(each, TranscriptionTextSegmentEvent)]

    truth = {"en-adam": "A", "en-beth": "Beth"}
    assert {segment.speaker for segment in segments} == {"A", "Beth"}
    assert [segment.speaker for segment in segments] == [
        truth[spoken_by(said, segment.start, segment.end)] for segment in segments
    ]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no data URL", "data URL"),
        ("data:audio/wav;base64,!!!", "base64"),
        ("data:audio/wav;base64,AAAA", "'Ann'"),
        ("silent", "no speech"),
        ("short", "2 to 10 s"),
        ("long", "2 to 10 s"),
    ],
)
def test_a_useless_reference_is_refused(
    real_server: Server, speech: Speech, reference: str, message: str
) -> None:
    samples = {
        "silent": wav(silence(3)),
        "short": wav(speech.random("en-adam", 6, seed=1).audio[: 16_000 * 3 // 2]),
        "long": wav(speech.random("en-adam", 14, seed=1, pause=(0.6, 1.4)).audio),
    }
    if reference in samples:
        reference = f"data:audio/wav;base64,{base64.b64encode(samples[reference]).decode()}"

    with real_server.openai() as client, pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(
            model=MODEL,
            file=("a.wav", wav(speech.random("en-adam", 5, seed=2).audio)),
            response_format="diarized_json",
            known_speaker_names=["Ann"],
            known_speaker_references=[reference],
        )

    assert refused.value.param == "known_speaker_references[]"
    assert message in refused.value.message


def test_known_voices_of_the_fake_engine(either_server: Server) -> None:
    spoken = [say("red door"), silence(1), say("night", speaker=1)]
    sample = wav(say("house tree open blue red night door", speaker=1))
    known: dict[str, Any] = {
        "known_speaker_names[]": ["Beth"],
        "known_speaker_references[]": [
            f"data:audio/wav;base64,{base64.b64encode(sample).decode()}"
        ],
    }
    audio = wav(np.concatenate(spoken))
    answer = either_server.transcribe(audio, model=MODEL, response_format="diarized_json", **known)
    assert [each["speaker"] for each in answer.json()["segments"]] == ["A", "Beth"]
