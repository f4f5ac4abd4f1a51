"""Where word times come from, and what happens where a language cannot be aligned."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from pipeline_world import Transcriber, World, play
from whisperx_api_server.backends import fake
from whisperx_api_server.backends.base import Capabilities, ModelSpec
from whisperx_api_server.domain import (
    AlignMode,
    DecodeOptions,
    DiarizeOptions,
    Transcript,
    Window,
    WindowTranscript,
)
from whisperx_api_server.errors import ModelUnavailable, NotInstalled
from whisperx_api_server.pipeline.language_vote import REACH
from whisperx_api_server.pipeline.word_timing import RETRY_SECONDS, Aligners

OFFLINE = "the align model 'x' could not be downloaded: try again later"
WARNING = f"word times are the decoder's own: {OFFLINE}"
ENGLISH = DecodeOptions(language="en")


def texts(transcript: Transcript) -> list[str]:
    return [segment.text for segment in transcript.segments]


def assert_sentences(transcript: Transcript) -> None:
    """The recording "english" has twelve sentences of two words, 1.5 s of silence after each."""
    assert len(transcript.segments) == 12
    assert texts(transcript)[:4] == ["red door.", "open tree.", "find water.", "bring bread."]
    starts = [segment.start for segment in transcript.segments]
    assert starts == pytest.approx([2.1 * k for k in range(12)], abs=0.05)


def test_without_an_aligner_words_have_the_decoders_times(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(world: World) -> None:
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        for decode in (ENGLISH, DecodeOptions()):
            transcript = await world.run(world.request("english", decode=decode))
            assert_sentences(transcript)
            assert len(transcript.words) == 24
            assert {word.score for word in transcript.words} == {0.9}  # the fake decoder's
            assert transcript.warnings == (WARNING,)
        speakers = await world.run(
            world.request("dialogue", decode=ENGLISH, diarize=DiarizeOptions())
        )
        assert {word.speaker for word in speakers.words} == {"SPEAKER_00", "SPEAKER_01"}
        assert world.hold.calls.count("load alignment") == 1
        world.assert_nothing_left()

    caplog.set_level(logging.WARNING)
    play(scene)
    assert [record.message for record in caplog.records if OFFLINE in record.message] == [WARNING]


def test_a_foreseen_failure_of_the_aligner_decodes_word_times_at_once() -> None:
    async def scene(world: World) -> None:
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        await world.run(world.request("english", decode=ENGLISH))
        world.hold.decoded.clear()
        await world.run(world.request("english", decode=ENGLISH))
        assert {options.word_timestamps for options in world.hold.decoded} == {True}
        windows = len(world.hold.decoded)
        await world.run(world.request("english", decode=ENGLISH, align=AlignMode.OFF))
        assert len(world.hold.decoded) == 2 * windows

    play(scene)


def test_a_long_recording_without_an_aligner_is_decoded_twice_at_its_beginning_only() -> None:
    """Its language is open: the first windows are decoded before it is known."""

    async def scene(world: World) -> None:
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        await world.run(world.request("english", decode=ENGLISH))
        world.hold.decoded.clear()
        assert_sentences(await world.run(world.request("english")))
        assert len(world.hold.decoded) == 12 + 1 + REACH

    play(scene)


def test_an_aligner_that_failed_is_tried_again_after_a_while() -> None:
    async def scene(world: World) -> None:
        now = [0.0]
        aligners = Aligners(world.catalog, world.pool, clock=lambda: now[0])
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        assert await aligners.problem("en") == OFFLINE
        world.failures.clear()
        now[0] = RETRY_SECONDS - 1
        assert await aligners.problem("en") == OFFLINE
        now[0] = RETRY_SECONDS
        assert await aligners.problem("en") is None
        assert world.hold.calls.count("load alignment") == 2

    play(scene)


class HeldFromTheThirdBatch(Transcriber):
    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        if self._hold.calls.count("transcribe") == 2:
            self._hold.stage = "transcribe"
        return super().transcribe(windows, options, features)


def test_forced_alignment_that_cannot_be_had_fails_before_anything_is_decoded() -> None:
    async def scene(world: World) -> None:
        world.engines["transcription"] = HeldFromTheThirdBatch
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        with pytest.raises(ModelUnavailable, match=OFFLINE):
            await world.text("english", align=AlignMode.FORCED, decode=ENGLISH)
        assert world.clips.opened == 0
        with pytest.raises(ModelUnavailable, match=OFFLINE):  # as soon as the language is known
            await world.text("english", align=AlignMode.FORCED)
        world.hold.go.set()
        assert await world.text("english", align=AlignMode.FORCED, decode=DecodeOptions(
            task="translate"
        ))  # fmt: skip
        world.assert_nothing_left()

    play(scene)


@pytest.mark.parametrize("known", [None, Capabilities(languages=frozenset({"en"}))])
def test_the_only_possible_language_is_aligned_before_anything_is_decoded(
    known: Capabilities | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known_capabilities(_spec: ModelSpec) -> Capabilities | None:
        return known

    monkeypatch.setattr(fake, "known_capabilities", known_capabilities, raising=False)

    async def scene(world: World) -> None:
        world.failures["alignment"] = ModelUnavailable(OFFLINE)
        decode = DecodeOptions(languages=() if known else ("en",))
        with pytest.raises(ModelUnavailable, match=OFFLINE):
            await world.text("english", align=AlignMode.FORCED, decode=decode)
        assert world.clips.opened == 0

    play(scene)


def test_absent_packages_are_told_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the language is not known yet, and with the times in the first decoding."""
    absent = "this needs the package 'torch'"

    def aligner_problem(_spec: ModelSpec) -> NotInstalled:
        return NotInstalled(absent)

    monkeypatch.setattr(fake, "aligner_problem", aligner_problem, raising=False)

    async def scene(world: World) -> None:
        with pytest.raises(NotInstalled, match=absent):
            await world.text("english", align=AlignMode.FORCED)
        assert world.clips.opened == 0
        transcript = await world.run(world.request("english"))
        assert_sentences(transcript)
        assert transcript.warnings == (f"word times are the decoder's own: {absent}",)
        assert all(options.word_timestamps for options in world.hold.decoded)

    play(scene)


