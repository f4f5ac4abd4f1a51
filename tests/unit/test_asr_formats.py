"""whisper-asr-webservice's formats: lines, tables and openai/whisper's result."""

from __future__ import annotations

import json

from whisperx_api_server.domain import Segment, Transcript, Word
from whisperx_api_server.formats.asr_formats import render_asr

TALK = Transcript(
    task="transcribe",
    language="en",
    languages=("en",),
    duration=3.0,
    segments=(
        Segment(
            start=0.0004,
            end=1.2345,
            text=" One\ttwo.\n",
            language="en",
            words=(
                Word(text="One", start=0, end=0.5, score=0.25),
                Word(text="two.", start=1, end=1),
            ),
        ),
        Segment(start=2, end=3, text="Three.", language="en"),
    ),
    warnings=("words have the decoder's times",),
)


def test_a_row_has_three_columns_whatever_is_said() -> None:
    assert render_asr(TALK, "tsv", words=False).body == (
        "start\tend\ttext\n0\t1234\tOne two.\n2000\t3000\tThree.\n"
    )


def test_json_has_probabilities_and_warnings() -> None:
    body = json.loads(render_asr(TALK, "json", words=True).body)
    assert [word["probability"] for word in body["segments"][0]["words"]] == [0.25, None]
    assert "words" not in body["segments"][1]
    assert body["warnings"] == ["words have the decoder's times"]
