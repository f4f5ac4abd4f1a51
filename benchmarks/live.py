"""Live sessions, in which recordings are played as fast as they were spoken."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import accumulate, chain, cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import RATE, TESTS, Row, base, server, wav
from .fairness import stream_until
from .spoken import Spoken, between, long_recording

TOGETHER = (4, 6, 8, 12, 16)
"""Numbers of sessions at a time, beside one alone, up to the first that is too many."""

TURN = 1.5
"""Seconds from the end of a turn to its transcript (p95), beyond which sessions are too many."""

LONG = 2 * 3600.0
"""Seconds of the file beside which a session is measured: its windows wait all the time."""

PIECE = RATE // 10
"""Samples in a message."""

SILENCE = np.zeros(2 * RATE, np.float32)
"""What follows a recording, so that its last turn ends by itself."""


@dataclass
class _Heard:
    """A recording that was played: its text, and the delays in seconds."""

    text: str = ""
    turns: list[float] = field(default_factory=list)
    words: list[tuple[str, float]] = field(default_factory=list)
    """The words of all deltas, and when they came, from the first sample on."""
    deltas: int = 0
    taken_back: int = 0
    """Deltas, and those that the transcript of their turn does not begin with."""


def run() -> list[Row]:
    """The rows of live sessions; the word error rate is that of the same files uploaded."""
    sys.path.insert(0, str(TESTS))
    spoken = [each for each in between(4, 15) if each.language == "en" and each.text][:12]
    with server(base()) as running:
        uploads = [_upload(running, each) for each in spoken]
        alone = [_play(running, each) for each in spoken]
        together = _together(running, spoken)
        beside = _beside_a_file(running, spoken, LONG)
    every = [*alone, *chain.from_iterable(together.values()), *beside]
    taken_back = sum(each.taken_back for each in every)
    carried = max((number for number in together if _is_quick(together[number])), default=1)
    words = [
        delay
        for heard, upload in zip(alone, uploads, strict=True)
        for delay in _delays(heard, upload["words"])
    ]
    live, uploaded = (
        _errors(spoken, texts)
        for texts in ([each.text for each in alone], [each["text"] for each in uploads])
    )
    return [
        _row("live, one session: end of a word to its delta", words, 1.0, (live, uploaded)),
        _row("the same: end of a turn to its transcript", _turns(alone), 1.0),
        *(
            _row(f"{number} sessions: end of a turn to its transcript", _turns(heard), TURN)
            for number, heard in together.items()
            if number in (TOGETHER[0], carried)
        ),
        Row(
            name=f"sessions with which a turn's p95 is within {TURN:g} s (other: the goal)",
            ours=carried,
            other=TOGETHER[0],
            ratio=carried / TOGETHER[0],
            target=1,
            better="higher",
            unit="",
        ),
        Row(
            name="deltas taken back, of all sessions (other: all deltas)",
            ours=taken_back,
            other=sum(each.deltas for each in every),
            ratio=taken_back,
            target=0,
            better="lower",
            unit="",
        ),
        Row(
            name=f"one session beside a {LONG / 3600:g}-hour file: p95 of a turn vs alone",
            ours=_p95(_turns(beside)),
            other=_p95(_turns(alone)),
            ratio=_p95(_turns(beside)) / _p95(_turns(alone)),
            target=2.5,
            better="lower",
            unit="s",
        ),
    ]


def _together(running: Any, spoken: list[Spoken]) -> dict[int, list[_Heard]]:
    """What sessions heard that were open at the same time, by their number."""
    heard: dict[int, list[_Heard]] = {}
    for number in TOGETHER:
        recordings = islice(cycle(spoken), max(len(spoken), 2 * number))
        with ThreadPoolExecutor(number) as sessions:
            heard[number] = list(sessions.map(lambda each: _play(running, each), recordings))
        if not _is_quick(heard[number]):
            break
    return heard


def _is_quick(heard: list[_Heard]) -> bool:
    return _p95(_turns(heard)) <= TURN


def _beside_a_file(running: Any, spoken: list[Spoken], seconds: float) -> list[_Heard]:
    """Play the recordings one after the other while a file of so many seconds is transcribed."""
    stop = threading.Event()
    upload = wav(long_recording(seconds).samples)
    client = threading.Thread(target=stream_until, args=(running.url, upload, stop), daemon=True)
    client.start()
    while not any(lane["waiting"] > 10 for lane in running.info()["queue"]["lanes"]):
        time.sleep(0.2)
    heard = [_play(running, each) for each in spoken]
    waiting = running.lane()["waiting"]
    stop.set()
    client.join()
    if not waiting:
        raise RuntimeError("the file was over before the sessions: make it longer")
    return heard


def _row(
    name: str, delays: list[float], target: float, errors: tuple[float, float] | None = None
) -> Row:
    p95 = _p95(delays)
    return Row(
        name=f"{name}, p95 (other: median)",
        ours=p95,
        other=statistics.median(delays),
        ratio=p95,
        target=target,
        better="lower",
        unit="s",
        errors=errors,
        margin=1.0,
    )


def _p95(delays: list[float]) -> float:
    return statistics.quantiles(delays, n=20, method="inclusive")[-1]


def _turns(heard: list[_Heard]) -> list[float]:
    return [delay for each in heard for delay in each.turns]


def _upload(running: Any, spoken: Spoken) -> Any:
    answer = running.transcribe(
        wav(spoken.samples),
        language=spoken.language,
        response_format="verbose_json",
        **{"timestamp_granularities[]": "word"},
    )
    return answer.raise_for_status().json()


def _play(running: Any, spoken: Spoken) -> _Heard:
    from realtime import live

    heard, stopped, texts = _Heard(), dict[str, float](), dict[str, str]()
    deltas: dict[str, list[str]] = {}
    with live(running) as session:
        session.listen(transcription={"language": spoken.language})
        begun = time.monotonic()
        speaker = threading.Thread(target=_speak, args=(session, spoken.samples, begun))
        speaker.start()
        processed = False  # events are answered in order: an update after the audio says so
        while not processed or len(texts) < len(stopped):
            event = session.receive(timeout=600)
            now = time.monotonic() - begun
            name = event["type"].rpartition(".")[2]
            if name == "speech_stopped":
                stopped[event["item_id"]] = now
            elif name == "delta":
                heard.words += [(_plain(word), now) for word in event["delta"].split()]
                deltas.setdefault(event["item_id"], []).append(event["delta"])
            elif name == "completed":
                texts[event["item_id"]] = event["transcript"]
                heard.turns.append(now - stopped[event["item_id"]])
            processed = processed or name == "updated"
    heard.text = " ".join(texts[item] for item in stopped)
    for item, parts in deltas.items():
        heard.deltas += len(parts)
        heard.taken_back += sum(not texts[item].startswith(said) for said in accumulate(parts))
    return heard


def _speak(session: Any, samples: NDArray[np.float32], begun: float) -> None:
    whole = np.concatenate([samples, SILENCE])
    for first in range(0, len(whole), PIECE):
        time.sleep(max(0.0, begun + (first + PIECE) / RATE - time.monotonic()))
        session.say(whole[first : first + PIECE])
    session.send("session.update", session={})


def _delays(heard: _Heard, words: list[dict[str, Any]]) -> list[float]:
    """How long after its end each word came that both the session and the upload heard."""
    matcher = SequenceMatcher(
        a=[_plain(each["word"]) for each in words],
        b=[word for word, _ in heard.words],
        autojunk=False,
    )
    return [
        heard.words[block.b + place][1] - words[block.a + place]["end"]
        for block in matcher.get_matching_blocks()
        for place in range(block.size)
    ]


def _plain(word: str) -> str:
    return re.sub(r"\W", "", word).lower()


def _errors(spoken: list[Spoken], texts: list[str]) -> float:
    """Word error rate in percent."""
    from support import word_errors

    counted = [word_errors(each.text, text) for each, text in zip(spoken, texts, strict=True)]
    return 100 * sum(wrong for wrong, _ in counted) / sum(count for _, count in counted)
