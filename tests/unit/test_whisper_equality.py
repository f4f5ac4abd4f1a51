"""Batched equals alone, and ours equals WhisperX's pipeline, to the letter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fixtures.speech.speech import Speech
from support import WHISPER
from whisperx_api_server.backends.base import ModelSpec, Transcriber
from whisperx_api_server.backends.whisperx import load_transcriber
from whisperx_api_server.backends.whisperx.vocabulary import Vocabulary
from whisperx_api_server.domain import DecodeOptions, Task, Window

RATE = 16000
VOICES = ("en-adam", "fr-alain", "en-beth", "fr-berthe", "en-carl", "fr-claude")
PROMPT = "the red cat and nine dogs"


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, threads=1))


@pytest.fixture(scope="module")
def windows(speech: Speech) -> list[Window]:
    """Twelve windows of 3 to 9 s, both languages in turn."""
    found = []
    for index in range(12):
        voice = VOICES[index % len(VOICES)]
        audio = speech.random(voice, (3.0, 6.0, 9.0)[index % 3], seed=index).audio
        end = len(audio) / RATE
        found.append(Window(request_id="r", index=index, start=0.0, end=end, samples=audio))
    return found


def texts(
    transcriber: Transcriber, windows: list[Window], options: list[DecodeOptions]
) -> list[str]:
    found = transcriber.transcribe(windows, options, [None] * len(windows))
    return ["".join(segment.text for segment in one.segments) for one in found]


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_batched_equals_alone(
    transcriber: Transcriber, windows: list[Window], beam_size: int, prompt: str | None
) -> None:
    base = DecodeOptions(beam_size=beam_size, prompt=prompt)
    kinds = [
        replace(base, language="en"),
        replace(base, language="fr"),
        base,
        replace(base, language="fr", task="translate"),
    ]
    options = [kinds[(index // 2) % 4] for index in range(len(windows))]
    assert len({transcriber.batch_key(one) for one in options}) == 1
    together = texts(transcriber, windows, options)
    alone = [
        texts(transcriber, [window], [wanted])[0]
        for window, wanted in zip(windows, options, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > len(windows) // 2


def test_prompts_of_one_length_share_a_batch(
    transcriber: Transcriber, windows: list[Window]
) -> None:
    options = [
        DecodeOptions(prompt="cat"),
        DecodeOptions(hotwords="dog"),
        DecodeOptions(prompt="red", word_timestamps=True, logprobs=True),
    ] * 4
    assert len({transcriber.batch_key(one) for one in options}) == 1
    together = transcriber.transcribe(windows, options, [None] * len(windows))
    alone = [
        transcriber.transcribe([window], [wanted], [None])[0]
        for window, wanted in zip(windows, options, strict=True)
    ]
    for mixed, single in zip(together, alone, strict=True):
        assert [one.text for one in mixed.segments] == [one.text for one in single.segments]
        for one, same in zip(mixed.segments, single.segments, strict=True):
            assert (one.words is None) == (same.words is None)
            for word, again in zip(one.words or (), same.words or (), strict=True):
                assert word.text == again.text
                assert (word.start, word.end) == pytest.approx((again.start, again.end), abs=0.021)


@pytest.fixture(scope="module")
def vendor() -> Any:
    """WhisperX's own Whisper, on the same weights and threads."""
    asr = pytest.importorskip("whisperx.asr")
    return asr.WhisperModel(str(WHISPER), device="cpu", cpu_threads=1)


@pytest.fixture(scope="module")
def steadfast() -> Transcriber:
    """Without the temperature fallback, which WhisperX lacks."""
    return load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, threads=1), fallback=False)


@pytest.mark.filterwarnings("ignore")  # whisperx's and pyannote's own, at import
@pytest.mark.parametrize(
    "options",
    [
        DecodeOptions(),
        DecodeOptions(beam_size=1),
        DecodeOptions(prompt=PROMPT),
        DecodeOptions(hotwords="green, seven"),
        DecodeOptions(prompt=PROMPT, hotwords="green, seven"),
        DecodeOptions(suppress_numerals=True),
        DecodeOptions(task="translate"),
        DecodeOptions(task="translate", beam_size=1, prompt=PROMPT, suppress_numerals=True),
    ],
    ids=[
        "beam",
        "greedy",
        "prompt",
        "hotwords",
        "prompt and hotwords",
        "no numerals",
        "translate",
        "greedy translate, prompt, no numerals",
    ],
)
@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_text_is_whisperx_text(
    steadfast: Transcriber,
    vendor: Any,
    windows: list[Window],
    options: DecodeOptions,
    language: str,
) -> None:
    spoken = [w for w in windows if VOICES[w.index % len(VOICES)].startswith(language)]
    wanted = replace(options, language=language)
    ours = texts(steadfast, spoken, [wanted] * len(spoken))
    assert ours == whisperx_texts(vendor, spoken, wanted)
    assert all(ours)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("prompt", "hotwords"),
    [
        (None, None),
        (" short ", None),
        (None, " green, seven "),
        ("before", "words"),
        ("two white birds " * 100, None),
        (None, "two white birds " * 100),
        ("é日本 " * 50, "green"),
    ],
)
@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_the_prompt_is_faster_whispers(
    vendor: Any, prompt: str | None, hotwords: str | None, task: Task
) -> None:
    from faster_whisper.tokenizer import Tokenizer

    vocabulary = Vocabulary(WHISPER / "tokenizer.json", multilingual=True)
    options = DecodeOptions(prompt=prompt, hotwords=hotwords, task=task)
    tokenizer = Tokenizer(vendor.hf_tokenizer, True, task=task, language="fr")
    previous = tokenizer.encode(" " + prompt.strip()) if prompt else []
    expected = vendor.get_prompt(tokenizer, previous, without_timestamps=True, hotwords=hotwords)
    context = vocabulary.context(options.prompt, options.hotwords)
    assert [*context, *vocabulary.prompt(task, "fr")] == expected


def whisperx_texts(vendor: Any, windows: list[Window], options: DecodeOptions) -> list[str]:
    """What `whisperx.load_model(...).transcribe` does to windows, its voice activity left out."""
    import torch
    import whisperx.asr as asr
    import whisperx.audio as audio
    from faster_whisper.tokenizer import Tokenizer

    pipeline = asr.load_model(
        str(WHISPER),
        "cpu",
        model=vendor,
        vad_model=object(),
        asr_options={
            "beam_size": options.beam_size,
            "initial_prompt": options.prompt,
            "hotwords": options.hotwords,
        },
    )
    tokenizer = Tokenizer(vendor.hf_tokenizer, True, task=options.task, language=options.language)
    suppressed = list(pipeline.options.suppress_tokens)
    if options.suppress_numerals:
        suppressed += asr.find_numeral_symbol_tokens(tokenizer)
    mels = [
        audio.log_mel_spectrogram(w.samples, n_mels=80, padding=480_000 - len(w.samples))
        for w in windows
    ]
    found = vendor.generate_segment_batched(
        np.asarray(torch.stack(mels)),
        tokenizer,
        replace(pipeline.options, suppress_tokens=suppressed),
    )
    return list(found["text"])
