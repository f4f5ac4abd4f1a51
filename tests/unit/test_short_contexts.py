"""Short contexts: same texts and times, doubtful ones in full, models that need all 30 s."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fixtures.speech.speech import Speech
from support import WHISPER
from whisperx_api_server.backends.base import (
    ContextStats,
    ModelSpec,
    ShortContexts,
    Transcriber,
)
from whisperx_api_server.backends.whisperx import load_transcriber
from whisperx_api_server.backends.whisperx.contexts import (
    MIN_WINDOWS,
    MIN_WINDOWS_FOR_COST,
    Contexts,
)
from whisperx_api_server.backends.whisperx.features import N_FRAMES
from whisperx_api_server.backends.whisperx.transcriber import WhisperTranscriber
from whisperx_api_server.backends.whisperx.vocabulary import Vocabulary
from whisperx_api_server.config import load_settings
from whisperx_api_server.domain import DecodeOptions, Window, WindowTranscript, Word
from whisperx_api_server.wiring import build_catalog

RATE = 16000
VOICES = ("en-adam", "fr-alain", "en-beth", "fr-berthe", "en-carl", "fr-claude")
ENGLISH = DecodeOptions(language="en")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(WHISPER / "tokenizer.json", multilingual=True)


def loaded(*, short: bool) -> Transcriber:
    return load_transcriber(
        ModelSpec(name=WHISPER.name, path=WHISPER, threads=1, short_contexts=short)
    )


def window_of(samples: np.ndarray, index: int = 0) -> Window:
    end = len(samples) / RATE
    return Window(request_id="r", index=index, start=0.0, end=end, samples=samples)


def test_a_short_context_gives_the_words_and_times_of_the_full_one(speech: Speech) -> None:
    windows = [
        window_of(speech.random(VOICES[index % 6], (3.0, 6.0, 9.0)[index % 3], seed=index).audio)
        for index in range(12)
    ]
    options = [DecodeOptions(word_timestamps=True)] * len(windows)
    short, full = (
        loaded(short=each).transcribe(windows, options, [None] * len(windows))
        for each in (True, False)
    )
    assert [one.language for one in short] == [one.language for one in full]
    texts = [(text_of(one), text_of(other)) for one, other in zip(short, full, strict=True)]
    assert sum(one == other for one, other in texts) >= len(texts) - 1
    assert all(one for one, _ in texts)
    moved = [
        abs(word.start - same.start)
        for one, other in zip(short, full, strict=True)
        if text_of(one) == text_of(other)
        for word, same in zip(words_of(one), words_of(other), strict=True)
    ]
    assert np.quantile(moved, 0.9) <= 0.04
    assert all(
        word.end <= window.end
        for window, one in zip(windows, short, strict=True)
        for word in words_of(one)
    )


def test_a_text_does_not_depend_on_the_lengths_of_other_windows(speech: Speech) -> None:
    transcriber = loaded(short=True)
    lengths = (2.0, 9.0, 3.0, 20.0)
    windows = [
        window_of(speech.random("en-adam", seconds, seed=seed).audio)
        for seed, seconds in enumerate(lengths)
    ]
    together = transcriber.transcribe(windows, [ENGLISH] * 4, [None] * 4)
    alone = [transcriber.transcribe([each], [ENGLISH], [None])[0] for each in windows]
    assert [text_of(one) for one in together] == [text_of(one) for one in alone]


def text_of(transcript: WindowTranscript) -> str:
    return "".join(segment.text for segment in transcript.segments)


def words_of(transcript: WindowTranscript) -> list[Word]:
    return [word for segment in transcript.segments for word in segment.words or ()]


class ScriptedModel:
    """A CTranslate2 model with one text for short contexts and one for the full one.

    `contexts` are the frames of each `generate`, and `encoded` those of each `encode`, in order.
    """

    is_multilingual = True
    device = "cpu"
    n_mels = 80

    def __init__(
        self, vocabulary: Vocabulary, *, short: tuple[float, str], full: tuple[float, str]
    ) -> None:
        self._vocabulary = vocabulary
        self._short = short
        self._full = full
        self.contexts: list[int] = []
        self.encoded: list[int] = []

    def encode(self, storage: Any) -> Any:
        features = np.asarray(storage)
        self.encoded.append(features.shape[-1])
        return features[:, :, ::2].transpose(0, 2, 1)

    def generate(self, encoded: Any, prompts: Sequence[list[int]], **_: Any) -> list[Any]:
        frames = 2 * np.asarray(encoded).shape[1]
        self.contexts.append(frames)
        full = frames == N_FRAMES
        return [self._result(*(self._full if full else self._short)) for _ in prompts]

    def detect_language(self, encoded: Any) -> list[list[tuple[str, float]]]:
        full = 2 * np.asarray(encoded).shape[1] == N_FRAMES
        first, second = ("en", "ms") if full else ("ms", "en")
        return [[(f"<|{first}|>", 0.4), (f"<|{second}|>", 0.3), ("<|fr|>", 0.3)]]

    def _result(self, logprob: float, text: str) -> Any:
        tokens = self._vocabulary.encode(text)
        return SimpleNamespace(sequences_ids=[tokens], scores=[logprob], no_speech_prob=0.0)


SAID = "open the red door at nine and wait for the dog to come"
SURE = (-0.2, SAID)
TWICE = (-0.3, f"{SAID}. {SAID}")
UNLIKELY = (-1.5, "opera hated or at nine anna wade")


def scripted(
    vocabulary: Vocabulary, short: tuple[float, str], full: tuple[float, str] = SURE
) -> tuple[ScriptedModel, Callable[[float], WindowTranscript], WhisperTranscriber]:
    """A model, a function that transcribes so many seconds with it, and its transcriber."""
    model = ScriptedModel(vocabulary, short=short, full=full)
    transcriber = WhisperTranscriber(
        model, vocabulary, contexts=Contexts("tiny", short=True), fallback=False
    )

    def transcribe(seconds: float) -> WindowTranscript:
        window = window_of(np.full(round(seconds * RATE), 0.1, np.float32))
        return transcriber.transcribe([window], [ENGLISH], [None])[0]

    return model, transcribe, transcriber


@pytest.mark.parametrize(
    ("seconds", "context"), [(0.5, 12), (2, 12), (2.1, 16), (6, 16), (18, 28), (18.1, 30), (30, 30)]
)
def test_a_context_holds_the_speech_and_ten_seconds(
    vocabulary: Vocabulary, seconds: float, context: float
) -> None:
    model, transcribe, _ = scripted(vocabulary, SURE)
    assert text_of(transcribe(seconds)).strip() == SAID
    assert model.contexts == [context * 100]


def test_the_encoder_gets_6_s_of_that_silence_and_30_s_of_it_once(vocabulary: Vocabulary) -> None:
    model, transcribe, _ = scripted(vocabulary, SURE)
    transcribe(5)
    transcribe(16)
    assert model.encoded == [1100, N_FRAMES, 2200]


@pytest.mark.parametrize(
    "short",
    [
        TWICE,
        UNLIKELY,
        (-0.3, "the red door " * 20),
        (-0.3, "开门等狗来。开门等狗来。"),
        (-0.3, f"{SAID}. {SAID[:20]}"),
    ],
    ids=["twice", "unlikely", "loop", "twice in Chinese", "begun again"],
)
def test_a_doubtful_text_is_decoded_again_in_the_full_context(
    vocabulary: Vocabulary, short: tuple[float, str]
) -> None:
    model, transcribe, transcriber = scripted(vocabulary, short)
    assert text_of(transcribe(5)).strip() == SAID
    assert model.contexts == [1600, N_FRAMES]
    assert transcriber.context_stats == ContextStats(short=True, windows=1, repeated=1)


def test_an_unclear_language_is_detected_again_in_the_full_context(vocabulary: Vocabulary) -> None:
    model, _, transcriber = scripted(vocabulary, SURE)
    window = window_of(np.full(5 * RATE, 0.1, np.float32))
    [heard] = transcriber.transcribe([window], [DecodeOptions()], [None])
    assert heard.language == "en"
    assert model.contexts == [1600, N_FRAMES]


@pytest.mark.parametrize(("short", "text"), [(SURE, SAID), (TWICE, ""), (UNLIKELY, "")])
def test_a_draft_is_decoded_once_with_less_silence(
    vocabulary: Vocabulary, short: tuple[float, str], text: str
) -> None:
    """A doubtful one is left out."""
    model, _, transcriber = scripted(vocabulary, short)
    window = window_of(np.full(5 * RATE, 0.1, np.float32))
    [draft] = transcriber.transcribe([window], [replace(ENGLISH, draft=True)], [None])
    assert text_of(draft).strip() == text
    assert model.contexts == [1200]
    assert transcriber.context_stats.windows == 0


def test_a_model_that_often_needs_the_full_context_always_gets_it(
    vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    model, transcribe, transcriber = scripted(vocabulary, TWICE)
    with caplog.at_level(logging.WARNING):
        for _ in range(MIN_WINDOWS):
            transcribe(5)
        model.contexts.clear()
        for _ in range(3):
            assert text_of(transcribe(5)).strip() == SAID
    assert model.contexts == [N_FRAMES] * 3
    assert transcriber.context_stats == ContextStats(
        short=False, windows=MIN_WINDOWS, repeated=MIN_WINDOWS
    )
    [message] = caplog.messages
    assert "tiny gets the full context" in message


def test_a_model_that_is_doubtful_in_any_context_gets_the_full_one_once_that_is_cheaper(
    vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    model, transcribe, transcriber = scripted(vocabulary, UNLIKELY, full=UNLIKELY)
    for _ in range(MIN_WINDOWS_FOR_COST - 1):
        transcribe(5)
    assert transcriber.context_stats.short
    transcribe(5)
    assert transcriber.context_stats == ContextStats(
        short=False, windows=MIN_WINDOWS_FOR_COST, repeated=MIN_WINDOWS_FOR_COST
    )
    model.contexts.clear()
    transcribe(5)
    assert model.contexts == [N_FRAMES]
    [message] = caplog.messages
    assert "of 100 windows with a short one, 100 were decoded again" in message


@pytest.mark.parametrize(("context", "short"), [("auto", True), ("full", False)])
def test_the_setting_decides_which_contexts_a_model_gets(
    context: str, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "WHISPER__CONTEXT": context,
        "WHISPER__MODEL": str(WHISPER),
        "WHISPER__INFERENCE_DEVICE": "cpu",
        "WHISPER__CPU_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    spec = build_catalog(settings).transcriber("whisperx").spec
    transcriber = load_transcriber(spec)
    assert isinstance(transcriber, ShortContexts)
    assert transcriber.context_stats == ContextStats(short=short, windows=0, repeated=0)