@pytest.mark.parametrize("mode", [AlignMode.AUTO, AlignMode.FORCED])
def test_a_language_without_an_align_model_has_the_decoders_times(
    mode: AlignMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_language: str) -> None:
        return None

    monkeypatch.setattr(fake, "align_model", none)

    async def scene(world: World) -> None:
        transcript = await world.run(world.request("english", align=mode))
        assert_sentences(transcript)
        assert transcript.warnings == (
            "word times are the decoder's own: there is no align model for 'en': "
            "name one in ALIGNMENT__MODELS",
        )

    play(scene)


def test_segments_alone_are_sentences_without_words() -> None:
    async def scene(world: World) -> None:
        transcript = await world.run(world.request("english", align=AlignMode.SEGMENTS))
        assert_sentences(transcript)
        assert transcript.words == ()
        assert all(segment.words is None for segment in transcript.segments)
        assert transcript.warnings == ()
        assert "load alignment" not in world.hold.calls

    play(scene)


def test_a_translation_is_cut_into_sentences_by_the_decoders_times() -> None:
    async def scene(world: World) -> None:
        transcript = await world.run(
            world.request("french", decode=DecodeOptions(task="translate"))
        )
        assert texts(transcript) == ["red door.", "open tree.", "find water."] * 2
        assert transcript.warnings == ()
        assert "load alignment" not in world.hold.calls

    play(scene)


def test_bare_text_does_not_pay_for_word_times() -> None:
    async def scene(world: World) -> None:
        await world.run(world.request("english", align=AlignMode.OFF))
        assert not any(options.word_timestamps for options in world.hold.decoded)
        assert "load alignment" not in world.hold.calls

    play(scene)
