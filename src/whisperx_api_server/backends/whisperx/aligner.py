"""CTC forced alignment of words with wav2vec2, in batches of many requests.

It returns the same words and times as whisperx.align at a lower cost: emissions are computed in
batches, torchaudio's compiled forced_align finds the best path, and words are assembled in
one pass over the characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, Segment, Word
from ...errors import TranscriptionFailed
from ..base import Aligner, AlignItem, ModelSpec
from ..vendors import require, translate_memory_errors
from .align_models import CtcModel, forced_align_function, load_ctc_model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CtcAligner", "load_aligner"]

_BATCH_SECONDS = 240.0
"""Maximum padded seconds per forward pass: eight full windows."""
_MIN_SAMPLES = 400
"""Samples that wav2vec2's convolutions need for one frame (25 ms at 16 kHz)."""
_CHARACTER_LANGUAGES = frozenset({"ja", "yue", "zh"})
"""Languages in which each character is a word; whisperx has ja and zh."""
_SPACED_WORD = re.compile(r"\S+")
_CHARACTER = re.compile(r"\S")
_SPACE_TOKEN = "|"
_WILDCARD = -1


def load_aligner(spec: ModelSpec) -> Aligner:
    """Load an align model.

    Raises: the errors of `load_ctc_model`.
    """
    return CtcAligner(load_ctc_model(spec))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Transcript:
    """An item as the model reads it.

    `tokens` are columns of the emission or the wildcard; `positions` are the indices of their
    characters in the text.
    """

    samples: NDArray[np.float32]
    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Path:
    """Token i is heard in the frames [bounds[i], bounds[i + 1]) of `frames`, with scores[i]."""

    bounds: NDArray[np.int64]
    scores: NDArray[np.float64]
    frames: int


