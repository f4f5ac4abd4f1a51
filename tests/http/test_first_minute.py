"""What `make serve` starts: Whisper base and the onnx diarizer, without torch, a token or a hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from real_speech import BECKETT, TELEPHONE, hear
from server import REPOSITORY, Server
from support import word_errors

SAMPLE = REPOSITORY / "examples" / "sample.flac"
SAID = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8")


def test_sample_of_the_readme(base_server: Server) -> None:
    answer = base_server.transcribe(SAMPLE, response_format="verbose_json").json()

    assert word_errors(SAID, answer["text"])[0] == 0
    assert answer["language"] == "english"
    assert len(answer["segments"]) == 4
    assert "warnings" not in answer


def test_words_have_the_decoders_times(base_server: Server) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = base_server.transcribe(BECKETT.path, **fields).json()

    assert " ".join(word["word"] for word in answer["words"]) == answer["text"]
    starts = [word["start"] for word in answer["words"]]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] < answer["duration"]


def test_forced_alignment_is_refused_with_the_setting(base_server: Server) -> None:
    answer = base_server.transcribe(SAMPLE, response_format="srt", align="true")

    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_configured")
    assert "BACKENDS__ALIGNMENT" in answer.json()["error"]["message"]


def test_speakers_of_a_telephone_call(base_server: Server) -> None:
    answer = base_server.transcribe(TELEPHONE.path, response_format="diarized_json").json()

    speakers = [segment["speaker"] for segment in answer["segments"]]
    assert set(speakers) == {"A", "B"}
    said = {segment["text"]: segment["speaker"] for segment in answer["segments"]}
    diane = next(text for text in said if "Diane" in text)
    sheila = next(text for text in said if "Sheila" in text)
    assert said[diane] != said[sheila]


def test_torch_is_not_loaded(base_server: Server) -> None:
    hear(base_server, BECKETT)

    maps = Path(f"/proc/{base_server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here: what a process has loaded cannot be seen")
    assert "libtorch" not in maps.read_text()
