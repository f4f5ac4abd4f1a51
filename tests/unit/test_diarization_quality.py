"""The figures of docs/quality.md: missed speech, false alarms and confused speakers."""

from __future__ import annotations

import pytest

from diarization_quality import SpeakerErrors, speaker_errors, total

TRUTH = [(0.0, 4.0, "ann"), (3.0, 6.0, "bob")]


@pytest.mark.parametrize(
    ("found", "missed", "false_alarm", "confusion"),
    [
        ([(0.0, 4.0, "1"), (3.0, 6.0, "0")], 0, 0, 0),
        ([(0.0, 4.0, "1"), (4.0, 6.0, "0")], 100, 0, 0),
        ([(0.0, 4.0, "1"), (3.0, 8.0, "0")], 0, 200, 0),
        ([(0.0, 6.0, "0")], 100, 0, 200),
        ([], 700, 0, 0),
    ],
)
def test_each_kind_of_error_is_counted(
    found: list[tuple[float, float, str]], missed: int, false_alarm: int, confusion: int
) -> None:
    errors = speaker_errors("call", TRUTH, found, 10.0)
    assert errors == SpeakerErrors("call", 700, missed, false_alarm, confusion)
    assert errors.parts[0] == missed + false_alarm + confusion


def test_recordings_are_weighted_by_their_speech() -> None:
    measured = [SpeakerErrors("a", 100, 50, 0, 0), SpeakerErrors("b", 900, 0, 9, 1)]
    assert total(measured) == SpeakerErrors("all", 1000, 50, 9, 1)
