"""Features on a device: numpy's spectrogram by torch, and when it is torch that computes it."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from fixtures.speech.speech import Speech
from support import WHISPER
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.whisperx import features_torch, load_transcriber
from whisperx_api_server.backends.whisperx.features import LogMel, Mel
from whisperx_api_server.backends.whisperx.features_torch import TorchLogMel
from whisperx_api_server.domain import DecodeOptions, Samples, Window
from whisperx_api_server.errors import InsufficientMemory, TranscriptionFailed

torch = pytest.importorskip("torch")

RATE = 16_000
TOLERANCE = 1e-4
DEVICES = ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu"]


def spoken(speech: Speech, samples: int) -> Samples:
    return speech.random("en-adam", samples / RATE + 20, seed=1).audio[:samples]


def a_window(speech: Speech) -> Window:
    audio = spoken(speech, 6 * RATE)
    return Window(request_id="r", index=0, start=0.0, end=6.0, samples=audio)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_mels", [80, 128])
def test_it_is_numpys_spectrogram(speech: Speech, n_mels: int, device: str) -> None:
    here, there = LogMel(n_mels), TorchLogMel(n_mels, device)
    for samples in (0, 1600, 11 * RATE, 30 * RATE - 100, 30 * RATE, 31 * RATE):
        audio = spoken(speech, samples)
        assert len(audio) == samples
        mel = there(audio)
        assert mel.dtype == np.float32
        assert mel.shape == (n_mels, 3000)
        np.testing.assert_allclose(mel, here(audio), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("device", DEVICES)
def test_it_reads_a_recordings_memory_map(tmp_path: Path, speech: Speech, device: str) -> None:
    spoken(speech, 40 * RATE).tofile(tmp_path / "audio.f32")
    mapped = np.memmap(tmp_path / "audio.f32", dtype=np.float32, mode="r")
    part = mapped[5 * RATE : 12 * RATE]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mel = TorchLogMel(80, device)(part)
    np.testing.assert_allclose(mel, LogMel(80)(part), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("device", DEVICES)
def test_two_threads_get_their_own(speech: Speech, device: str) -> None:
    log_mel, together = TorchLogMel(80, device), Barrier(2)
    clips = [spoken(speech, 4 * RATE), spoken(speech, 9 * RATE)[::-1].copy()]
    alone = [log_mel(clip) for clip in clips]

    def compute(clip: Samples) -> list[Mel]:
        together.wait(timeout=60)
        return [log_mel(clip) for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        for expected, found in zip(alone, pool.map(compute, clips), strict=True):
            for mel in found:
                np.testing.assert_array_equal(mel, expected)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two CUDA devices that are the CPU; what it holds are those that features were made for."""
    import ctranslate2

    whisper = ctranslate2.models.Whisper
    used: list[str] = []

    def load(path: str, **options: Any) -> Any:
        return whisper(path, **options | {"device": "cpu", "device_index": 0})

    def on_the_cpu(n_mels: int, device: str) -> TorchLogMel:
        used.append(device)
        return TorchLogMel(n_mels, "cpu")

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    monkeypatch.setattr(ctranslate2.models, "Whisper", load)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(features_torch, "TorchLogMel", on_the_cpu)
    return used


ON_CUDA = ModelSpec(name=WHISPER.name, path=WHISPER, device="cuda", device_index=1, threads=1)


def test_a_gpus_features_are_computed_on_that_gpu(cuda: list[str], speech: Speech) -> None:
    window, options = a_window(speech), DecodeOptions()
    on_gpu = load_transcriber(ON_CUDA)
    assert cuda == ["cuda:1"]
    on_cpu = load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, threads=1))
    assert cuda == ["cuda:1"]
    [expected] = on_cpu.transcribe([window], [options], [on_cpu.features(window)])
    [found] = on_gpu.transcribe([window], [options], [on_gpu.features(window)])
    assert [one.text for one in found.segments] == [one.text for one in expected.segments] != []


@pytest.mark.parametrize("lacking", ["torch", "its CUDA"])
def test_without_torch_for_the_gpu_numpy_computes_them(
    cuda: list[str], monkeypatch: pytest.MonkeyPatch, speech: Speech, lacking: str
) -> None:
    if lacking == "torch":
        monkeypatch.setitem(sys.modules, "torch", None)
    else:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    transcriber, window = load_transcriber(ON_CUDA), a_window(speech)
    assert cuda == []
    np.testing.assert_array_equal(transcriber.features(window), LogMel(80)(window.samples))


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_a_gpu_too_old_for_torch_is_served_with_numpys(
    cuda: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    speech: Speech,
) -> None:
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device")
    monkeypatch.setattr(features_torch, "TorchLogMel", failing(error))
    with caplog.at_level(logging.WARNING):
        transcriber, window = load_transcriber(ON_CUDA), a_window(speech)
    assert "features are computed on the CPU" in caplog.text
    np.testing.assert_array_equal(transcriber.features(window), LogMel(80)(window.samples))


def test_a_gpu_that_is_full_at_loading_is_said(
    cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    monkeypatch.setattr(features_torch, "TorchLogMel", failing(error))
    with pytest.raises(InsufficientMemory, match="'whisper'"):
        load_transcriber(ON_CUDA)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 MiB."),
            InsufficientMemory,
        ),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), InsufficientMemory),
        (RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"), TranscriptionFailed),
    ],
)
def test_a_failure_ahead_is_ours_and_the_window_can_be_tried_again(
    cuda: list[str],
    monkeypatch: pytest.MonkeyPatch,
    speech: Speech,
    error: Exception,
    ours: type[Exception],
) -> None:
    transcriber, window = load_transcriber(ON_CUDA), a_window(speech)
    with monkeypatch.context() as broken:
        broken.setattr(TorchLogMel, "__call__", failing(error))
        with pytest.raises(ours) as caught:
            transcriber.features(window)
        assert caught.value.__cause__ is error
        with pytest.raises(ours):
            transcriber.transcribe([window], [DecodeOptions()], [None])
    [found] = transcriber.transcribe([window], [DecodeOptions()], [None])
    assert found.segments