class CtcAligner:
    """The whisperx backend's `Aligner`."""

    def __init__(self, model: CtcModel) -> None:
        self._model = model
        self._torch = require("torch", extra="cpu")
        self._forced_align = forced_align_function()

    def align(self, items: Sequence[AlignItem]) -> list[Segment]:
        """Align items; see `backends.base.Aligner`.

        Texts with more characters than their audio has frames, and audio below 25 ms, cannot be
        aligned.

        Raises:
            InsufficientMemory: the device's memory ran out.
            TranscriptionFailed: the model failed for another reason.
        """
        transcripts = [_read(item, self._model.dictionary) for item in items]
        paths: list[_Path | None] = [None] * len(items)
        alignable = [i for i, t in enumerate(transcripts) if t is not None]
        sizes = {i: len(t.samples) for i, t in enumerate(transcripts) if t is not None}
        too_large = "the alignment does not fit into the device's memory: try again later"
        try:
            with translate_memory_errors(too_large), self._torch.inference_mode():
                for batch in _batches(sorted(alignable, key=sizes.__getitem__), sizes):
                    chosen = [t for i in batch if (t := transcripts[i]) is not None]
                    emissions = self._emissions([t.samples for t in chosen])
                    for i, transcript, emission in zip(batch, chosen, emissions, strict=True):
                        paths[i] = self._best_path(emission, transcript.tokens)
        except RuntimeError as error:
            raise TranscriptionFailed(
                "the words could not be aligned: try again with align=false"
            ) from error
        return [
            _spread(item) if transcript is None or path is None else _timed(item, transcript, path)
            for item, transcript, path in zip(items, transcripts, paths, strict=True)
        ]

    def _emissions(self, batch: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Log probabilities (frames, len(dictionary)) per item, on the model's device."""
        torch, model = self._torch, self._model
        features = [
            model.features(torch.tensor(samples, device=model.device)[None]) for samples in batch
        ]
        lengths = [len(item) for item in features]
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        logits = model.logits(padded, torch.tensor(lengths, device=model.device))
        emissions = torch.log_softmax(logits, dim=-1)
        return [emission[:n] for emission, n in zip(emissions, lengths, strict=True)]

    def _best_path(self, emission: Tensor, tokens: NDArray[np.int64]) -> _Path | None:
        """whisperx's best path: one frame per token, blanks until the next, the rest free.

        forced_align would also repeat a token over several frames, forbid a token directly after
        itself and require blanks to the end. So a frame that allows only the blank is inserted
        between every two frames (no token lasts two frames, and equal tokens may follow each
        other), and a final token without cost covers the audio after the text.
        """
        torch = self._torch
        frames, width = emission.shape
        if len(tokens) > frames:
            return None
        known = (tokens != _WILDCARD) & (tokens < width)
        used, labels = np.unique(np.where(known, tokens, width), return_inverse=True)
        blank = self._model.blank
        if not known.all():
            others = torch.arange(width, device=emission.device) != blank
            wildcard = emission[:, others].amax(dim=1, keepdim=True)
            emission = torch.cat([emission, wildcard], dim=1)
        columns = torch.tensor([blank, *used.tolist()], device=emission.device)
        scores = emission.index_select(1, columns).cpu()
        if not scores.isfinite().all():
            return None
        rest = len(used) + 1
        lattice = torch.full((2 * frames + 1, rest + 1), -torch.inf)
        lattice[:, rest] = 0.0
        lattice[1::2, 0] = 0.0
        lattice[:-1:2, :rest] = scores
        targets = torch.tensor([*(labels + 1).tolist(), rest], dtype=torch.int64)
        # Always on the CPU: CUDA's version launches kernels for each frame.
        path, _ = self._forced_align(lattice[None], targets[None], blank=0)
        states = path[0].numpy()
        starts = np.flatnonzero((states > 0) & (states < rest)) // 2
        bounds = np.append(starts, starts[-1] + 1)
        return _Path(
            bounds=bounds, scores=_scores(scores.numpy(), labels + 1, bounds), frames=frames
        )


def _batches(order: Sequence[int], sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Divide an order of ascending sizes (samples) into batches within the padded maximum."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * sizes[i] > _BATCH_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _span(item: AlignItem) -> tuple[float, float]:
    """The segment's start and end in the recording, within the item's audio."""
    last = item.offset + len(item.samples) / SAMPLE_RATE
    start = min(max(item.segment.start, item.offset), last)
    return start, max(start, min(item.segment.end, last))


def _read(item: AlignItem, dictionary: Mapping[str, int]) -> _Transcript | None:
    """The audio and the tokens of an item; None if there is nothing to align.

    As in whisperx, letters are in lower case, a space is `|`, and unknown characters are
    wildcards. Languages without spaces have no token for them, unless the model has one.
    """
    start, end = _span(item)
    first = round((start - item.offset) * SAMPLE_RATE)
    samples = item.samples[first : round((end - item.offset) * SAMPLE_RATE)]
    text = item.segment.text.rstrip()
    space = " " if item.language in _CHARACTER_LANGUAGES else _SPACE_TOKEN
    tokens: list[int] = []
    positions: list[int] = []
    for position in range(len(text) - len(text.lstrip()), len(text)):
        if text[position].isspace():
            if space not in dictionary or text[position - 1].isspace():
                continue
            token = dictionary[space]
        else:
            token = dictionary.get(text[position].lower(), _WILDCARD)
        tokens.append(token)
        positions.append(position)
    if not tokens or len(samples) < _MIN_SAMPLES:
        return None
    return _Transcript(
        samples=samples,
        tokens=np.asarray(tokens, np.int64),
        positions=np.asarray(positions, np.int64),
    )


def _scores(
    emission: NDArray[np.float32], columns: NDArray[np.int64], bounds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean probability over each token's frames: the token's in the first, then the blank's."""
    starts, ends = bounds[:-1], bounds[1:]
    blanks = np.concatenate([[0.0], np.cumsum(np.exp(emission[:, 0], dtype=np.float64))])
    own = np.exp(emission[starts, columns], dtype=np.float64)
    mean: NDArray[np.float64] = (own + blanks[ends] - blanks[starts + 1]) / (ends - starts)
    return mean


def _timed(item: AlignItem, transcript: _Transcript, path: _Path) -> Segment:
    """The item's segment and its words, with the times of the path."""
    segment = item.segment
    start, end = _span(item)
    times = np.round(start + path.bounds * ((end - start) / path.frames), 3).tolist()
    scores = path.scores.tolist()
    token_of = dict(zip(transcript.positions.tolist(), range(len(scores)), strict=True))

    def word(match: re.Match[str]) -> Word:
        first, last = token_of[match.start()], token_of[match.end() - 1]
        score = sum(scores[first : last + 1]) / (last + 1 - first)
        return Word(
            text=match.group(),
            start=times[first],
            end=times[last + 1],
            score=round(min(max(score, 0.0), 1.0), 3),
        )

    words = tuple(map(word, _word_pattern(item.language).finditer(segment.text)))
    return replace(
        segment,
        start=words[0].start,
        end=words[-1].end,
        language=segment.language or item.language,
        words=words,
    )


def _word_pattern(language: str) -> re.Pattern[str]:
    return _CHARACTER if language in _CHARACTER_LANGUAGES else _SPACED_WORD


def _spread(item: AlignItem) -> Segment:
    """The segment with its words spread evenly over its time, without scores."""
    segment = item.segment
    texts = _word_pattern(item.language).findall(segment.text)
    length = max(0.0, segment.end - segment.start)
    times = [
        round(segment.start + length * i / max(1, len(texts)), 3) for i in range(len(texts) + 1)
    ]
    words = tuple(
        Word(text=text, start=begin, end=end)
        for text, begin, end in zip(texts, times[:-1], times[1:], strict=True)
    )
    return replace(segment, language=segment.language or item.language, words=words)
