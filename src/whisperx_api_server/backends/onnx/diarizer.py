"""The diarizer: segmentation, voice vectors, clustering, and turns from their votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, AudioClip, Diarization, DiarizeOptions, Samples, SpeakerTurn
from ..base import ModelSpec, require, translate_memory_errors
from .clustering import Labels, centroids, cluster
from .fbank import SHIFT, SIZE, FilterBank
from .segmentation import (
    FRAME,
    FRAME_SIZE,
    FRAMES,
    HOP,
    HOP_FRAMES,
    VOICES,
    WINDOW,
    Activity,
    Segmentation,
    count_windows,
)
from .voices import FRAME_OF_FEATURE, MIN_FRAMES, Vectors, VoiceEncoder

BLOCK = 16
"""Windows (40 s) per step: what the models compute in one go, and what is in memory meanwhile."""

CLEAR = 0.5
"""Seconds that a voice speaks alone in a window for its vector to decide about the speakers.
Voices with less are assigned to the speakers that the others form."""

MATCH_THRESHOLD = 0.5
"""Cosine similarity; see `Diarizer`. Samples of 5 to 20 s of real voices have at least 0.54 for
one speaker, also over a telephone, and at most 0.49 for two."""

_OFFSET = (FRAME_SIZE - FRAME) / 2 / SAMPLE_RATE
"""Seconds from a frame's first sample to the time at which its turn begins."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Voices:
    """The voices of all windows of a recording.

    `activity` is (windows, FRAMES, VOICES). Voice `i` is voice `local[i]` of window `window[i]`,
    speaks alone for `clear[i]` seconds there and sounds like `vectors[i]`.
    """

    activity: Activity
    window: NDArray[np.intp]
    local: NDArray[np.intp]
    clear: NDArray[np.float64]
    vectors: Vectors


class OnnxDiarizer:
    """A `Diarizer`; see the package. `hierarchy` is `scipy.cluster.hierarchy`."""

    def __init__(
        self,
        segmentation: Segmentation,
        encoder: VoiceEncoder,
        *,
        hierarchy: Any,
        optimize: Any,
    ) -> None:
        self._segmentation = segmentation
        self._encoder = encoder
        self._hierarchy = hierarchy
        self._optimize = optimize
        self._bank = FilterBank()

    @property
    def match_threshold(self) -> float:
        return MATCH_THRESHOLD

    def diarize(self, clip: AudioClip, options: DiarizeOptions) -> Diarization:
        """Return turns, which overlap where two speak at once; see `Diarizer`."""
        voices = self._voices(clip.samples)
        if not len(voices.window):
            return Diarization(turns=(), exclusive=())
        labels, means = self._speakers(voices, options)
        votes, counts = _votes(voices, labels, len(means)), _counts(voices.activity)
        speaking = _speaking(votes, counts, most=VOICES)
        names = {
            speaker: f"SPEAKER_{place:02d}"
            for place, speaker in enumerate(_by_appearance(speaking))
        }
        wanted = options.embeddings or options.known_speakers
        vectors = {name: tuple(means[speaker].tolist()) for speaker, name in names.items()}
        return Diarization(
            turns=_turns(speaking, names, clip.duration),
            exclusive=_turns(_speaking(votes, counts, most=1), names, clip.duration),
            embeddings=vectors if wanted else {},
        )

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """Return the vector of each clip's one voice, of unit length."""
        return [self._embed(clip) for clip in clips]

    def _embed(self, clip: AudioClip) -> tuple[float, ...] | None:
        vectors = self._voices(clip.samples).vectors
        if not len(vectors):
            return None
        return tuple(centroids(vectors, np.zeros(len(vectors), np.intp))[0].tolist())

    @translate_memory_errors(
        "there is not enough memory to tell the speakers apart: try again later"
    )
    def _voices(self, samples: Samples) -> Voices:
        windows = count_windows(len(samples))
        parts = [
            self._block(samples, first, min(BLOCK, windows - first))
            for first in range(0, windows, BLOCK)
        ]
        return Voices(
            activity=np.concatenate([part.activity for part in parts]),
            window=np.concatenate([part.window for part in parts]),
            local=np.concatenate([part.local for part in parts]),
            clear=np.concatenate([part.clear for part in parts]),
            vectors=np.concatenate([part.vectors for part in parts]),
        )

    def _block(self, samples: Samples, first: int, count: int) -> Voices:
        activity = self._segmentation.activity(samples, first, count)
        window, local, clear, features = [], [], [], []
        for row in range(count):
            start = (first + row) * HOP
            bank = self._bank.features(samples[start : start + WINDOW + SIZE - SHIFT])
            alone = activity[row].sum(axis=1) == 1
            for voice in np.flatnonzero(activity[row].any(axis=0)).tolist():
                mine = activity[row, :, voice]
                seconds = float((mine & alone).sum()) * FRAME / SAMPLE_RATE
                frames = (mine & alone if seconds >= CLEAR else mine)[FRAME_OF_FEATURE]
                chosen = bank[: len(frames)][frames[: len(bank)]]
                if len(chosen) >= MIN_FRAMES:
                    window.append(first + row)
                    local.append(voice)
                    clear.append(seconds)
                    features.append(chosen)
        return Voices(
            activity=activity,
            window=np.array(window, np.intp),
            local=np.array(local, np.intp),
            clear=np.array(clear),
            vectors=self._encoder.embed(features),
        )

    def _speakers(self, voices: Voices, options: DiarizeOptions) -> tuple[Labels, Vectors]:
        """Return the speaker of each voice, and each speaker's vector."""
        count = options.num_speakers
        clear = voices.clear >= CLEAR
        if clear.sum() < max(count or 1, options.min_speakers or 1):
            clear[:] = True
        chosen = voices.vectors[clear]
        labels = cluster(
            chosen,
            voices.window[clear],
            least=count or options.min_speakers or 1,
            most=count or options.max_speakers or len(chosen),
            hierarchy=self._hierarchy,
        )
        means = centroids(chosen, labels)
        return self._assigned(voices, means), means

    def _assigned(self, voices: Voices, means: Vectors) -> Labels:
        """Return the nearest speaker of each voice; voices of one window get different ones.

        A voice is -1 where its window has more voices than there are speakers.
        """
        labels = np.full(len(voices.window), -1, np.intp)
        similarity = voices.vectors @ means.T
        edges = np.flatnonzero(np.diff(voices.window)) + 1
        for rows in np.split(np.arange(len(labels)), edges):
            row, speaker = self._optimize.linear_sum_assignment(similarity[rows], maximize=True)
            labels[rows[row]] = speaker
        return labels


