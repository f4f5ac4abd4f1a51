"""The Whisper transcriber on the fixture model: texts, languages, words, fallback, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fixtures.speech.speech import Speech
from support import WHISPER
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.backends.base import Transcriber as TranscriberProtocol
from whisperx_api_server.backends.whisperx import engine_info, load_transcriber
from whisperx_api_server.backends.whisperx.contexts import Contexts
from whisperx_api_server.backends.whisperx.decoding import Decoding, best
from whisperx_api_server.backends.whisperx.encoding import EncodedBatch
from whisperx_api_server.backends.whisperx.features import LogMel
from whisperx_api_server.backends.whisperx.search import BeamSearch, Row
from whisperx_api_server.backends.whisperx.spelling import NumeralSpeller
from whisperx_api_server.backends.whisperx.timing import unheard_parts
from whisperx_api_server.backends.whisperx.transcriber import WhisperTranscriber
from whisperx_api_server.backends.whisperx.vocabulary import MAX_CONTEXT, Vocabulary
from whisperx_api_server.backends.whisperx.words import logprobs_of, words_of
from whisperx_api_server.domain import DecodeOptions, SpeechRegion, Window, WindowTranscript, Word
from whisperx_api_server.errors import (
    InsufficientMemory,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    NotInstalled,
    TranscriptionFailed,
)

RATE = 16000
FULL = Contexts("whisper", short=False)
Run = Callable[..., list[WindowTranscript]]


@pytest.fixture(scope="module")
def transcriber() -> TranscriberProtocol:
    return load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, threads=1))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(WHISPER / "tokenizer.json", multilingual=True)


def a_window(speech: Speech, voice: str, *, seconds: float = 6, offset: float = 0.0) -> Window:
    audio = speech.random(voice, seconds, seed=1).audio
    end = offset + len(audio) / RATE
    return Window(request_id="r", index=3, start=offset, end=end, samples=audio)


def run(
    transcriber: TranscriberProtocol, windows: Sequence[Window], *options: DecodeOptions
) -> list[WindowTranscript]:
    return transcriber.transcribe(windows, options, [None] * len(windows))


def text_of(transcript: WindowTranscript) -> str:
    return "".join(segment.text for segment in transcript.segments)


def test_it_says_what_it_can(transcriber: TranscriberProtocol) -> None:
    can = transcriber.capabilities
    assert can.languages is not None
    assert {"en", "fr", "ja", "haw", "su"} <= can.languages
    assert len(can.languages) == 99
    assert can.tasks == {"transcribe", "translate"}
    assert (can.max_batch, can.padded_to, can.max_window) == (None, 30.0, 30.0)
    assert can.detects_language
    assert can.can_time_words
    assert can.can_prompt
    assert can.can_logprobs


def test_segments_have_every_field_and_the_recordings_clock(
    transcriber: TranscriberProtocol, speech: Speech, vocabulary: Vocabulary
) -> None:
    window = a_window(speech, "fr-alain", offset=100.0)
    [transcript] = run(transcriber, [window], DecodeOptions())
    [segment] = transcript.segments
    assert transcript.window_index == 3
    assert (transcript.language, segment.language) == ("fr", "fr")
    assert transcript.language_probability > 0.9
    assert (segment.start, segment.end) == (window.start, window.end)
    assert vocabulary.decode(segment.tokens) == segment.text
    assert segment.temperature == 0.0
    assert -0.5 < segment.avg_logprob < 0.0
    assert 0.3 < segment.compression_ratio < 2.4
    assert 0.0 <= segment.no_speech_prob < 0.1
    assert segment.words is None
    assert segment.logprobs == ()


def test_features_computed_ahead_give_the_same(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    window = a_window(speech, "en-adam")
    ahead = transcriber.transcribe([window], [DecodeOptions()], [transcriber.features(window)])
    assert ahead == run(transcriber, [window], DecodeOptions())


@pytest.mark.parametrize("samples", [0, 100, 16000, 479_900, 480_000, 500_000])
def test_the_spectrogram_is_faster_whispers(samples: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    audio = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    padded = np.pad(audio[:480_000], (0, max(0, 480_000 - samples)))
    expected = FeatureExtractor()(padded, padding=0)
    mel = LogMel(80)(audio)
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, expected, atol=1e-5)


def test_language_is_detected_in_each_window(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    windows = [a_window(speech, "en-beth"), a_window(speech, "fr-claude")]
    found = run(transcriber, windows, DecodeOptions(), DecodeOptions())
    assert [one.language for one in found] == ["en", "fr"]
    found = run(transcriber, windows, DecodeOptions(), DecodeOptions(languages=("en", "de")))
    assert [one.language for one in found] == ["en", "en"]


def test_a_model_that_cannot_detect_asks_for_the_language(
    transcriber: TranscriberProtocol, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    monkeypatch.setattr(transcriber, "_detect", lambda _, rows: [{} for _ in rows])
    window = a_window(speech, "en-adam")
    with pytest.raises(InvalidRequest, match="send it"):
        run(transcriber, [window], DecodeOptions())
    assert run(transcriber, [window], DecodeOptions(language="en"))


def test_the_encoder_is_not_sliced_where_numpy_cannot_see_it(
    transcriber: TranscriberProtocol, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    windows = [a_window(speech, voice) for voice in ("en-adam", "fr-alain", "en-beth")]
    options = [DecodeOptions(language="en"), DecodeOptions(), DecodeOptions(word_timestamps=True)]
    here = run(transcriber, windows, *options)
    monkeypatch.setattr(EncodedBatch, "sliceable", False)
    assert [text_of(one) for one in run(transcriber, windows, *options)] == [
        text_of(one) for one in here
    ]


def test_a_language_is_as_probable_as_it_is_among_the_candidates(
    transcriber: TranscriberProtocol, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    unsure = {"en": 0.4, "fr": 0.35, "de": 0.25}
    monkeypatch.setattr(transcriber, "_detect", lambda _, rows: [unsure for _ in rows])
    window = a_window(speech, "fr-alain")
    found = run(transcriber, [window] * 2, DecodeOptions(), DecodeOptions(languages=("en", "de")))
    assert [one.language for one in found] == ["en", "en"]
    assert found[0].language_probability == pytest.approx(0.4)
    assert found[1].language_probability == pytest.approx(0.4 / 0.65)


def test_an_unknown_language_is_the_requests_fault(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    with pytest.raises(InvalidRequest, match="'xx'") as caught:
        run(transcriber, [a_window(speech, "en-adam")], DecodeOptions(language="xx"))
    assert caught.value.param == "language"


def test_words_lie_where_they_were_said(transcriber: TranscriberProtocol, speech: Speech) -> None:
    utterance = speech.random("en-adam", 6, seed=1)
    window = a_window(speech, "en-adam", offset=50.0)
    [transcript] = run(transcriber, [window], DecodeOptions(word_timestamps=True))
    [segment] = transcript.segments
    assert segment.words is not None
    truth = [word for sentence in utterance.sentences for word in sentence]
    assert [word.text.strip(".").lower() for word in segment.words] == [w.word for w in truth]
    ends = [word.end - 50.0 - true.end for word, true in zip(segment.words, truth, strict=True)]
    assert np.median(np.abs(ends)) < 0.35  # the tiny model attends no more sharply
    clock = [time for word in segment.words for time in (word.start, word.end)]
    assert clock == sorted(clock)
    assert clock[0] >= window.start
    assert clock[-1] <= window.end
    assert all(word.score is not None and 0.3 < word.score <= 1.0 for word in segment.words)


def test_punctuation_belongs_to_its_word(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode("he said, (you)?!")
    end = len(tokens)
    [he, said, you] = words_of(
        vocabulary,
        tokens,
        "en",
        path=[(token, 10 * token) for token in range(end + 1)],
        probabilities=[0.5] * end,
        window=Window(
            request_id="r", index=0, start=8.0, end=8.0 + 0.2 * end, samples=np.zeros(0, np.float32)
        ),
    )
    assert [he.text, said.text, you.text] == ["he", "said,", "(you)?!"]
    assert (he.start, he.end, he.score) == (8.0, 8.2, 0.5)
    assert said.start == 8.2
    assert you.start == pytest.approx(8.6)  # with its bracket
    assert [*he.tokens, *said.tokens, *you.tokens] == tokens


@pytest.mark.parametrize("prompt", [None, "red cat"])
def test_logprobs_are_the_decoders_and_their_bytes_the_text(
    transcriber: TranscriberProtocol, speech: Speech, prompt: str | None
) -> None:
    window = a_window(speech, "fr-berthe")
    [transcript] = run(transcriber, [window], DecodeOptions(logprobs=True, prompt=prompt))
    [segment] = transcript.segments
    assert len(segment.logprobs) == len(segment.tokens)
    spelled = bytes(byte for token in segment.logprobs for byte in token.bytes)
    assert spelled.decode() == segment.text
    total = sum(token.logprob for token in segment.logprobs)
    assert all(token.logprob <= 0 for token in segment.logprobs)
    # the end of the text counts in avg_logprob's denominator only
    assert total == pytest.approx(segment.avg_logprob * (len(segment.tokens) + 1), abs=0.02)


@pytest.mark.parametrize("text", [" naïve café", " 日本語 🦜", " \x00\n~¡"])
def test_token_bytes_spell_any_text(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.text_tokens(vocabulary.encode(text))
    spelled = b"".join(vocabulary.token_bytes(token) for token in tokens)
    assert spelled.decode().strip() == text.strip()


def test_part_of_a_character_is_listed_as_bytes(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encode("🦜")
    listed = logprobs_of(vocabulary, tokens, [0.5] * len(tokens))
    assert len(listed) > 1
    assert any(one.token.startswith("bytes:\\x") for one in listed)
    assert bytes(byte for one in listed for byte in one.bytes).decode() == " 🦜"


def test_batch_keys_join_what_one_call_may_mix(transcriber: TranscriberProtocol) -> None:
    key = transcriber.batch_key
    plain = key(DecodeOptions(language="en"))
    assert plain == key(DecodeOptions(language="fr", task="translate"))
    assert plain == key(DecodeOptions(word_timestamps=True, logprobs=True))
    assert plain == key(DecodeOptions(prompt="  ", hotwords=""))
    assert key(DecodeOptions(prompt="cat")) == key(DecodeOptions(hotwords="dog"))
    apart = [
        plain,
        key(DecodeOptions(prompt="cat with a dog")),
        key(DecodeOptions(beam_size=1)),
        key(DecodeOptions(temperature=0.5)),
    ]
    assert plain == key(DecodeOptions(suppress_numerals=True))
    assert len(set(apart)) == len(apart)
    assert key(DecodeOptions(temperature=0.5, beam_size=1)) == apart[3]


def test_context_always_leaves_room_for_text(vocabulary: Vocabulary) -> None:
    context = vocabulary.context("dog " * 400, "cat " * 300)
    assert len(context) == MAX_CONTEXT + 1
    shared = vocabulary.context("dog " * 400, "cat")
    assert len(shared) == MAX_CONTEXT + 1
    assert vocabulary.decode(shared[1:]).startswith(" cat dog dog")
    # a client cannot put control tokens into the prompt
    smuggled = vocabulary.context("<|startoftranscript|><|fr|> cat", None)
    assert all(token < vocabulary.end_of_text for token in smuggled[1:])


def test_the_longest_context_still_decodes(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    options = DecodeOptions(prompt="dog " * 400, hotwords="cat " * 50, logprobs=True)
    [transcript] = run(transcriber, [a_window(speech, "en-adam")], options)
    assert all(len(one.logprobs) == len(one.tokens) for one in transcript.segments)


def test_a_temperature_is_sampled_at_once(transcriber: TranscriberProtocol, speech: Speech) -> None:
    [transcript] = run(transcriber, [a_window(speech, "en-adam")], DecodeOptions(temperature=0.4))
    assert [one.temperature for one in transcript.segments] == [0.4]


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_a_window_has_the_same_text_whatever_is_beside_it(
    transcriber: TranscriberProtocol, speech: Speech, temperature: float
) -> None:
    voices = ("en-adam", "fr-alain", "en-beth")
    windows = [a_window(speech, voice) for voice in voices]
    options = DecodeOptions(temperature=temperature)
    alone = [run(transcriber, [window], options)[0] for window in windows]
    assert [run(transcriber, [window], options)[0] for window in windows] == alone
    together = run(transcriber, windows * 2, *[options] * 6)
    assert [text_of(one) for one in together] == [text_of(one) for one in alone] * 2
    other = load_transcriber(ModelSpec(name="whisper", path=WHISPER, threads=1))
    assert [text_of(run(other, [window], options)[0]) for window in reversed(windows)] == [
        text_of(one) for one in reversed(alone)
    ]


def test_a_temperature_may_give_another_text_than_the_likeliest(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    windows = [a_window(speech, voice, seconds=9) for voice in ("en-adam", "fr-alain", "en-carl")]
    likeliest = run(transcriber, windows, *[DecodeOptions()] * 3)
    drawn = run(transcriber, windows, *[DecodeOptions(temperature=5.0)] * 3)
    assert [text_of(one) for one in drawn] != [text_of(one) for one in likeliest]


@pytest.mark.parametrize("context", [{"hotwords": "red, cat"}, {"prompt": "the nine dogs ran"}])
def test_context_does_not_move_words(
    transcriber: TranscriberProtocol, speech: Speech, context: dict[str, str]
) -> None:
    window = a_window(speech, "en-adam")
    plain = DecodeOptions(word_timestamps=True)
    [bare] = run(transcriber, [window], plain)
    [told] = run(transcriber, [window], replace(plain, **context))  # type: ignore[arg-type]
    assert text_of(told) == text_of(bare)
    times = [
        [(word.text, word.start, word.end) for word in one.segments[0].words or ()]
        for one in (bare, told)
    ]
    assert times[0] == times[1] != []


def test_words_are_inside_the_speech_of_their_window(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    regions = (SpeechRegion(start=0.3, end=1.5), SpeechRegion(start=2.5, end=5.5))
    window = replace(a_window(speech, "en-adam"), regions=regions)
    [transcript] = run(transcriber, [window], DecodeOptions(word_timestamps=True))
    words = transcript.segments[0].words
    assert words
    for word in words:
        assert word.end > word.start
        assert any(r.start <= word.start and word.end <= r.end for r in regions), word


def test_where_speech_is_doubtful_only_a_sure_text_stands(
    transcriber: TranscriberProtocol, speech: Speech
) -> None:
    said = a_window(speech, "en-adam")
    noise = np.random.default_rng(0).normal(0, 0.05, 6 * RATE).astype(np.float32)
    doubtful = (SpeechRegion(start=said.start, end=said.end, probability=0.1),)
    windows = [replace(said, regions=doubtful), replace(said, samples=noise, regions=doubtful)]
    found = run(transcriber, windows, *[DecodeOptions(language="en")] * 2)
    assert text_of(found[0]) == text_of(run(transcriber, [said], DecodeOptions(language="en"))[0])
    assert found[1].segments == ()


def decoding(text: str, *, no_speech: float, avg_logprob: float = -0.3) -> Decoding:
    return Decoding(
        seconds=2,
        tokens=(1, 2),
        text=text,
        temperature=0.0,
        avg_logprob=avg_logprob,
        compression_ratio=1.0,
        no_speech_prob=no_speech,
    )


@pytest.mark.parametrize(
    ("text", "avg_logprob", "expected"),
    [
        (" Ha ha ha. Montreal. Ha ha ha. Forced.", -0.5, True),
        (" Hahaha, хаха, 哈哈哈! Montreal.", -0.5, True),
        (" Ha ha ha, that's funny.", -0.2, False),
        (" Ha ha! He said that he would come.", -0.5, False),
    ],
)
def test_improbable_text_of_laughs_is_laughter(
    text: str, avg_logprob: float, expected: bool
) -> None:
    assert decoding(text, no_speech=0.1, avg_logprob=avg_logprob).laughter is expected


def test_words_of_the_prompt_in_hardly_any_sound_are_an_echo() -> None:
    hotwords = "Widget, Gadget, Sprocket"
    assert decoding(" Widget. Widget", no_speech=0.8).echoes(hotwords)
    assert not decoding(" Widget.", no_speech=0.1).echoes(hotwords)
    assert not decoding(" The widget.", no_speech=0.8).echoes(hotwords)


def heard_words(*times: tuple[float, float]) -> list[Word]:
    return [Word(text="w", start=start, end=end) for start, end in times]


@pytest.mark.parametrize(
    ("words", "before", "behind"),
    [
        ([(0.5, 1.0), (1.0, 9.5)], None, (1.5, 9.8)),  # the last word stands for a sentence
        ([(0.5, 1.0), (4.0, 5.2)], None, (5.2, 9.8)),
        ([(0.5, 1.0), (4.0, 6.4)], None, (7.3, 9.8)),
        ([(0.2, 8.5), (8.5, 9.7)], (0.2, 8.0), None),
        ([(0.2, 0.9), (0.9, 5.0), (7.5, 9.0)], None, None),
        ([(0.2, 9.8)], (0.2, 9.3), None),
    ],
)
def test_speech_before_the_first_and_behind_the_last_word_is_unheard(
    words: list[tuple[float, float]],
    before: tuple[float, float] | None,
    behind: tuple[float, float] | None,
) -> None:
    regions = (SpeechRegion(start=0.2, end=6.4), SpeechRegion(start=7.3, end=9.8))
    samples = np.arange(10 * RATE, dtype=np.float32)
    window = Window(request_id="r", index=0, start=0, end=10, samples=samples, regions=regions)
    found = unheard_parts(window, heard_words(*words))
    for part, expected in zip(found, (before, behind), strict=True):
        assert (None if part is None else (part.start, part.end)) == expected
        if part is not None:
            assert part.samples[0] == pytest.approx(part.start * RATE)
            assert len(part.samples) == pytest.approx((part.end - part.start) * RATE, abs=1)
            assert part.speech_probability == 0.0


@pytest.mark.timeout(20)
def test_a_huge_prompt_costs_little(
    transcriber: TranscriberProtocol, vocabulary: Vocabulary
) -> None:
    prompt = "".join(chr(0x21 + place % 93) for place in range(5_000_000)) + " the red cat"
    for _ in range(20):
        transcriber.batch_key(DecodeOptions(prompt=prompt, hotwords=prompt))
    context = vocabulary.context(prompt, "nine")
    assert vocabulary.decode(context[1:]).startswith(" nine")
    assert vocabulary.decode(context).endswith(" the red cat")


def test_silence_and_an_empty_window_end_well(transcriber: TranscriberProtocol) -> None:
    windows = [
        Window(request_id="r", index=0, start=0, end=1, samples=np.zeros(RATE, np.float32)),
        Window(request_id="r", index=1, start=1, end=1, samples=np.zeros(0, np.float32)),
    ]
    asked = DecodeOptions(word_timestamps=True, logprobs=True)
    assert len(run(transcriber, windows, asked, asked)) == 2
    assert transcriber.transcribe([], [], []) == []


class ScriptedModel:
    """A CTranslate2 model whose decodings are given: kind of search -> (logprob, text), a row."""

    is_multilingual = True
    device = "cpu"
    n_mels = 80

    def __init__(
        self, vocabulary: Vocabulary, script: Sequence[dict[str, tuple[float, str]]]
    ) -> None:
        self._vocabulary = vocabulary
        self._script = script
        self.no_speech_prob = 0.0
        self.calls: list[tuple[str, list[int]]] = []
        self.lengths: list[int] = []

    def encode(self, storage: Any) -> Any:
        return np.asarray(storage)

    def generate(self, rows: list[int], prompts: list[list[int]], **options: Any) -> list[Any]:
        kind = (
            "no numerals"
            if len(options["suppress_tokens"]) > 1
            else "no repeats"
            if options["no_repeat_ngram_size"]
            else "fewer repeats"
            if options["repetition_penalty"] > 1
            else "plain"
            if len(prompts[0]) > 1
            else "no context"
        )
        self.calls.append((kind, rows))
        self.lengths.append(options["max_length"])
        return [self._result(*self._script[row][kind]) for row in rows]

    def _result(self, logprob: float, text: str) -> Any:
        tokens = self._vocabulary.encode(text)
        score = logprob * (len(tokens) + 1) / len(tokens)
        return SimpleNamespace(
            sequences_ids=[tokens], scores=[score], no_speech_prob=self.no_speech_prob
        )


def rows_of(count: int) -> list[Row]:
    return [
        Row(place=place, seconds=5, language="en", prompt=(7, 8), context=1, seed=0)
        for place in range(count)
    ]


SCRIPTED = SimpleNamespace(rows=list, sliceable=True)
"""An encoded batch whose rows are their places."""


def scripted(
    vocabulary: Vocabulary, *script: dict[str, tuple[float, str]], no_speech: float = 0.0
) -> tuple[ScriptedModel, list[Decoding]]:
    """Decode one window a script, with all that is tried for doubtful ones."""
    model = ScriptedModel(vocabulary, script)
    model.no_speech_prob = no_speech
    search = BeamSearch(model, vocabulary, fallback=True)
    return model, search.decode(SCRIPTED, rows_of(len(script)), 5, 0.0)  # type: ignore[arg-type]


LOOP = "the red dog ran " * 20


def test_only_doubtful_windows_are_decoded_again(vocabulary: Vocabulary) -> None:
    model, found = scripted(
        vocabulary,
        {"plain": (-0.2, "sure")},
        {"plain": (-1.5, "unlikely"), "no context": (-0.4, "better")},
        {
            "plain": (-0.1, LOOP),
            "no repeats": (-0.6, "the red dog ran"),
            "fewer repeats": (-0.9, "the red dog"),
        },
    )
    assert model.calls == [
        ("plain", [0, 1, 2]),
        ("no repeats", [2]),
        ("fewer repeats", [2]),
        ("no context", [1]),
    ]
    assert [one.text for one in found] == [" sure", " better", " the red dog ran"]
    assert found[1].avg_logprob == pytest.approx(-0.4)


def test_a_loop_that_stays_costs_three_more_searches_of_bounded_length(
    vocabulary: Vocabulary,
) -> None:
    kinds = ["plain", "no repeats", "fewer repeats", "no context"]
    model, _ = scripted(vocabulary, dict.fromkeys(kinds, (-1.5, LOOP)))
    assert model.calls == [(kind, [0]) for kind in kinds]
    # the prompt of two tokens or one, ten tokens a second of up to ten seconds, and 32 to spare
    assert model.lengths == [134, 134, 134, 133]


def test_a_phrase_said_three_times_stands_where_nothing_else_is_as_likely(
    vocabulary: Vocabulary,
) -> None:
    thrice = "one two three one two three one two three"
    once = {"no repeats": (-0.5, "one two three"), "fewer repeats": (-0.6, "one two")}
    assert scripted(vocabulary, {"plain": (-0.2, thrice)} | once)[1][0].text == " " + thrice
    looped = {"plain": (-0.8, thrice)} | once
    assert scripted(vocabulary, looped)[1][0].text == " one two three"


def test_a_long_run_of_one_token_is_a_loop(vocabulary: Vocabulary) -> None:
    _, [found] = scripted(
        vocabulary,
        {
            "plain": (-0.1, "on march" + " at" * 30),
            "no repeats": (-0.5, "on march at nine"),
            "fewer repeats": (-0.9, "on march"),
        },
    )
    assert found.text == " on march at nine"


def test_a_window_without_speech_is_left_at_once(vocabulary: Vocabulary) -> None:
    model, [found] = scripted(vocabulary, {"plain": (-1.5, "thanks for watching")}, no_speech=0.9)
    assert len(model.calls) == 1
    assert found.silent
    assert best([found]) is found


def spelled(vocabulary: Vocabulary, digits: str, words: tuple[float, str]) -> str:
    """What becomes of a text with numerals that the decoder says so without them."""
    model = ScriptedModel(vocabulary, [{"plain": (-0.3, digits), "no numerals": words}])
    search = BeamSearch(model, vocabulary, fallback=True)
    found = search.decode(SCRIPTED, rows_of(1), 5, 0.0)  # type: ignore[arg-type]
    speller = NumeralSpeller(search, vocabulary)
    [one] = speller.spelled(SCRIPTED, rows_of(1), found, 5, 0.0)  # type: ignore[arg-type]
    assert vocabulary.decode(one.tokens) == one.text
    return one.text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((-0.4, "in room nine oh two."), " in room nine oh two."),
        ((-0.4, "in room..."), " in room nine hundred and two."),
        ((-0.4, "in room nano two."), " in room nine hundred and two."),
        ((-0.9, "in room nine oh two."), " in room nine hundred and two."),
        ((-0.3, "in room" + "," * 20), " in room nine hundred and two."),
    ],
)
def test_a_number_is_written_as_it_was_said_and_never_lost(
    vocabulary: Vocabulary, words: tuple[float, str], expected: str
) -> None:
    assert spelled(vocabulary, "in room 902.", words) == expected


def test_a_text_without_numerals_is_decoded_once(vocabulary: Vocabulary) -> None:
    model = ScriptedModel(vocabulary, [{"plain": (-0.3, "no number")}])
    search = BeamSearch(model, vocabulary, fallback=True)
    found = search.decode(SCRIPTED, rows_of(1), 5, 0.0)  # type: ignore[arg-type]
    speller = NumeralSpeller(search, vocabulary)
    assert speller.spelled(SCRIPTED, rows_of(1), found, 5, 0.0) == found  # type: ignore[arg-type]
    assert len(model.calls) == 1


class BrokenModel(ScriptedModel):
    """Fails as CTranslate2 does."""

    def __init__(self, vocabulary: Vocabulary, error: Exception) -> None:
        super().__init__(vocabulary, ())
        self._error = error

    def encode(self, storage: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (RuntimeError("CUDA failed with error out of memory"), InsufficientMemory),
        (RuntimeError("mkl_malloc: failed to allocate memory"), InsufficientMemory),
        (MemoryError("std::bad_alloc"), InsufficientMemory),
        (RuntimeError("cuDNN failed at /src/x.cc"), TranscriptionFailed),
        (ValueError("Invalid input features shape"), TranscriptionFailed),
    ],
)
def test_the_engines_errors_become_ours(
    vocabulary: Vocabulary, speech: Speech, error: Exception, ours: type[Exception]
) -> None:
    broken = WhisperTranscriber(
        BrokenModel(vocabulary, error), vocabulary, contexts=FULL, fallback=True
    )
    window = a_window(speech, "en-adam")
    with pytest.raises(ours) as caught:
        run(broken, [window], DecodeOptions())
    assert caught.value.__cause__ is error
    assert "/src" not in str(caught.value)


def test_an_english_only_model_says_so() -> None:
    english = Vocabulary(WHISPER / "tokenizer.json", multilingual=False)
    assert english.languages == {"en"}
    assert len(english.prompt("transcribe", "en")) == 2
    with pytest.raises(InvalidRequest, match="'fr'"):
        english.prompt("transcribe", "fr")
    model = ScriptedModel(english, [])
    model.is_multilingual = False
    model.device = "cpu"
    transcriber = WhisperTranscriber(model, english, contexts=FULL, fallback=True)
    assert transcriber.capabilities.tasks == {"transcribe"}
    assert transcriber.capabilities.languages == frozenset({"en"})


@pytest.mark.parametrize("missing", ["model.bin", "config.json", "tokenizer.json"])
def test_a_directory_without_a_model_is_not_found(tmp_path: Path, missing: str) -> None:
    directory = tmp_path / "mine"
    shutil.copytree(WHISPER, directory, ignore=shutil.ignore_patterns(missing))
    with pytest.raises(ModelNotFound, match=missing) as caught:
        load_transcriber(ModelSpec(name=directory.name, path=directory))
    assert str(tmp_path) not in caught.value.message
    assert "'mine'" in caught.value.message


def test_a_broken_model_is_unavailable(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    shutil.copytree(WHISPER, directory)
    (directory / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelUnavailable) as caught:
        load_transcriber(ModelSpec(name=directory.name, path=directory))
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("name", ["large-v3", "someone/some-model"])
def test_downloads_off_is_not_found(tmp_path: Path, name: str) -> None:
    spec = ModelSpec(name=name, download_root=tmp_path, local_files_only=True)
    with pytest.raises(ModelNotFound, match="downloads are off"):
        load_transcriber(spec)


@pytest.mark.parametrize("name", ["enormous", "../x", "a/b/c", "/nowhere", "src"])
def test_names_that_mean_no_model_are_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        load_transcriber(ModelSpec(name=name))


def test_a_full_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctranslate2

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(ctranslate2.models, "Whisper", full)
    with pytest.raises(InsufficientMemory, match="'whisper'"):
        load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER))


def test_no_cuda_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctranslate2

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    with pytest.raises(ModelUnavailable, match="CUDA"):
        load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, device="cuda"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("package", ["ctranslate2", "faster_whisper"])
def test_an_absent_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, device: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotInstalled, match=rf"\[{device}\]"):
        load_transcriber(ModelSpec(name=WHISPER.name, path=WHISPER, device=device))


TORCHLESS = """
import json, sys
from pathlib import Path
import numpy as np
from whisperx_api_server.backends import whisperx
from whisperx_api_server.backends.base import ModelSpec
from whisperx_api_server.domain import DecodeOptions, Window
light = [name for name in ("ctranslate2", "torch", "faster_whisper") if name in sys.modules]
model = whisperx.load_transcriber(ModelSpec(name="w", path=Path(sys.argv[1]), threads=1))
noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
window = Window(request_id="r", index=0, start=0.0, end=1.0, samples=noise)
options = DecodeOptions(word_timestamps=True, logprobs=True, suppress_numerals=True)
model.transcribe([window], [options], [None])
print(json.dumps({"at_import": light, "torch": "torch" in sys.modules}))
"""


def test_transcription_needs_no_torch_and_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TORCHLESS, str(WHISPER)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"at_import": [], "torch": False}
    assert done.stderr == ""


def test_info_names_the_versions() -> None:
    import ctranslate2

    assert engine_info()["ctranslate2"] == ctranslate2.__version__


def test_a_window_index_is_kept(transcriber: TranscriberProtocol, speech: Speech) -> None:
    window = a_window(speech, "en-adam")
    windows = [replace(window, index=index) for index in (7, 2)]
    found = run(transcriber, windows, DecodeOptions(), DecodeOptions())
    assert [one.window_index for one in found] == [7, 2]
    assert text_of(found[0]) == text_of(found[1]) != ""
