"""Live sessions on Whisper base with real recordings, played faster than time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from real_speech import (
    BECKETT,
    CHIMES,
    DICKENS,
    Recording,
    error_rate,
    errors,
    hear,
    noise,
    silence,
)
from realtime import live
from server import Server
from whisperx_api_server.domain import SAMPLE_RATE, Samples

PIECE = 2 * SAMPLE_RATE
ENGLISH = {"transcription": {"language": "en"}}


def played(server: Server, samples: Samples, **audio: Any) -> list[dict[str, Any]]:
    """The events of a session in which each piece follows once the one before was heard.

    An update is answered once all audio before it was heard.
    """
    with live(server) as session:
        session.listen(**audio)
        events: list[dict[str, Any]] = []
        for first in range(0, len(samples), PIECE):
            session.say(samples[first : first + PIECE])
            session.send("session.update", session={})
            events += session.until("session.updated")
        turns = sum(event["type"].endswith(".committed") for event in events)
        while len(items(events)) < turns:
            events.append(session.receive())
    return events


def items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that answer a turn."""
    assert [event for event in events if event["type"].endswith(("error", ".failed"))] == []
    return [event for event in events if event["type"].endswith(".completed")]


def heard(events: list[dict[str, Any]]) -> str:
    """The text of all items, after a check that each is what its deltas say."""
    for item in items(events):
        assert item["transcript"] == "".join(
            event["delta"]
            for event in events
            if event["type"].endswith(".delta") and event["item_id"] == item["item_id"]
        )
    return " ".join(item["transcript"] for item in items(events))


def test_words_are_as_right_as_those_of_uploads(base_server: Server) -> None:
    recordings = (DICKENS, BECKETT)

    def both(recording: Recording) -> tuple[tuple[int, int], tuple[int, int]]:
        samples = np.concatenate([recording.samples, silence(2)])
        session = heard(played(base_server, samples, **ENGLISH))
        upload = hear(base_server, recording, language="en", align="false")
        return errors(recording, session), errors(recording, upload["text"])

    with ThreadPoolExecutor(len(recordings)) as pool:
        live_errors, upload_errors = zip(*pool.map(both, recordings), strict=True)

    assert error_rate(live_errors) <= error_rate(upload_errors) + 1


def test_continuous_speech_is_cut_in_short_pauses(base_server: Server) -> None:
    """No pause in 44 s is as long as the silence that ends a turn, and no word is lost."""
    samples = np.concatenate([DICKENS.samples, silence(4)])
    detection = {"type": "server_vad", "silence_duration_ms": 3000}

    events = played(base_server, samples, turn_detection=detection, **ENGLISH)

    assert len(items(events)) > 1
    assert all(item["usage"]["seconds"] <= 30 for item in items(events))
    wrong, words = errors(DICKENS, heard(events))
    assert wrong <= 0.03 * words


def test_ten_minutes_of_noise_say_nothing(base_server: Server) -> None:
    """In several sessions at once; what the detector takes for speech, Whisper does not."""
    steps = noise(240)
    rumble = np.cumsum(steps - steps.mean())
    chimes = [sound for chime in CHIMES for sound in (chime.samples, silence(2))]
    sounds = {
        "white": noise(240),
        "faint": noise(120, level=0.0005),
        "rumble": (0.1 * rumble / np.abs(rumble).max()).astype(np.float32),
        "chimes": np.concatenate(chimes * 3),
    }

    with ThreadPoolExecutor(len(sounds)) as pool:
        sessions = pool.map(lambda sound: heard(played(base_server, sound)), sounds.values())
        texts = dict(zip(sounds, sessions, strict=True))

    assert {name: text.strip() for name, text in texts.items()} == dict.fromkeys(sounds, "")
