"""Two replicas and two workers on Whisper base transcribe real recordings; one worker is killed."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle

import pytest
from openai.types.audio import (
    TranscriptionStreamEvent,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
)

from brokers import cluster_settings
from real_speech import DICKENS, Recording, error_rate, errors, excerpt, folder
from server import WORKER, Server, base_settings
from support import eventually, wav

CLAUSES = [each.strip() for each in re.split("[,.]", DICKENS.text)][:14]
STARTS = (
    *(0.5, 2.73, 4.7, 6.35, 8.35, 10.35, 13.05, 14.85, 16.8, 18.78, 20.7, 22.64, 24.25, 26.2),
    28.5,
)
"""When each of Dickens' clauses begins, and the last one ends."""

MORE = (
    *("de_leopard", "en_arctic", "en_austen0870", "en_austen0880", "en_cheetah", "en_jfk"),
    *("en_lamp", "en_leopard", "en_LJ001-0005", "en_sb_spk1_snt1", "es_leopard", "fr_leopard"),
)
"""Recordings of the folder."""

COUNT = 20

ERRORS = 12.0
"""Maximum word error rate, in percent."""


@dataclass(frozen=True)
class Clip:
    audio: bytes
    said: Recording


def passage(first: int, last: int) -> Clip:
    """Some of Dickens' clauses."""
    said = replace(DICKENS, text=" ".join(CLAUSES[first:last]))
    return Clip(wav(excerpt(DICKENS, STARTS[first], STARTS[last])), said)


def clips() -> list[Clip]:
    """Recordings of the folder, where it is, and passages of Dickens, all of them different."""
    here = folder()
    found = [Clip(here[name].path.read_bytes(), here[name]) for name in MORE if name in here]
    passages = [passage(first, first + length) for length in (2, 3) for first in range(15 - length)]
    return [*found, *passages][:COUNT]


@pytest.fixture(scope="module")
def machines(
    kafka_servers: str, s3_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Server], list[Server]]]:
    """Two replicas and two workers."""
    with ExitStack() as stack:

        def start(**options: tuple[str, ...]) -> Server:
            directory = tmp_path_factory.mktemp("machine")
            settings = base_settings(directory) | cluster
            return stack.enter_context(Server(directory, settings, **options))

        cluster = cluster_settings(kafka_servers, s3_url)
        workers = [start(command=WORKER) for _ in range(2)]
        yield [start() for _ in range(2)], workers


def transcribe(replica: Server, clip: Clip) -> str:
    """The text of a clip, by the official SDK."""
    with replica.openai() as client:
        audio = (clip.said.path.name, clip.audio)
        return client.audio.transcriptions.create(model="whisper-1", file=audio).text


def stream(replica: Server, clip: Clip) -> Iterator[TranscriptionStreamEvent]:
    """The events of a clip, window by window."""
    with replica.openai() as client:
        yield from client.audio.transcriptions.create(
            model="whisper-1",
            file=(clip.said.path.name, clip.audio),
            stream=True,
            extra_body={"chunk_size": "8"},
        )


def has_runs(worker: Server) -> bool:
    metrics = worker.http.get("/metrics").raise_for_status().text
    return bool(re.search(r"^whisperx_requests_active\S* [1-9]", metrics, re.MULTILINE))


def test_real_recordings_are_transcribed_although_a_worker_is_killed(
    machines: tuple[list[Server], list[Server]],
) -> None:
    replicas, workers = machines
    chosen = clips()
    assert len({clip.audio for clip in chosen}) == COUNT
    whole = passage(0, 14)
    with ThreadPoolExecutor(8) as pool:
        events = stream(replicas[1], whole)
        received = [next(events)]
        answers = [pool.submit(transcribe, *each) for each in zip(cycle(replicas), chosen)]
        eventually(lambda: any(map(has_runs, workers)))
        doomed = next(filter(has_runs, workers), workers[0])
        doomed.process.send_signal(signal.SIGKILL)
        doomed.process.wait()
        received += events
        texts = [answer.result() for answer in answers]

    done = received[-1]
    assert isinstance(done, TranscriptionTextDoneEvent)
    deltas = [each for each in received if isinstance(each, TranscriptionTextDeltaEvent)]
    assert len(deltas) > 2
    assert "".join(each.delta for each in deltas) == done.text
    counts = [errors(clip.said, text) for clip, text in zip(chosen, texts, strict=True)]
    assert all(wrong < wanted / 2 for wrong, wanted in counts), texts
    assert error_rate([*counts, errors(whole.said, done.text)]) < ERRORS, texts

    left = [*replicas, *(each for each in workers if each is not doomed)]
    eventually(lambda: all(each.temp_files() == [] for each in left))
