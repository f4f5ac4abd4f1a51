"""Diarization with pyannote.audio, and WhisperX's voice activity detection."""

from __future__ import annotations

import contextlib
import importlib.abc
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..domain import (
    SAMPLE_RATE,
    AudioClip,
    Diarization,
    DiarizeOptions,
    Samples,
    SpeakerTurn,
    VadOptions,
)
from ..errors import InvalidRequest, ModelNotFound, TranscriptionFailed
from .base import Declaration, Detection, Diarizer, ModelSpec, Stage, VoiceDetector
from .binarize import BinarizeOptions, Binarizer, FrameDetection
from .hub import snapshot, translate_hub_errors
from .steps import in_steps
from .vendors import package_file, require, translate_memory_errors

EXTRA = "cpu"

DECLARATIONS: Mapping[Stage, Declaration] = {
    "diarization": Declaration(packages=("torch", "pyannote.audio"), probe="config.yaml"),
    "vad": Declaration(packages=("torch", "pyannote.audio", "whisperx"), on_device=True),
}

MATCH_THRESHOLD = 0.5
"""For the WeSpeaker embedding of pyannote's published pipelines, in which two recordings of one
voice have a cosine similarity of about 0.6 to 0.8 and different voices stay below 0.4."""

BATCH_SIZES = {"cpu": 8, "cuda": 32}
"""Batch sizes of the pipeline's two models, in chunks of 5 to 10 s."""

STEPS = {"segmentation": (0.0, 0.2), "embeddings": (0.2, 1.0)}
"""The pipeline's steps that call its hook after each batch; from which part in [0, 1] to which."""

Hook = Callable[..., None]
"""pyannote's `hook(step, artifact, *, file, total, completed)`."""

VAD_DEFAULTS = BinarizeOptions(
    onset=0.5, offset=0.363, padding=0.1, min_silence=0.0, min_speech=0.0
)
"""WhisperX's `vad_onset` and `vad_offset`. It does not pad, which cuts up to 70 ms off words."""

VAD_STEP = 0.1
"""Hop from one chunk of audio to the next, in chunks: pyannote's default, which WhisperX keeps."""


class PyannoteDiarizer:
    """Diarizes with a pyannote `SpeakerDiarization` pipeline.

    Memory and time for clustering grow with the square of the recording's length.
    """

    def __init__(self, pipeline: Any, torch: ModuleType) -> None:
        self._pipeline = pipeline
        self._torch = torch

    @property
    def match_threshold(self) -> float:
        """The embedding model's own threshold, else `MATCH_THRESHOLD`."""
        model = getattr(self._pipeline._embedding, "model_", None)
        return float(getattr(model, "match_threshold", MATCH_THRESHOLD))

    def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> Generator[float, None, Diarization]:
        """Who speaks when; a step per batch of the pipeline's models, see `Diarizer`.

        Raises:
            InvalidRequest: the recording has too little speech for so many speakers.
            InsufficientMemory: the recording is too long for the memory there is.
            TranscriptionFailed: pyannote failed on this recording.
        """
        counts = _speaker_counts(options)
        if len(clip.samples) == 0:
            return Diarization(turns=(), exclusive=())
        output = yield from in_steps(lambda report: self._run(clip, counts, _hook(report)))
        turns = _turns(output.speaker_diarization, clip.duration)
        appearance = dict.fromkeys(turn.speaker for turn in turns)
        names = {label: f"SPEAKER_{index:02d}" for index, label in enumerate(appearance)}
        embeddings = {}
        if options.embeddings or options.known_speakers:
            vectors = _embeddings(output)
            embeddings = {names[label]: vectors[label] for label in names if label in vectors}
        exclusive = _turns(output.exclusive_speaker_diarization, clip.duration)
        return Diarization(
            turns=_renamed(turns, names),
            exclusive=_without_overlap(_renamed(exclusive, names)),
            embeddings=embeddings,
        )

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """See `Diarizer`; each clip counts as one speaker."""
        return [self._embed(clip) for clip in clips]

    def _embed(self, clip: AudioClip) -> tuple[float, ...] | None:
        if len(clip.samples) == 0:
            return None
        return next(iter(_embeddings(self._run(clip, {"num_speakers": 1})).values()), None)

    def _run(self, clip: AudioClip, counts: Mapping[str, int], hook: Hook | None = None) -> Any:
        # A copy, because torch does not accept a read-only memory map.
        waveform = self._torch.from_numpy(np.array(clip.samples, np.float32))[None]
        too_long = "there is not enough memory to diarize this recording: send a shorter one"
        try:
            with translate_memory_errors(too_long), _quiet():
                return self._pipeline(
                    {"waveform": waveform, "sample_rate": clip.sample_rate}, hook=hook, **counts
                )
        except (RuntimeError, ValueError) as error:
            wanted = counts.get("num_speakers", counts.get("min_speakers", 1))
            if wanted > 1 and isinstance(error, ValueError):  # fewer voice vectors than clusters
                raise InvalidRequest(
                    f"this recording has too little speech for {wanted} speakers: ask for fewer",
                    param="num_speakers" if "num_speakers" in counts else "min_speakers",
                ) from error
            raise TranscriptionFailed("the diarization failed") from error


