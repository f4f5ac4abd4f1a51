"""Who speaks when, without a download: Silero, the GE2E voice encoder and clustering.

Speech regions are covered with windows of 1.6 s every 0.4 s; each window's voice vector decides
about the 0.4 s around its centre. One speaker at a time: overlapping speech goes to the louder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ...audio import SAMPLE_RATE
from ...domain import AudioClip, Diarization, DiarizeOptions, Samples, SpeakerTurn
from ...errors import InvalidRequest, NotInstalled
from ..base import ModelSpec, require
from . import ge2e
from .clustering import centroids, cluster
from .ge2e import FRAMES_PER_SECOND, HOP, WINDOW, VoiceEncoder

STEP = 40  # frames between windows, 0.4 s
BLOCK = 300 * SAMPLE_RATE  # samples that voice activity looks at in one go
SHORTEST_PAUSE = 0.2  # s
SHORTEST_SPEECH = 0.1  # s
PADDING = 0.04  # s

MATCH_THRESHOLD = 0.8
"""Cosine between two samples of one voice, against two voices; see `Diarizer.match_threshold`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Frames `start` to `end` of speech region `region`, which one window decides about."""

    region: int
    start: int
    end: int

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / FRAMES_PER_SECOND


class EmbeddedDiarizer:
    """See the module; `encoder` runs on the device it was made for."""

    def __init__(self, encoder: VoiceEncoder, vad: ModuleType) -> None:
        self._encoder = encoder
        self._vad = vad

    @property
    def match_threshold(self) -> float:
        return MATCH_THRESHOLD

    def diarize(self, clip: AudioClip, options: DiarizeOptions) -> Diarization:
        """Turns without overlap; see `Diarizer`.

        Raises:
            InvalidRequest: the bounds on the number of speakers contradict each other.
        """
        least, most = speaker_bounds(options)
        stretches, vectors = self._voices(clip)
        if not stretches:
            return Diarization(turns=(), exclusive=())
        seconds = np.array([stretch.seconds for stretch in stretches])
        labels = cluster(vectors, seconds, least=least, most=most)
        means = centroids(vectors, labels)
        labels = without_islands(stretches, labels)
        names: dict[int, str] = {}
        for label in labels.tolist():
            names.setdefault(label, f"SPEAKER_{len(names):02d}")
        turns = tuple(merge_turns(stretches, [names[label] for label in labels.tolist()], clip))
        wanted = options.embeddings or options.known_speakers
        vectors_by_name = {name: tuple(means[label].tolist()) for label, name in names.items()}
        return Diarization(
            turns=turns, exclusive=turns, embeddings=vectors_by_name if wanted else {}
        )

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """The mean voice vector of each clip, of unit length."""
        return [self._embed(clip) for clip in clips]

    def _embed(self, clip: AudioClip) -> tuple[float, ...] | None:
        stretches, vectors = self._voices(clip)
        if not stretches:
            return None
        return tuple(centroids(vectors, np.zeros(len(vectors), np.intp))[0].tolist())

    def _voices(self, clip: AudioClip) -> tuple[list[Stretch], ge2e.Vectors]:
        """All stretches of speech and the voice vector of each."""
        factor = ge2e.gain(clip.samples)
        stretches: list[Stretch] = []
        vectors = [np.empty((0, ge2e.EMBEDDING), np.float32)]
        for region, (start, end) in enumerate(self._speech(clip.samples)):
            first, last = start // HOP, max(start // HOP + 1, end // HOP)
            frames = ge2e.mel_frames(clip.samples, first, last, factor)
            places = list(window_places(len(frames)))
            stretches += responsibilities(region, first, last, places)
            vectors.append(self._encoder.embed([window_at(frames, place) for place in places]))
        return stretches, np.concatenate(vectors)

    def _speech(self, samples: Samples) -> list[tuple[int, int]]:
        """Speech regions in samples, found block by block and joined where a block cut one."""
        options = self._vad.VadOptions(
            min_silence_duration_ms=round(SHORTEST_PAUSE * 1000),
            min_speech_duration_ms=round(SHORTEST_SPEECH * 1000),
            speech_pad_ms=round(PADDING * 1000),
        )
        regions: list[tuple[int, int]] = []
        for offset in range(0, len(samples), BLOCK):
            block = np.asarray(samples[offset : offset + BLOCK])
            for found in self._vad.get_speech_timestamps(block, options):
                start, end = offset + found["start"], offset + found["end"]
                if regions and start - regions[-1][1] < SHORTEST_PAUSE * SAMPLE_RATE / 2:
                    start = regions.pop()[0]
                regions.append((start, end))
        return regions


def speaker_bounds(options: DiarizeOptions) -> tuple[int, int]:
    """(least, most) speakers; an exact number beats the bounds.

    Raises:
        InvalidRequest: one is below 1, or the least is more than the most.
    """
    for name in ("num_speakers", "min_speakers", "max_speakers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InvalidRequest(f"{name} must be at least 1", param=name)
    if options.num_speakers is not None:
        return options.num_speakers, options.num_speakers
    least = options.min_speakers or 1
    most = options.max_speakers or max(least, ge2e.EMBEDDING)
    if least > most:
        raise InvalidRequest("min_speakers must not exceed max_speakers", param="min_speakers")
    return least, most


def window_places(frames: int) -> Iterator[int]:
    """First frames of the windows that cover a region; the last one ends with it."""
    yield from range(0, max(0, frames - WINDOW), STEP)
    yield max(0, frames - WINDOW)


def window_at(frames: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """One window; a region shorter than that is repeated, which disturbs less than silence."""
    if len(frames) < WINDOW:
        frames = np.tile(frames, (-(-WINDOW // len(frames)), 1))
    return frames[place : place + WINDOW]


def responsibilities(
    region: int, first: int, last: int, places: Sequence[int]
) -> Iterator[Stretch]:
    """What each window decides about: up to halfway to the centres of its neighbours."""
    middles = [first + (before + after + WINDOW) // 2 for before, after in pairwise(places)]
    for start, end in zip([first, *middles], [*middles, last], strict=True):
        yield Stretch(region=region, start=start, end=end)


def without_islands(stretches: Sequence[Stretch], labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """One window alone between two of another speaker, in one region, is taken for theirs."""
    smooth = labels.copy()
    for i in range(1, len(smooth) - 1):
        same_region = stretches[i - 1].region == stretches[i + 1].region
        if same_region and smooth[i - 1] == smooth[i + 1]:
            smooth[i] = smooth[i - 1]
    return smooth


def merge_turns(
    stretches: Sequence[Stretch], speakers: Sequence[str], clip: AudioClip
) -> Iterator[SpeakerTurn]:
    """Neighbouring stretches of one speaker in one region make a turn."""
    labelled = zip(stretches, speakers, strict=True)
    for (_, speaker), group in groupby(labelled, key=lambda pair: (pair[0].region, pair[1])):
        members = [stretch for stretch, _ in group]
        yield SpeakerTurn(
            start=members[0].start / FRAMES_PER_SECOND,
            end=min(members[-1].end / FRAMES_PER_SECOND, clip.duration),
            speaker=speaker,
        )


def load_diarizer(spec: ModelSpec) -> EmbeddedDiarizer:
    """The diarizer, its voice encoder on `spec.device`.

    Raises:
        NotInstalled: torch, scipy, resemblyzer's weights or faster-whisper are absent.
    """
    for module in ("torch", "scipy.cluster.hierarchy"):
        try:
            require(module, extra="embedded")
        except NotInstalled as error:
            raise NotInstalled(ge2e.INSTALL) from error
    device = f"cuda:{spec.device_index}" if spec.device == "cuda" else spec.device
    vad = require("faster_whisper.vad", extra="embedded")
    return EmbeddedDiarizer(VoiceEncoder(ge2e.find_weights(), device), vad)
