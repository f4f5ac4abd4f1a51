"""The fake backend understands what `say` writes, and shows what each option did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from support import diarize
from whisperx_api_server.backends import fake
from whisperx_api_server.backends.base import AlignItem, ModelSpec
from whisperx_api_server.backends.fake import VOCABULARY, say, silence
from whisperx_api_server.domain import (
    AudioClip,
    DecodeOptions,
    DiarizeOptions,
    Samples,
    VadOptions,
    Window,
    WindowTranscript,
)

RATE = 16_000
SPEC = ModelSpec(name="fake")


def clip(*pieces: Samples) -> AudioClip:
    return AudioClip(samples=np.concatenate(pieces), sample_rate=RATE)


def window(*pieces: Samples, start: float = 0.0) -> Window:
    samples = np.concatenate(pieces)
    end = start + len(samples) / RATE
    return Window(request_id="r", index=2, start=start, end=end, samples=samples)


def transcribe(heard: Window, options: DecodeOptions | None = None) -> WindowTranscript:
    model = fake.load_transcriber(SPEC)
    (answer,) = model.transcribe([heard], [options or DecodeOptions()], [None])
    assert [answer] == model.transcribe(
        [heard], [options or DecodeOptions()], [model.features(heard)]
    )
    return answer


def text(answer: WindowTranscript) -> str:
    return " ".join(segment.text for segment in answer.segments)


@pytest.mark.parametrize("language", sorted(VOCABULARY))
@pytest.mark.parametrize("speaker", range(fake.SPEAKERS))
def test_every_word_is_understood(language: str, speaker: int) -> None:
    said = " ".join(VOCABULARY[language])
    answer = transcribe(window(say(said, language=language, speaker=speaker)))
    assert (answer.language, text(answer)) == (language, f"{said}.")


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_times_are_exact(noise: float) -> None:
    samples = np.concatenate([silence(0.5), say("red door"), silence(0.9), say("tree")])
    samples += np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32) * noise
    answer = transcribe(window(samples, start=10.0), DecodeOptions(word_timestamps=True))
    (segment,) = answer.segments
    assert [(w.text, round(w.start, 2), round(w.end, 2)) for w in segment.words or ()] == [
        ("red", 10.5, 10.7),
        ("door.", 10.8, 11.0),
        ("tree.", 12.0, 12.2),
    ]
    assert (segment.start, segment.end) == pytest.approx((10.5, 12.2))


def test_options_can_be_seen_in_the_answer() -> None:
    french = window(say("ouvre porte rouge", language="fr"))
    assert text(transcribe(french)) == "ouvre porte rouge."
    assert text(transcribe(french, DecodeOptions(task="translate"))) == "open door red."
    assert text(transcribe(french, DecodeOptions(language="de"))) == "öffne tür rot."
    assert transcribe(french, DecodeOptions(languages=("en", "it"))).language == "en"
    assert text(transcribe(french, DecodeOptions(prompt="La Porte"))) == "ouvre Porte rouge."
    assert text(transcribe(french, DecodeOptions(hotwords="Rouge"))) == "ouvre porte Rouge."

    (plain,) = transcribe(french).segments
    assert (plain.words, plain.logprobs, plain.temperature) == (None, (), 0.0)
    (full,) = transcribe(french, DecodeOptions(logprobs=True, temperature=0.4)).segments
    assert full.temperature == 0.4
    assert "".join(token.token for token in full.logprobs).strip() == full.text


def test_silence_has_no_segment() -> None:
    assert transcribe(window(silence(1.0))).segments == ()


def test_alignment_finds_words() -> None:
    heard = window(say("red door"), silence(0.6), say("bring water"), start=5.0)
    (segment,) = transcribe(heard).segments
    item = AlignItem(segment=segment, samples=heard.samples, offset=5.0, language="en")
    other = replace(item, segment=replace(segment, text="something else"))
    aligned, even = fake.load_aligner(SPEC).align([item, other])

    assert aligned.text == "red door. bring water."
    starts = [word.start for word in aligned.words or ()]
    assert starts == pytest.approx([5.0, 5.3, 6.2, 6.5])
    assert [(word.text, word.score) for word in even.words or ()] == [
        ("something", None),
        ("else", None),
    ]
    assert (even.start, even.end) == (segment.start, segment.end)


def test_align_models() -> None:
    assert fake.align_model("fr") == "fake-fr"
    assert fake.align_model("it") is None


def test_speakers() -> None:
    spoken = clip(say("red door", speaker=5), say("blue", speaker=1), say("tree", speaker=5))
    diarizer = fake.load_diarizer(SPEC)
    found = diarize(diarizer, spoken, DiarizeOptions(embeddings=True))
    assert [(round(t.start, 2), round(t.end, 2), t.speaker) for t in found.turns] == [
        (0.0, 0.5, "SPEAKER_00"),
        (0.6, 0.8, "SPEAKER_01"),
        (0.9, 1.1, "SPEAKER_00"),
    ]
    assert diarizer.embed([clip(say("white", speaker=1)), clip(silence(1))]) == [
        found.embeddings["SPEAKER_01"],
        None,
    ]
    alone = diarize(diarizer, spoken, DiarizeOptions(max_speakers=1))
    assert [(turn.speaker, alone.embeddings) for turn in alone.turns] == [("SPEAKER_00", {})]


def test_voice_activity() -> None:
    spoken = np.concatenate(
        [silence(1), say("red door"), silence(1), say("tree"), silence(27), say("day " * 30)]
    )
    detector = fake.load_voice_detector(SPEC)

    def regions(options: VadOptions, size: int = 16_000) -> list[tuple[float, float]]:
        detection = detector.start(options)
        pushes = [spoken[first : first + size] for first in range(0, len(spoken), size)]
        blocks = [*map(detection.push, pushes), detection.finish()]
        return [(round(r.start, 2), round(r.end, 2)) for block in blocks for r in block]

    assert regions(VadOptions()) == [(1.0, 1.5), (2.6, 2.8), (29.9, 38.8)]
    assert regions(VadOptions(), size=123) == regions(VadOptions())
    assert regions(VadOptions(silence_duration_ms=2000))[0] == (1.0, 2.8)
    assert regions(VadOptions(prefix_padding_ms=100))[0] == (0.9, 1.6)
    assert regions(VadOptions(threshold=0.9)) == []
    assert detector.start(VadOptions()).finish() == []