def _hook(report: Callable[[float], None]) -> Hook:
    """The pipeline's hook, which reports the part in [0, 1] that is done."""

    def hook(
        step: str, _: object, *, completed: int = 0, total: int = 0, **_others: object
    ) -> None:
        if step in STEPS and total:
            first, last = STEPS[step]
            report(first + (last - first) * min(1.0, completed / total))

    return hook


def _speaker_counts(options: DiarizeOptions) -> dict[str, int]:
    """Return the pipeline's keyword arguments; an exact number replaces the bounds."""
    if options.num_speakers is not None:
        return {"num_speakers": options.num_speakers}
    bounds = {"min_speakers": options.min_speakers, "max_speakers": options.max_speakers}
    return {name: value for name, value in bounds.items() if value is not None}


def _turns(annotation: Any, duration: float) -> list[SpeakerTurn]:
    """Return the turns of a `pyannote.core.Annotation` by start, cut at the recording's end."""
    turns = [
        SpeakerTurn(start=segment.start, end=min(segment.end, duration), speaker=label)
        for segment, _, label in annotation.itertracks(yield_label=True)
        if segment.start < duration
    ]
    return sorted(turns, key=lambda turn: (turn.start, turn.end))


def _renamed(turns: Sequence[SpeakerTurn], names: Mapping[str, str]) -> tuple[SpeakerTurn, ...]:
    return tuple(
        SpeakerTurn(start=turn.start, end=turn.end, speaker=names[turn.speaker])
        for turn in turns
        if turn.speaker in names
    )


