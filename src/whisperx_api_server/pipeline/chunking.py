"""Cuts speech regions into windows for the transcriber, and stitches their transcripts.

Windows are merged as in WhisperX (Bain et al. 2023, "VAD cut & merge"): consecutive regions share a
window, with their pauses, up to the maximum window; a longer region is cut where it is quietest.
Unlike in WhisperX, a pause of more than `LONGEST_PAUSE` seconds ends a window, because a decoder's
word times are arbitrary inside long pauses.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Protocol

import numpy as np

from ..domain import (
    AudioClip,
    Samples,
    Segment,
    SpeechRegion,
    Task,
    Transcript,
    Window,
    WindowTranscript,
)
from ..transcript.sentences import sentence_segments
from ..transcript.word_times import keep_in_speech

FRAME = 0.01
"""Seconds between two possible cuts."""

LONGEST_PAUSE = 3.0
"""Maximum seconds of a pause inside a window."""

SILENCE = 1e-4
"""Maximum root mean square of a silent second: -80 dB."""

MOST_UNDETECTED = 300.0
"""Maximum seconds without detected speech that are transcribed all the same."""

SHORTEST_UNDETECTED = 1.0
"""Minimum seconds of a part without detected speech that is transcribed all the same."""

SMOOTHING_SECONDS = 0.15
"""Seconds over which loudness is averaged: longer than a plosive's closure, not than a pause."""


class Recording(Protocol):
    """Mono audio that may still grow."""

    @property
    def samples(self) -> Samples: ...

    @property
    def sample_rate(self) -> int: ...


