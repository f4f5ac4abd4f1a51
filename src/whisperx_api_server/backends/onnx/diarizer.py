"""The diarizer: segmentation, voice vectors, clustering, and turns from their votes."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, AudioClip, Diarization, DiarizeOptions, Samples, SpeakerTurn
from ..base import ModelSpec
from ..vendors import require, translate_memory_errors, usable_cores
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

logger = logging.getLogger(__name__)

BLOCK = 16
"""Windows (40 s) per step: what the models compute in one go, and what is in memory meanwhile."""

CLEAR = 0.5
"""Seconds that a voice speaks alone in a window for its vector to decide about the speakers.
Voices with less are assigned to the speakers that the others form."""

MATCH_THRESHOLD = 0.5
"""Cosine similarity; see `Diarizer`. Samples of 5 to 20 s of real voices have at least 0.54 for
one speaker, also over a telephone, and at most 0.49 for two."""

NO_MEMORY = "there is not enough memory to tell the speakers apart: try again later"

_OFFSET = (FRAME_SIZE - FRAME) / 2 / SAMPLE_RATE
"""Seconds from a frame's first sample to the time at which its turn begins."""

Speaking = NDArray[np.int32]
"""(frames, places): the speakers of each frame, those with the most votes first; -1 for nobody."""


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

    def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> Generator[float, None, Diarization]:
        """Return turns, which overlap where two speak at once; a step per block, see `Diarizer`."""
        windows = count_windows(len(clip.samples))
        blocks = []
        for block in self._blocks(clip.samples):
            blocks.append(block)
            yield min(1.0, len(blocks) * BLOCK / windows)
        return self._diarization(_joined(blocks), clip.duration, options)

    @translate_memory_errors(NO_MEMORY)
    def _diarization(self, voices: Voices, duration: float, options: DiarizeOptions) -> Diarization:
        if not len(voices.window):
            return Diarization(turns=(), exclusive=())
        labels, means = self._speakers(voices, options)
        speaking = _speaking(voices, labels, len(means))
        names = {
            speaker: f"SPEAKER_{place:02d}"
            for place, speaker in enumerate(_by_appearance(speaking))
        }
        wanted = options.embeddings or options.known_speakers
        vectors = {name: tuple(means[speaker].tolist()) for speaker, name in names.items()}
        return Diarization(
            turns=_turns(speaking, names, duration),
            exclusive=_turns(speaking[:, :1], names, duration),
            embeddings=vectors if wanted else {},
        )

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """Return the vector of each clip's one voice, of unit length."""
        return [self._embed(clip) for clip in clips]

    def _embed(self, clip: AudioClip) -> tuple[float, ...] | None:
        vectors = _joined(list(self._blocks(clip.samples))).vectors
        if not len(vectors):
            return None
        return tuple(centroids(vectors, np.zeros(len(vectors), np.intp))[0].tolist())

    def _blocks(self, samples: Samples) -> Iterator[Voices]:
        windows = count_windows(len(samples))
        for first in range(0, windows, BLOCK):
            yield self._block(samples, first, min(BLOCK, windows - first))

    @translate_memory_errors(NO_MEMORY)
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


def _joined(blocks: Sequence[Voices]) -> Voices:
    return Voices(
        activity=np.concatenate([block.activity for block in blocks]),
        window=np.concatenate([block.window for block in blocks]),
        local=np.concatenate([block.local for block in blocks]),
        clear=np.concatenate([block.clear for block in blocks]),
        vectors=np.concatenate([block.vectors for block in blocks]),
    )


def _speaking(voices: Voices, labels: Labels, speakers: int) -> Speaking:
    """The speakers of each frame, by the votes of the windows that see it.

    Computed window by window, since memory for (frames, speakers) is not bounded.
    """
    windows = len(voices.activity)
    speaking = np.full(((windows - 1) * HOP_FRAMES + FRAMES, VOICES), -1, np.int32)
    votes = np.zeros((FRAMES, speakers), np.uint8)
    total, seen = np.zeros(FRAMES, np.uint8), np.zeros(FRAMES, np.uint8)
    edges = np.searchsorted(voices.window, np.arange(windows + 1))
    for window, active in enumerate(voices.activity):
        for voice in range(edges[window], edges[window + 1]):
            if labels[voice] >= 0:
                votes[:, labels[voice]] += active[:, voices.local[voice]]
        total += active.sum(axis=1, dtype=np.uint8)
        seen += 1
        # No later window sees these frames.
        final = FRAMES if window == windows - 1 else HOP_FRAMES
        first = window * HOP_FRAMES
        counts = np.rint(total[:final] / seen[:final])
        speaking[first : first + final] = _chosen(votes[:final], counts)
        for each in (votes, total, seen):
            each[:-HOP_FRAMES] = each[HOP_FRAMES:].copy()
            each[-HOP_FRAMES:] = 0
    return speaking


def _chosen(votes: NDArray[np.uint8], counts: NDArray[np.float64]) -> Speaking:
    """The `counts` speakers with the most votes in each frame."""
    chosen = np.full((len(votes), VOICES), -1, np.int32)
    frames = np.arange(len(votes))
    left = votes.copy()
    for place in range(VOICES):
        best = left.argmax(axis=1)
        heard = (counts > place) & (left[frames, best] > 0)
        chosen[heard, place] = best[heard]
        left[frames, best] = 0
    return chosen


def _by_appearance(speaking: Speaking) -> list[int]:
    speakers, first = np.unique(speaking, return_index=True)
    order = speakers[np.argsort(first // VOICES, kind="stable")].tolist()
    return [speaker for speaker in order if speaker >= 0]


def _turns(speaking: Speaking, names: dict[int, str], duration: float) -> tuple[SpeakerTurn, ...]:
    turns = []
    for speaker, name in names.items():
        active = (speaking == speaker).any(axis=1)
        edges = np.diff(active.astype(np.int8), prepend=0, append=0)
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
    # by default, onnxruntime has a thread for each core of the machine, usable or not
    options.intra_op_num_threads = spec.threads or usable_cores()
    options.enable_cpu_mem_arena = False  # the arena never frees the largest block's memory
    options.log_severity_level = 3
    providers: list[object] = ["CPUExecutionProvider"]
    if spec.device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": spec.device_index}))
    models = Path(__file__).with_name("models")
    segmentation, encoder = (
        onnxruntime.InferenceSession(str(models / name), sess_options=options, providers=providers)
        for name in ("segmentation-3.0.onnx", "campplus.onnx")
    )
    logger.info("speakers are told with onnxruntime's %s", segmentation.get_providers()[0])
    return OnnxDiarizer(
        Segmentation(segmentation),
        VoiceEncoder(encoder),
        hierarchy=require("scipy.cluster.hierarchy", extra="embedded"),
        optimize=require("scipy.optimize", extra="embedded"),
    )
