"""The embedded engine on the sample that the project ships, with its real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support import word_errors
from whisperx_api_server.backends.base import ModelSpec, Transcriber
from whisperx_api_server.backends.embedded import engine_info, load_transcriber
from whisperx_api_server.backends.embedded.transcriber import (
    PocketSphinxTranscriber,
    split_at_pauses,
    to_transcript,
)
from whisperx_api_server.domain import DecodeOptions, Samples, Window, WindowTranscript, Word
from whisperx_api_server.errors import ModelUnavailable, TranscriptionFailed

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.flac"
SAID = SAMPLE.with_suffix(".txt").read_text(encoding="utf-8")
SENTENCE = "Good morning everyone."
SENTENCE_END = 1.3  # s
RATE = 16_000


@pytest.fixture(scope="module")
def recording() -> Samples:
    samples, rate = soundfile.read(SAMPLE, dtype="float32")
    assert rate == RATE
    return np.asarray(samples, np.float32)


@pytest.fixture(scope="module")
def engine() -> Iterator[PocketSphinxTranscriber]:
    model = load_transcriber(ModelSpec(name="embedded", threads=2))
    assert isinstance(model, PocketSphinxTranscriber)
    yield model
    model.close()


def window(samples: Samples, *, index: int = 0, start: float = 0.0) -> Window:
    end = start + len(samples) / RATE
    return Window(request_id="r", index=index, start=start, end=end, samples=samples)


def answers(model: Transcriber, windows: list[Window]) -> list[WindowTranscript]:
    options = [DecodeOptions()] * len(windows)
    found = model.transcribe(windows, options, [None] * len(windows))
    assert [answer.window_index for answer in found] == [each.index for each in windows]
    return found


def texts(model: Transcriber, windows: list[Window]) -> list[str]:
    return [
        " ".join(segment.text for segment in answer.segments) for answer in answers(model, windows)
    ]


def is_running(pid: int) -> bool:
    """Whether it computes; an orphan that nobody has reaped yet does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_hears_the_sample_with_word_times(
    engine: PocketSphinxTranscriber, recording: Samples
) -> None:
    heard = window(recording, index=7, start=100.0)
    (answer,) = engine.transcribe([heard], [DecodeOptions()], [engine.features(heard)])

    assert (answer.window_index, answer.language) == (7, "en")
    errors, count = word_errors(SAID, " ".join(segment.text for segment in answer.segments))
    assert errors <= 0.1 * count
    words = [word for segment in answer.segments for word in segment.words or ()]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 100.0 <= times[0] < 100.5
    assert heard.end - 0.5 < times[-1] <= heard.end
    assert all(word.score is not None and 0 < word.score <= 1 for word in words)
    assert all(word.text.replace("'", "").isalpha() for word in words)
    for segment in answer.segments:
        assert segment.text == " ".join(word.text for word in segment.words or ())
        assert -10 < segment.avg_logprob < 0
        assert 0.5 < segment.compression_ratio < 2.4


def test_a_batch_gives_what_each_window_gives_alone(
    engine: PocketSphinxTranscriber, recording: Samples
) -> None:
    pieces = [recording[first : first + 2 * RATE] for first in range(0, 3 * RATE, RATE)]
    windows = [window(piece, index=index) for index, piece in enumerate(pieces)]

    together = answers(engine, windows)

    alone = [answer for each in reversed(windows) for answer in answers(engine, [each])]
    assert together == alone[::-1]
    assert len({answer.segments[0].text for answer in together}) == len(windows)


@pytest.mark.parametrize("length", [0, 1, 400, 1599])
def test_a_window_too_short_for_a_word_is_empty(
    engine: PocketSphinxTranscriber, recording: Samples, length: int
) -> None:
    short = window(recording[RATE : RATE + length], index=3)
    first = window(recording[: int(SENTENCE_END * RATE)])
    assert texts(engine, [short, first]) == ["", texts(engine, [first])[0]]


def test_a_crash_fails_its_batch_and_no_other(
    engine: PocketSphinxTranscriber, recording: Samples
) -> None:
    short = window(recording[: int(SENTENCE_END * RATE)])
    expected = texts(engine, [short])
    before = set(engine.worker_pids)
    with pytest.raises(TranscriptionFailed):  # no samples at all: PocketSphinx raises
        engine.transcribe([short] * 3, [DecodeOptions()] * 3, [None, b"", None])

    assert texts(engine, [short, short]) == expected * 2
    assert len(before - set(engine.worker_pids)) == 1
    assert not any(is_running(pid) for pid in before - set(engine.worker_pids))


def test_a_worker_that_died_idle_costs_no_window(
    engine: PocketSphinxTranscriber, recording: Samples
) -> None:
    for pid in engine.worker_pids:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert texts(engine, [window(recording[: int(SENTENCE_END * RATE)])]) != [""]


def test_close_ends_the_workers_and_a_late_call_says_so(recording: Samples) -> None:
    model = load_transcriber(ModelSpec(name="embedded", threads=1))
    assert isinstance(model, PocketSphinxTranscriber)
    pids = model.worker_pids
    model.close()
    model.close()
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(ModelUnavailable):
        texts(model, [window(recording)])


def test_a_dropped_model_leaves_no_process() -> None:
    model = load_transcriber(ModelSpec(name="embedded", threads=1))
    assert isinstance(model, PocketSphinxTranscriber)
    (pid,) = model.worker_pids
    del model
    assert not is_running(pid)


def test_workers_end_when_their_parent_is_killed() -> None:
    script = (
        "from whisperx_api_server.backends import embedded\n"
        "from whisperx_api_server.backends.base import ModelSpec\n"
        "model = embedded.load_transcriber(ModelSpec(name='embedded', threads=1))\n"
        "print(model.worker_pids[0], flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGTERM)  # what a supervisor sends to all: the parent still drains
        time.sleep(0.2)
        assert is_running(pid)
        parent.kill()
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_worker_needs_neither_the_server_nor_torch() -> None:
    script = (
        "import sys, whisperx_api_server.backends.embedded.worker as worker\n"
        "print(*sorted({'fastapi', 'pydantic', 'torch', 'scipy'} & set(sys.modules)))\n"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert printed.stdout.strip() == b""


def test_capabilities_are_honest(engine: PocketSphinxTranscriber, recording: Samples) -> None:
    capabilities = engine.capabilities
    assert capabilities.languages == frozenset({"en"})
    assert capabilities.tasks == frozenset({"transcribe"})
    assert capabilities.native_words
    assert not capabilities.can_prompt
    assert capabilities.padded_to == 0
    assert engine.detect_language([window(recording)]) == [{"en": 1.0}]
    assert engine.batch_key(DecodeOptions(beam_size=1)) == engine.batch_key(DecodeOptions())
    assert "Whisper" in str(engine_info()["quality"])


def test_long_pauses_end_segments_and_short_ones_do_not() -> None:
    heard = [("one", 0.1, 0.4, 0.9), ("two", 1.1, 1.5, 0.5), ("three", 2.3, 2.9, 0.8)]
    answer = to_transcript(window(np.zeros(5 * RATE // 2, np.float32), start=10.0), heard)
    assert [(s.start, s.end, s.text) for s in answer.segments] == [
        (10.1, 11.5, "one two"),
        (12.3, 12.5, "three"),  # clamped to the window
    ]


def test_no_words_are_no_segment() -> None:
    assert list(split_at_pauses([])) == []
    assert [len(group) for group in split_at_pauses([Word(text="a", start=0, end=1)])] == [1]