class Splitter:
    """Merges regions into windows; a window is final once no later region can join it.

    Regions are pushed in order, each once the recording has its samples. All arithmetic is in
    samples, so that windows are exactly adjacent and never longer than `max_window` seconds;
    `Window.samples` are views of the recording.
    """

    def __init__(self, clip: Recording, *, request_id: str, max_window: float) -> None:
        self._clip = clip
        self._request_id = request_id
        self._longest = math.floor(max_window * clip.sample_rate)
        if self._longest < 1:
            raise ValueError(f"max_window must hold at least one sample, got {max_window} s")
        self._longest_pause = round(LONGEST_PAUSE * clip.sample_rate)
        self._open: list[tuple[int, int, float]] = []
        self._heard = 0
        self._count = 0

    def push(self, regions: Iterable[SpeechRegion]) -> list[Window]:
        """Take more regions, and return the windows that became final."""
        windows = []
        for first, last, probability in self._pieces(regions):
            if self._open and (
                last - self._open[0][0] > self._longest
                or first - self._open[-1][1] > self._longest_pause
            ):
                windows.append(self._close())
            self._open.append((first, last, probability))
        return windows

    def flush(self) -> list[Window]:
        """Return the open window, if there is one; no region may be pushed afterwards."""
        return [self._close()] if self._open else []

    def _pieces(self, regions: Iterable[SpeechRegion]) -> Iterator[tuple[int, int, float]]:
        """Yield sample ranges without overlap, at most `max_window` long, with probabilities."""
        rate = self._clip.sample_rate
        for region in regions:
            first = max(round(region.start * rate), self._heard)
            last = min(round(region.end * rate), len(self._clip.samples))
            while last - first > self._longest:
                # In the latter half: two cuts never lie closer than half a window.
                longest = self._clip.samples[first : first + self._longest]
                cut = first + quietest(longest, rate, earliest=len(longest) // 2)
                yield first, cut, region.probability
                first = cut
            if first < last:
                yield first, last, region.probability
                self._heard = last

    def _close(self) -> Window:
        rate = self._clip.sample_rate
        first, last = self._open[0][0], self._open[-1][1]
        window = Window(
            request_id=self._request_id,
            index=self._count,
            start=first / rate,
            end=last / rate,
            samples=self._clip.samples[first:last],
            regions=tuple(
                SpeechRegion(start=a / rate, end=b / rate, probability=probability)
                for a, b, probability in self._open
            ),
        )
        self._open = []
        self._count += 1
        return window


def quietest(samples: Samples, rate: int, *, earliest: int) -> int:
    """Where to cut: the sample after `earliest` that has the least energy around it.

    Of equally quiet places the last, because fewer windows cost less.
    """
    frame, half = max(1, round(FRAME * rate)), max(1, round(SMOOTHING_SECONDS * rate / 2))
    energy = np.cumsum(np.square(samples, dtype=np.float64))
    middles = np.arange(len(samples), earliest, -frame)
    before = np.maximum(middles - half, 0) - 1
    after = np.minimum(middles + half, len(samples)) - 1
    inside = energy[after] - np.where(before < 0, 0.0, energy[before])
    return int(middles[np.argmin(inside / (after - before))])


def undetected_windows(
    clip: AudioClip, detected: Sequence[Window], *, request_id: str, max_window: float
) -> tuple[list[Window], bool]:
    """Return the loudest windows of a clip that no detected one covers, in order.

    They have at most `MOST_UNDETECTED` seconds, or one window. Also returns whether others, that
    are not silent, were left out. Their regions have probability 0: the transcriber decides.
    """
    found: list[Window] = []
    starts = [0.0, *(window.end for window in detected)]
    ends = [*(window.start for window in detected), clip.duration]
    for start, end in zip(starts, ends, strict=True):
        if end - start >= min(SHORTEST_UNDETECTED, clip.duration):
            splitter = Splitter(clip, request_id=request_id, max_window=max_window)
            found += splitter.push([SpeechRegion(start=start, end=end, probability=0.0)])
            found += splitter.flush()
    loud = [window for window in found if _is_loud(window.samples, clip.sample_rate)]
    loud.sort(key=lambda window: -np.dot(window.samples, window.samples))
    seconds = list(accumulate(window.end - window.start for window in loud))
    count = max(1, bisect_right(seconds, MOST_UNDETECTED))
    return sorted(loud[:count], key=lambda window: window.start), count < len(loud)


def _is_loud(samples: Samples, rate: int) -> bool:
    """Whether a second of the samples is not silent."""
    seconds = (samples[first : first + rate] for first in range(0, len(samples), rate))
    return any(np.dot(second, second) >= SILENCE**2 * rate for second in seconds)


def finish_window(transcript: WindowTranscript, window: Window, task: Task) -> WindowTranscript:
    """Clean a window's transcript for the recording's.

    With word times, segments become sentences. All times are moved inside the window, and blank
    segments are dropped. A segment without a language gets its window's, in translations English.
    """
    whole = SpeechRegion(start=window.start, end=window.end)
    segments: list[Segment] = []
    for segment in transcript.segments:
        if not segment.text.strip():
            continue
        start = min(max(segment.start, window.start), window.end)
        segments += sentence_segments(
            replace(
                segment,
                start=start,
                end=min(max(segment.end, start), window.end),
                language="en" if task == "translate" else segment.language or transcript.language,
                words=segment.words and keep_in_speech(segment.words, [whole]),
            )
        )
    return replace(transcript, segments=tuple(segments))


def without_words(transcript: WindowTranscript) -> WindowTranscript:
    """Remove the words from the segments."""
    segments = tuple(replace(segment, words=None) for segment in transcript.segments)
    return replace(transcript, segments=segments)


def stitch(
    transcripts: Sequence[WindowTranscript],
    *,
    task: Task,
    duration: float,
    default_language: str,
) -> Transcript:
    """Join finished windows, in order, into one transcript.

    `language` and `languages` are the spoken ones, also of a translation; `default_language` is
    that of a transcript without speech.
    """
    spoken: dict[str, float] = {}
    for transcript in transcripts:
        for segment in transcript.segments:
            written = segment.language or transcript.language
            language = transcript.language if task == "translate" else written
            spoken[language] = spoken.get(language, 0.0) + segment.end - segment.start
    languages = tuple(sorted(spoken, key=lambda code: -spoken[code]))
    return Transcript(
        task=task,
        language=languages[0] if languages else default_language,
        languages=languages,
        duration=duration,
        segments=tuple(segment for transcript in transcripts for segment in transcript.segments),
        warnings=tuple(dict.fromkeys(text for each in transcripts for text in each.warnings)),
    )
