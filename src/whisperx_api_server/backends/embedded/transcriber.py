"""Transcription with PocketSphinx 5 and the US-English model that its wheel carries.

A fallback that needs no download and no torch, not a rival to Whisper: lower-case words without
punctuation. Decoding runs in worker processes (see `worker`).
"""

from __future__ import annotations

import subprocess
import sys
import weakref
import zlib
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import log
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import cast

import numpy as np

from ...audio import SAMPLE_RATE
from ...domain import DecodeOptions, Segment, Window, WindowTranscript, Word
from ...errors import ModelUnavailable, TranscriptionFailed
from ..base import Capabilities, ModelSpec, require, usable_cores
from .worker import Heard

LANGUAGE = "en"
SEGMENT_PAUSE = 0.8  # s; a longer one ends a segment
SHORTEST_WINDOW = 0.1  # s; in less there is no word, and PocketSphinx fails on less than a frame
LEAST_POSTERIOR = 1e-10  # keeps the logarithm finite

MOST_WORKERS = 8
"""Unless more are asked for: each takes 120 MB."""

START_TIMEOUT = 60.0
"""Seconds that a worker may take to load the model; it takes half a second on an idle core."""


class Worker:
    """One decoding process and the socket to it."""

    def __init__(self) -> None:
        self.connection, child_end = Pipe()
        with child_end:
            descriptor = child_end.fileno()
            self._process = subprocess.Popen(
                # -P: a worker must not import modules from the directory it is started in.
                [sys.executable, "-P", "-m", f"{__package__}.worker", str(descriptor)],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_ready(self) -> None:
        """Return once the model is loaded.

        Raises:
            ModelUnavailable: the process ended before that, or takes too long.
        """
        try:
            if self.connection.poll(START_TIMEOUT):
                self.connection.recv()
                return
        except (EOFError, OSError) as error:
            raise ModelUnavailable("the embedded engine's worker process did not start") from error
        raise ModelUnavailable("the embedded engine's worker process takes too long to start")

    def close(self) -> None:
        """End the process, also in the middle of a window; twice does no harm."""
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _close_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().close()


class PocketSphinxTranscriber:
    """Decodes windows on all cores at once. `close` ends its processes."""

    def __init__(self, *, workers: int) -> None:
        self._workers = [Worker() for _ in range(workers)]
        self.close = weakref.finalize(self, _close_all, self._workers)
        """Ends the worker processes; called by whoever unloads the model, or when it is dropped."""
        try:
            for worker in self._workers:
                worker.wait_ready()
        except ModelUnavailable:
            self.close()
            raise
        self._capabilities = Capabilities(
            languages=frozenset({LANGUAGE}),
            detects_language=True,
            native_words=True,
            max_batch=2 * workers,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def worker_pids(self) -> list[int]:
        """The processes that decode, for who watches over them."""
        return [worker.pid for worker in self._workers]

    def batch_key(self, options: DecodeOptions) -> Hashable:  # noqa: ARG002
        """All windows may share a batch: no option changes how they are decoded."""
        return None

    def features(self, window: Window) -> bytes:
        """The window as 16-bit samples."""
        scaled = np.clip(window.samples, -1.0, 1.0) * np.iinfo(np.int16).max
        return scaled.astype(np.int16).tobytes()

    def detect_language(self, windows: Sequence[Window]) -> list[Mapping[str, float]]:
        """English is all that it knows."""
        return [{LANGUAGE: 1.0} for _ in windows]

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],  # noqa: ARG002
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode one batch; `options` make no difference to this engine.

        Raises:
            TranscriptionFailed: a worker died on one of the windows; another takes its place.
            ModelUnavailable: that one does not start, or `close` was called.
        """
        if not self.close.alive:
            raise ModelUnavailable("the embedded engine was unloaded meanwhile; try again")
        self._replace_dead()
        audio = [
            self.features(window) if feature is None else cast("bytes", feature)
            for window, feature in zip(windows, features, strict=True)
        ]
        heard = self._decode(
            {
                index: pcm
                for index, pcm in enumerate(audio)
                if len(windows[index].samples) >= SHORTEST_WINDOW * SAMPLE_RATE
            }
        )
        return [to_transcript(window, heard.get(index, [])) for index, window in enumerate(windows)]

    def _decode(self, audio: Mapping[int, bytes]) -> dict[int, list[Heard]]:
        """Spread the windows over the workers; a free one takes the next."""
        waiting = deque(audio)
        busy: dict[Connection, tuple[int, int]] = {}  # -> (place of the worker, window)
        heard: dict[int, list[Heard]] = {}
        failure: Exception | None = None
        free = list(range(len(self._workers)))
        while busy or (waiting and failure is None):
            while waiting and free and failure is None:
                place, index = free.pop(), waiting.popleft()
                busy[self._workers[place].connection] = place, index
                try:
                    self._workers[place].connection.send_bytes(audio[index])
                except OSError:
                    break  # it died while idle: its end of file is read below
            for connection in wait(list(busy)):
                place, index = busy.pop(cast("Connection", connection))
                try:
                    heard[index] = cast("Connection", connection).recv()
                    free.append(place)
                except (EOFError, OSError) as error:
                    failure = error
                    self._workers[place].close()
        if failure is not None:
            raise TranscriptionFailed(
                "the embedded engine stopped on this recording; try another engine"
            ) from failure
        return heard

    def _replace_dead(self) -> None:
        """Between batches only: a failure here leaves no worker with an answer under way."""
        for place, worker in enumerate(self._workers):
            if not worker.alive:
                worker.close()
                self._workers[place] = Worker()
                self._workers[place].wait_ready()


def to_transcript(window: Window, heard: Sequence[Heard]) -> WindowTranscript:
    """Words on the window's clock -> segments on the recording's, cut at long pauses.

    `compression_ratio` is openai/whisper's: bytes of text over bytes of it deflated.
    `avg_logprob` is the mean over words of the logarithm of their posterior probability.
    """
    text = " ".join(word for word, *_ in heard).encode()
    ratio = len(text) / len(zlib.compress(text)) if text else 0.0
    words = [
        Word(
            text=word,
            start=min(window.start + start, window.end),
            end=min(window.start + end, window.end),
            score=score,
        )
        for word, start, end, score in heard
    ]
    logprob = sum(log(max(score, LEAST_POSTERIOR)) for *_, score in heard) / max(1, len(heard))
    return WindowTranscript(
        window_index=window.index,
        language=LANGUAGE,
        language_probability=1.0,
        segments=tuple(
            Segment(
                start=group[0].start,
                end=group[-1].end,
                text=" ".join(word.text for word in group),
                language=LANGUAGE,
                words=tuple(group),
                avg_logprob=logprob,
                compression_ratio=ratio,
            )
            for group in split_at_pauses(words)
        ),
    )


def split_at_pauses(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Runs of words between which nobody pauses longer than `SEGMENT_PAUSE`."""
    group = list(words[:1])
    for before, word in pairwise(words):
        if word.start - before.end >= SEGMENT_PAUSE:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def load_transcriber(spec: ModelSpec) -> PocketSphinxTranscriber:
    """Start one worker for each of `spec.threads`, or for each core up to `MOST_WORKERS`.

    Raises:
        NotInstalled: pocketsphinx is absent.
        ModelUnavailable: the workers do not start.
    """
    require("pocketsphinx", extra="embedded")
    return PocketSphinxTranscriber(workers=spec.threads or min(usable_cores(), MOST_WORKERS))
