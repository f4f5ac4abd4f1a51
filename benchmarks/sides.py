"""What is compared: this server, faster-whisper, WhisperX, and the bare engine."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .common import Row, cpu_seconds, wav
from .spoken import Spoken, error_rate


class Side(Protocol):
    """Hears clips, and tells the CPU seconds that it has used so far."""

    def texts(self, clips: Sequence[Spoken], /) -> list[str]: ...

    def cpu_seconds(self) -> float: ...


class Ours:
    """The server, `at_a_time` requests at once; its CPU seconds include those of ffmpeg."""

    def __init__(self, running: Any, *, at_a_time: int = 1) -> None:
        self._running = running
        self._at_a_time = at_a_time

    def texts(self, clips: Sequence[Spoken]) -> list[str]:
        with ThreadPoolExecutor(self._at_a_time) as pool:
            return list(pool.map(self._text, clips))

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._running.process.pid)

    def _text(self, clip: Spoken) -> str:
        fields = {"language": clip.language, "response_format": "text"}
        answer = self._running.http.post(
            "/v1/audio/transcriptions",
            files={"file": ("audio.wav", wav(clip.samples))},
            data=fields | {"suppress_numerals": "false"},
            timeout=None,
        )
        return str(answer.raise_for_status().text)


class _InThisProcess:
    """An engine in the process of the benchmark; hears one clip after the other."""

    def texts(self, clips: Sequence[Spoken]) -> list[str]:
        return [self._text(clip) for clip in clips]

    def cpu_seconds(self) -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def _text(self, clip: Spoken) -> str:
        raise NotImplementedError


class FasterWhisper(_InThisProcess):
    """faster-whisper; `batch_size` selects its `BatchedInferencePipeline`."""

    def __init__(self, model: Path, *, batch_size: int | None = None) -> None:
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        whisper: Any = WhisperModel(
            str(model), device="cpu", compute_type="int8", cpu_threads=_cores()
        )
        self._transcribe: Callable[..., Any] = whisper.transcribe
        if batch_size:
            pipeline = BatchedInferencePipeline(whisper)
            self._transcribe = partial(pipeline.transcribe, batch_size=batch_size)

    def _text(self, clip: Spoken) -> str:
        segments, _ = self._transcribe(clip.samples, beam_size=5, language=clip.language)
        return " ".join(segment.text for segment in segments)


class WhisperX(_InThisProcess):
    """WhisperX as a server without batches calls it: batch 1, pyannote voice activity detection."""

    def __init__(self, model: Path, *, device: str = "cpu", compute_type: str = "int8") -> None:
        import whisperx

        self._pipeline: Any = whisperx.load_model(
            str(model),
            device=device,
            compute_type=compute_type,
            vad_method="pyannote",
            language="en",
            threads=_cores(),
        )

    def _text(self, clip: Spoken) -> str:
        found = self._pipeline.transcribe(clip.samples, batch_size=1, language=clip.language)
        return " ".join(segment["text"] for segment in found["segments"])


class BareEngine(_InThisProcess):
    """One `ctranslate2.models.Whisper.generate` for each full batch of English clips, no more.

    The features of `clips` are computed before, and have the context that the server gives them.
    """

    def __init__(self, model: Path, clips: Sequence[Spoken], *, batch_size: int = 1) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        from whisperx_api_server.backends.whisperx.contexts import Contexts
        from whisperx_api_server.backends.whisperx.features import LogMel
        from whisperx_api_server.domain import Window

        self._storage: Any = ctranslate2.StorageView
        self._model: Any = ctranslate2.models.Whisper(
            str(model), compute_type="int8", intra_threads=_cores()
        )
        self._tokenizer: Any = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._batch_size = batch_size
        windows = [
            Window(request_id="", index=index, start=0.0, end=clip.seconds, samples=clip.samples)
            for index, clip in enumerate(clips)
        ]
        frames = max(Contexts("", short=True).groups(windows))
        log_mel = LogMel(self._model.n_mels)
        self._features = {clip: log_mel(clip.samples)[:, :frames] for clip in clips}

    def texts(self, clips: Sequence[Spoken]) -> list[str]:
        size = self._batch_size
        return [
            text
            for first in range(0, len(clips), size)
            for text in self._batch([self._features[clip] for clip in clips[first : first + size]])
        ]

    def _batch(self, features: Sequence[NDArray[np.float32]]) -> list[str]:
        prompt = [50258, 50259, 50359, 50363]  # startoftranscript, en, transcribe, notimestamps
        found = self._model.generate(
            self._storage.from_array(np.stack(features)),
            [prompt] * len(features),
            beam_size=5,
            max_length=448,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [str(self._tokenizer.decode(each.sequences_ids[0])) for each in found]


def compare(
    name: str,
    ours: Side,
    other: Side,
    clips: Sequence[Spoken],
    *,
    target: float,
    turn: int | None = None,
    other_clips: int | None = None,
    margin: float = 0.3,
) -> Row:
    """Compare the speed and the word errors of both sides.

    They take turns with `turn` clips each, None for all, so that both see the same machine. The
    other side hears the first `other_clips` of each turn only; None for all.
    """
    turn = turn or len(clips)
    runs = [_Measured(ours, None), _Measured(other, other_clips)]
    for first in range(0, len(clips), turn):
        for run in runs:
            run.hear(clips[first : first + turn])
    mine, theirs = runs
    rates = mine.audio / mine.seconds, theirs.audio / theirs.seconds
    wrong, other_wrong = error_rate(mine.heard), error_rate(theirs.heard)
    return Row(
        name=name,
        ours=rates[0],
        other=rates[1],
        ratio=rates[0] / rates[1],
        target=target,
        better="higher",
        unit="s of audio/s",
        cpu_ratio=(theirs.cpu / theirs.audio) / (mine.cpu / mine.audio),
        errors=None if wrong is None or other_wrong is None else (wrong, other_wrong),
        margin=margin,
    )


class _Measured:
    """The seconds, CPU seconds and texts of one side; it hears `most` clips of each turn."""

    def __init__(self, side: Side, most: int | None) -> None:
        self._side = side
        self._most = most
        self.seconds = self.cpu = self.audio = 0.0
        self.heard: list[tuple[Spoken, str]] = []

    def hear(self, clips: Sequence[Spoken]) -> None:
        clips = clips[: self._most]
        cpu, begun = self._side.cpu_seconds(), time.perf_counter()
        texts = self._side.texts(clips)
        self.seconds += time.perf_counter() - begun
        self.cpu += self._side.cpu_seconds() - cpu
        self.audio += sum(clip.seconds for clip in clips)
        self.heard += zip(clips, texts, strict=True)


def _cores() -> int:
    from whisperx_api_server.backends.vendors import usable_cores

    return usable_cores()
