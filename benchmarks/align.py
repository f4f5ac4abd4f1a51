"""Aligning 30 minutes of segments: ours and whisperx.align, the model's own time excluded.

    python benchmarks/align.py

Both sides align the same true texts of synthesized speech with the tests' tiny model, on the CPU,
with one thread; they must find the same words, at most 20 ms apart.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
SEGMENT_SECONDS = 29
MINUTES = 30
SPEAKERS = ("en-adam", "en-beth", "en-carl", "fr-alain", "fr-berthe", "fr-claude")


class Stopwatch:
    """Adds up the time inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def run(minutes: float = MINUTES) -> dict[str, float]:
    """Seconds besides the model for each side, their ratio, and how far apart the times are.

    Raises:
        ValueError: the two sides do not find the same words.
    """
    warnings.simplefilter("ignore")  # whisperx, pandas and torchaudio warn while they are imported
    sys.path.insert(0, str(TESTS))
    import torch

    from fixtures.speech.speech import Speech
    from whisperx_api_server.backends.base import AlignItem
    from whisperx_api_server.domain import Segment

    torch.set_num_threads(1)
    speech = Speech(TESTS / "fixtures" / "speech")
    items = []
    for seed in range(round(minutes * 60 / SEGMENT_SECONDS)):
        spoken = speech.random(SPEAKERS[seed % len(SPEAKERS)], SEGMENT_SECONDS, seed=seed)
        segment = Segment(start=0.0, end=len(spoken.audio) / 16000, text=spoken.text)
        items.append(
            AlignItem(segment=segment, samples=spoken.audio, offset=0.0, language=spoken.language)
        )
    ours_seconds, ours = _ours(items)
    theirs_seconds, theirs = _theirs(items)
    if [word for word, *_ in ours] != [word for word, *_ in theirs]:
        raise ValueError("the two sides do not find the same words")
    apart = max(max(abs(a[1] - b[1]), abs(a[2] - b[2])) for a, b in zip(ours, theirs, strict=True))
    return {
        "audio_seconds": sum(item.segment.end for item in items),
        "words": len(ours),
        "ours": ours_seconds,
        "other": theirs_seconds,
        "ratio": theirs_seconds / ours_seconds,
        "largest_difference": apart,
    }


def _ours(items: list[Any]) -> tuple[float, list[tuple[str, float, float]]]:
    from whisperx_api_server.backends.base import ModelSpec
    from whisperx_api_server.backends.whisperx.align_models import load_ctc_model
    from whisperx_api_server.backends.whisperx.aligner import CtcAligner

    model = load_ctc_model(ModelSpec(name=str(TESTS / "fixtures/models/aligner"), threads=1))
    watch = Stopwatch()
    timed = replace(model, features=watch.around(model.features), logits=watch.around(model.logits))
    aligner = CtcAligner(timed)
    aligner.align(items[:1])
    watch.seconds = 0.0
    start = time.perf_counter()
    aligned = aligner.align(items)
    seconds = time.perf_counter() - start - watch.seconds
    return seconds, [
        (word.text, word.start, word.end) for segment in aligned for word in segment.words or ()
    ]


def _theirs(items: list[Any]) -> tuple[float, list[tuple[str, float, float]]]:
    import whisperx.alignment

    whisperx.alignment.nltk.data.path.insert(0, str(TESTS / "fixtures/nltk_data"))
    model, metadata = whisperx.alignment.load_align_model(
        "en", "cpu", str(TESTS / "fixtures/models/aligner")
    )
    watch = Stopwatch()
    forward = watch.around(model)

    def align(item: Any) -> list[Any]:
        segment = {"start": 0.0, "end": item.segment.end, "text": item.segment.text}
        known = {**metadata, "language": item.language}
        words: list[Any] = whisperx.alignment.align([segment], forward, known, item.samples, "cpu")[
            "word_segments"
        ]
        return words

    align(items[0])
    watch.seconds = 0.0
    start = time.perf_counter()
    aligned = [word for item in items for word in align(item)]
    seconds = time.perf_counter() - start - watch.seconds
    return seconds, [(word["word"], word["start"], word["end"]) for word in aligned]


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