def _votes(voices: Voices, labels: Labels, speakers: int) -> NDArray[np.uint8]:
    """(frames, speakers): in how many windows a speaker speaks in a frame."""
    votes = np.zeros((_length(voices.activity), speakers), np.uint8)
    for window, local, speaker in zip(voices.window, voices.local, labels, strict=True):
        if speaker >= 0:
            first = window * HOP_FRAMES
            votes[first : first + FRAMES, speaker] += voices.activity[window, :, local]
    return votes


def _counts(activity: Activity) -> NDArray[np.uint8]:
    """(frames,): how many speak in a frame, the rounded mean of the windows that see it."""
    total = np.zeros(_length(activity), np.uint16)
    seen = np.zeros(len(total), np.uint16)
    for window, active in enumerate(activity):
        first = window * HOP_FRAMES
        total[first : first + FRAMES] += active.sum(axis=1, dtype=np.uint16)
        seen[first : first + FRAMES] += 1
    return np.rint(total / seen).astype(np.uint8)


def _length(activity: Activity) -> int:
    return (len(activity) - 1) * HOP_FRAMES + FRAMES


def _speaking(
    votes: NDArray[np.uint8], counts: NDArray[np.uint8], *, most: int
) -> NDArray[np.bool_]:
    """(frames, speakers): the `counts` speakers with the most votes, at most `most` of them."""
    speaking = np.zeros(votes.shape, bool)
    left = votes.copy()
    frames = np.arange(len(votes))
    for place in range(most):
        best = left.argmax(axis=1)
        chosen = (counts > place) & (left[frames, best] > 0)
        speaking[frames[chosen], best[chosen]] = True
        left[frames, best] = 0
    return speaking


def _by_appearance(speaking: NDArray[np.bool_]) -> list[int]:
    active = np.flatnonzero(speaking.any(axis=0)).tolist()
    return sorted(active, key=lambda speaker: int(speaking[:, speaker].argmax()))


def _turns(
    speaking: NDArray[np.bool_], names: dict[int, str], duration: float
) -> tuple[SpeakerTurn, ...]:
    turns = []
    for speaker, name in names.items():
        edges = np.diff(speaking[:, speaker].astype(np.int8), prepend=0, append=0)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
            start = first * FRAME / SAMPLE_RATE + _OFFSET
            end = min(last * FRAME / SAMPLE_RATE + _OFFSET, duration)
            if start < end:
                turns.append(SpeakerTurn(start=start, end=end, speaker=name))
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end)))


def load_diarizer(spec: ModelSpec) -> OnnxDiarizer:
    """Load both models, on the GPU where onnxruntime has one and the settings ask for it.

    Raises:
        NotInstalled: onnxruntime or scipy is absent.
    """
    onnxruntime = require("onnxruntime", extra="embedded")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads
    options.log_severity_level = 3
    providers: list[object] = ["CPUExecutionProvider"]
    if spec.device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": spec.device_index}))
    models = Path(__file__).with_name("models")
    segmentation, encoder = (
        onnxruntime.InferenceSession(str(models / name), sess_options=options, providers=providers)
        for name in ("segmentation-3.0.onnx", "campplus.onnx")
    )
    return OnnxDiarizer(
        Segmentation(segmentation),
        VoiceEncoder(encoder),
        hierarchy=require("scipy.cluster.hierarchy", extra="embedded"),
        optimize=require("scipy.optimize", extra="embedded"),
    )