def _without_overlap(turns: Sequence[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """Undo overlaps, which closing a speaker's short gaps (`min_duration_off`) can cause."""
    apart: list[SpeakerTurn] = []
    for turn in turns:
        start = max(turn.start, apart[-1].end) if apart else turn.start
        if start < turn.end:
            apart.append(SpeakerTurn(start=start, end=turn.end, speaker=turn.speaker))
    return tuple(apart)


def _embeddings(output: Any) -> dict[str, tuple[float, ...]]:
    """Map labels to vectors, without NaN or zeros, which stand for too little speech."""
    labels = output.speaker_diarization.labels()
    return {
        label: tuple(vector.tolist())
        for label, vector in zip(labels, output.speaker_embeddings, strict=True)
        if np.isfinite(vector).all() and vector.any()
    }


class PyannoteVoiceDetector:
    """Finds speech with the segmentation model in whisperX's wheel."""

    def __init__(self, model: Any, torch: ModuleType) -> None:
        self._model = model
        self._torch = torch

    def start(self, options: VadOptions) -> Detection:
        scorer = ChunkScorer(self._model, self._torch)
        thresholds = VAD_DEFAULTS.overridden(options)
        binarizer = Binarizer(thresholds, step=scorer.frame_step, origin=scorer.frame_middle)
        return FrameDetection(scorer, binarizer)


class ChunkScorer:
    """Scores the frames of one recording in overlapping chunks.

    A frame's score is the mean over its chunks under a Hamming window, as in
    `pyannote.audio.Inference`.
    """

    def __init__(self, model: Any, torch: ModuleType) -> None:
        self._model = model
        self._torch = torch
        self._chunk = round(float(model.specifications.duration) * SAMPLE_RATE)
        self._hop = round(VAD_STEP * self._chunk)
        self.frame_step = float(model.receptive_field.step)
        self.frame_middle = float(model.receptive_field.duration) / 2
        self._pushed = 0
        self._samples = np.zeros(0, np.float32)  # from the start of the next chunk
        self._chunks = 0  # scored
        self._frames = 0  # final
        self._total = self._weight = np.zeros(0)  # of the frames behind those

    def push(self, samples: Samples) -> list[float]:
        self._pushed += len(samples)
        self._samples = np.concatenate([self._samples, samples])
        complete = (len(self._samples) - self._chunk) // self._hop + 1
        if complete > 0:
            self._score(complete)
        return self._take(self._first_frame(self._chunks))

    def finish(self) -> list[float]:
        """Return the remaining frames; the last chunk is padded with zeros."""
        unscored = self._pushed - (self._chunks - 1) * self._hop - self._chunk
        if self._pushed and (unscored > 0 or not self._chunks):
            self._samples = np.pad(self._samples, (0, self._chunk - len(self._samples)))
            self._score(1)
        duration = self._pushed / SAMPLE_RATE
        return self._take(math.ceil((duration - self.frame_middle) / self.frame_step))

    def _first_frame(self, chunk: int) -> int:
        return round(chunk * self._hop / SAMPLE_RATE / self.frame_step)

    def _score(self, count: int) -> None:
        """Add the scores of the next chunks: the maximum over the model's speakers."""
        chunks = sliding_window_view(self._samples, self._chunk)[: count * self._hop : self._hop]
        batch = self._torch.from_numpy(np.array(chunks[:, None]))
        too_large = "there is not enough device memory to find the speech: try again later"
        with translate_memory_errors(too_large), self._torch.inference_mode():
            likeliest = self._model(batch.to(self._model.device)).amax(dim=-1).cpu().numpy()
        hamming = np.hamming(likeliest.shape[1])
        for scores in likeliest:
            first = self._first_frame(self._chunks) - self._frames
            room = (0, first + len(scores) - len(self._total))
            self._total, self._weight = np.pad(self._total, room), np.pad(self._weight, room)
            self._total[first:] += scores * hamming
            self._weight[first:] += hamming
            self._chunks += 1
        self._samples = self._samples[count * self._hop :].copy()

    def _take(self, end: int) -> list[float]:
        """Return the scores of the frames before `end` that were not returned before."""
        count = max(0, end - self._frames)
        scores: list[float] = (self._total[:count] / self._weight[:count]).tolist()
        self._total, self._weight = self._total[count:], self._weight[count:]
        self._frames += len(scores)
        return scores


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    with _quiet(), _nemo_hidden():
        _pyannote_audio()
        require("pyannote.audio.pipelines", extra=EXTRA)
        require("omegaconf", extra=EXTRA)  # checkpoints refer to it


def load_diarizer(spec: ModelSpec) -> Diarizer:
    """Load a pipeline: a hub id, or a directory with its `config.yaml`.

    Pipelines whose embedding model needs NeMo cannot be loaded: pyannote would import NeMo, which
    takes 15 to 20 s, for every pipeline.

    Raises:
        ModelNotFound, ModelUnavailable: the hub does not have it, or it is another pipeline.
        NotInstalled: pyannote.audio is absent.
    """
    torch = require("torch", extra=EXTRA)
    with _quiet(), _nemo_hidden(), translate_hub_errors(spec.name, extra=EXTRA):
        audio = _pyannote_audio()
        folder = spec.path or snapshot(spec, spec.name, patterns=["*"], extra=EXTRA)
        pipeline = audio.Pipeline.from_pretrained(
            folder, token=spec.hf_token, cache_dir=spec.download_root
        )
        pipelines = require("pyannote.audio.pipelines", extra=EXTRA)
        if not isinstance(pipeline, pipelines.SpeakerDiarization):
            raise ModelNotFound(f"{spec.name!r} is not a pyannote speaker diarization pipeline")
        pipeline.to(_device(spec, torch))
    pipeline.segmentation_batch_size = BATCH_SIZES[spec.device]
    pipeline.embedding_batch_size = BATCH_SIZES[spec.device]
    return PyannoteDiarizer(pipeline, torch)


def load_voice_detector(spec: ModelSpec) -> VoiceDetector:
    """Load the detector; only the device of `spec` is used.

    Raises:
        NotInstalled: pyannote.audio or whisperx, whose wheel has the weights, is absent.
    """
    torch = require("torch", extra=EXTRA)
    with _quiet(), _nemo_hidden():
        audio = _pyannote_audio()
        model = audio.Model.from_pretrained(
            package_file("whisperx", "assets/pytorch_model.bin", extra=EXTRA)
        )
    return PyannoteVoiceDetector(model.eval().to(_device(spec, torch)), torch)


def _pyannote_audio() -> ModuleType:
    """Import pyannote.audio without its telemetry and its output for notebooks."""
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
    audio = require("pyannote.audio", extra=EXTRA)
    for name in ("pyannote.audio.pipelines.clustering", "pyannote.audio.utils.hf_hub"):
        # Not redirect_stdout, which would also swallow what other threads print.
        vars(require(name, extra=EXTRA))["print"] = lambda *_: None
    # "automatically upgraded your loaded checkpoint": the one in whisperX's wheel, at each load
    logging.getLogger("lightning.pytorch.utilities.migration").setLevel(logging.ERROR)
    return audio


def _device(spec: ModelSpec, torch: ModuleType) -> Any:
    if spec.device == "cuda":
        # pyannote does so at its first call, with a warning (pyannote-audio issue 1370).
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(spec.torch_device)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings that an operator cannot act on."""
    with warnings.catch_warnings():
        # no torchcodec (audio comes decoded); fewer speakers found than asked for
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pyannote\.")
        # too little speech for a voice vector, which `_embeddings` leaves out
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"numpy\.")
        yield


class _NemoFinder(importlib.abc.MetaPathFinder):
    """Hides NeMo from one thread; a Parakeet may be loading on another."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.partition(".")[0] == "nemo" and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def _nemo_hidden() -> Iterator[None]:
    finder = _NemoFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
