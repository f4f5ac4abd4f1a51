"""Many short clips at once: beside a peer's way, and beside the bare engine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import BUILD, Row, clip, server, wav
from .speed_model import speed_model

CLIPS = 24
AT_A_TIME = 12
SECONDS = 11
ROUNDS = 3
PEER_CLIPS = 8
LATENCY_ROUNDS = 9


def run() -> list[Row]:
    """The rows of throughput and of latency."""
    model = speed_model("base", BUILD / "speed-base")
    clips = [clip(SECONDS, seed) for seed in range(CLIPS)]
    engine = BareEngine(model, clips)
    peer = Peer(model)
    ours, bare, theirs, ours_latency, bare_latency = [], [], [], [], []
    with server(model, WHISPER__BATCH_SIZE=str(AT_A_TIME)) as running:
        uploads = [wav(samples) for samples in clips]

        def send(upload: bytes) -> None:
            running.transcribe(upload, language="en", response_format="text").raise_for_status()

        def send_all() -> None:
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                list(pool.map(send, uploads))

        # Side by side, so that all sides see the same machine.
        for _ in range(ROUNDS):
            ours.append(_seconds(send_all) / CLIPS)
            bare.append(_seconds(partial(engine.all_in_batches, AT_A_TIME)) / CLIPS)
            theirs.append(_seconds(partial(peer.one_by_one, clips[:PEER_CLIPS])) / PEER_CLIPS)
        for number in range(LATENCY_ROUNDS):
            ours_latency.append(_seconds(partial(send, uploads[number % CLIPS])))
            bare_latency.append(_seconds(partial(engine.one, number % CLIPS)))
    rate, engine_rate = 1 / statistics.median(ours), 1 / statistics.median(bare)
    peer_rate = 1 / statistics.median(theirs)
    latency, engine_latency = statistics.median(ours_latency), statistics.median(bare_latency)
    return [
        Row(
            name="24 clips of 11 s, 12 at a time, vs WhisperX one by one with pyannote VAD",
            ours=rate,
            other=peer_rate,
            ratio=rate / peer_rate,
            target=3.0,
            better="higher",
            unit="clip/s",
        ),
        Row(
            name="24 clips of 11 s, 12 at a time, vs the bare engine in full batches",
            ours=rate,
            other=engine_rate,
            ratio=rate / engine_rate,
            target=0.9,
            better="higher",
            unit="clip/s",
        ),
        Row(
            name="one clip of 11 s vs the bare engine with batch 1",
            ours=latency,
            other=engine_latency,
            ratio=latency / engine_latency,
            target=1.15,
            better="lower",
            unit="s",
        ),
    ]


class BareEngine:
    """`ctranslate2.models.Whisper.generate` and nothing else; features are ready before."""

    def __init__(self, model: Path, clips: list[NDArray[np.float32]]) -> None:
        import ctranslate2

        from whisperx_api_server.backends.vendors import usable_cores
        from whisperx_api_server.backends.whisperx.features import LogMel

        self._ctranslate2: Any = ctranslate2
        self._model = ctranslate2.models.Whisper(
            str(model), compute_type="int8", intra_threads=usable_cores()
        )
        log_mel = LogMel(self._model.n_mels)
        self._features = [log_mel(samples) for samples in clips]
        self.one(0)

    def all_in_batches(self, size: int) -> None:
        """Everything, in full batches."""
        for first in range(0, len(self._features), size):
            self._generate(self._features[first : first + size])

    def one(self, index: int) -> None:
        """One clip, with batch 1."""
        self._generate(self._features[index : index + 1])

    def _generate(self, features: list[NDArray[np.float32]]) -> None:
        batch = self._ctranslate2.StorageView.from_array(np.stack(features))
        prompt = [50258, 50259, 50359, 50363]  # startoftranscript, en, transcribe, notimestamps
        self._model.generate(
            batch,
            [prompt] * len(features),
            beam_size=5,
            max_length=448,
            return_scores=True,
            return_no_speech_prob=True,
        )


class Peer:
    """WhisperX's own pipeline, as a server without batches calls it."""

    def __init__(self, model: Path, *, device: str = "cpu", compute_type: str = "int8") -> None:
        import whisperx

        self._pipeline: Any = whisperx.load_model(
            str(model),
            device=device,
            compute_type=compute_type,
            vad_method="pyannote",
            language="en",
            asr_options={"suppress_numerals": True},
        )

    def one_by_one(self, clips: list[NDArray[np.float32]]) -> None:
        """Each clip by itself, batch 1, pyannote voice activity."""
        for samples in clips:
            self._pipeline.transcribe(samples, batch_size=1)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
