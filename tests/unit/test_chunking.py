"""Windows: they hold exactly the speech, in order, none too long; and become one transcript."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.domain import (
    AudioClip,
    Samples,
    Segment,
    SpeechRegion,
    Task,
    Transcript,
    Window,
    WindowTranscript,
    Word,
)
from whisperx_api_server.pipeline.chunking import (
    LONGEST_PAUSE,
    MOST_UNDETECTED,
    Splitter,
    finish_window,
    stitch,
    undetected_windows,
)

RATE = 1000


def clip_of(seconds: float, *, silent: tuple[tuple[float, float], ...] = ()) -> AudioClip:
    samples = np.sin(np.arange(round(seconds * RATE), dtype=np.float32))
    for start, end in silent:
        samples[round(start * RATE) : round(end * RATE)] = 0
    return AudioClip(samples=samples, sample_rate=RATE)


def split(
    regions: Iterable[SpeechRegion], clip: AudioClip, *, request_id: str, max_window: float
) -> Iterator[Window]:
    """Windows as each becomes final."""
    splitter = Splitter(clip, request_id=request_id, max_window=max_window)
    for region in regions:
        yield from splitter.push((region,))
    yield from splitter.flush()


def regions_of(*pairs: tuple[float, float]) -> list[SpeechRegion]:
    return [SpeechRegion(start=start, end=end) for start, end in pairs]


def times(windows: list[Window]) -> list[tuple[float, float]]:
    return [(window.start, window.end) for window in windows]


@st.composite
def recordings(draw: st.DrawFn) -> tuple[AudioClip, list[SpeechRegion]]:
    lengths = draw(st.lists(st.floats(0.05, 90), min_size=0, max_size=20))
    pauses = draw(st.lists(st.floats(0, 20), min_size=len(lengths), max_size=len(lengths)))
    now, regions = 0.0, []
    for length, pause in zip(lengths, pauses, strict=True):
        regions.append(SpeechRegion(start=now + pause, end=now + pause + length))
        now += pause + length
    return clip_of(max(1.0, now)), regions


@given(recordings(), st.floats(1, 30))
def test_windows_cover_the_speech_exactly(
    recording: tuple[AudioClip, list[SpeechRegion]], longest: float
) -> None:
    clip, regions = recording
    windows = list(split(regions, clip, request_id="r", max_window=longest))

    assert [window.index for window in windows] == list(range(len(windows)))
    speech = np.zeros(len(clip.samples), dtype=bool)
    for region in regions:
        speech[round(region.start * RATE) : round(region.end * RATE)] = True
    covered = np.zeros_like(speech)
    end = 0.0
    for window in windows:
        assert end <= window.start < window.end
        end = window.end
        assert len(window.samples) <= longest * RATE
        assert np.shares_memory(window.samples, clip.samples)
        first = round(window.start * RATE)
        assert np.array_equal(window.samples, clip.samples[first : round(window.end * RATE)])
        assert window.regions[0].start == window.start
        assert window.regions[-1].end == window.end
        for region in window.regions:
            inside = slice(round(region.start * RATE), round(region.end * RATE))
            assert not covered[inside].any()
            covered[inside] = True
    assert np.array_equal(covered, speech)


@given(recordings(), st.integers(1, 5))
def test_regions_may_arrive_in_any_blocks(
    recording: tuple[AudioClip, list[SpeechRegion]], size: int
) -> None:
    clip, regions = recording
    splitter = Splitter(clip, request_id="r", max_window=30)
    windows = []
    for index in range(0, len(regions), size):
        windows += splitter.push(regions[index : index + size])
    windows += splitter.flush()
    assert times(windows) == times(list(split(regions, clip, request_id="r", max_window=30)))


def test_the_recording_may_still_grow() -> None:
    clip = clip_of(70, silent=((21.0, 21.4), (44, 47)))
    regions = regions_of((1, 42), (43, 44), (47, 68))

    @dataclass
    class Growing:
        samples: Samples
        sample_rate: int = RATE

    growing = Growing(clip.samples[:0])
    splitter = Splitter(growing, request_id="r", max_window=30)
    windows = []
    for region in regions:
        growing.samples = clip.samples[: round(region.end * RATE)]
        windows += splitter.push([region])
    windows += splitter.flush()
    whole = list(split(regions, clip, request_id="r", max_window=30))
    assert times(windows) == times(whole)
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(windows, whole, strict=True))
    assert splitter.flush() == []


def test_regions_share_a_window_until_the_next_would_not_fit() -> None:
    regions = regions_of((1, 5), (8, 20), (22, 31), (31.5, 40))
    windows = list(split(regions, clip_of(40), request_id="r", max_window=30))
    assert times(windows) == [(1, 31), (31.5, 40)]
    assert [len(window.regions) for window in windows] == [3, 1]


def test_a_window_is_out_before_the_last_region_is_in() -> None:
    def arriving() -> Iterator[SpeechRegion]:
        yield from regions_of((0, 20), (22, 45))
        raise AssertionError("nobody should have asked for more")

    windows = split(arriving(), clip_of(100), request_id="r", max_window=30)
    assert times([next(windows)]) == [(0, 20)]


def test_an_overlong_region_is_cut_in_its_quietest_pause() -> None:
    clip = clip_of(50, silent=((3, 4), (21.0, 21.4), (24, 24.05), (40, 41)))
    windows = list(split(regions_of((0, 50)), clip, request_id="r", max_window=30))
    assert len(windows) == 2
    assert 21.05 <= windows[0].end <= 21.35
    assert windows[1].start == windows[0].end


def test_an_even_noise_is_cut_into_as_few_windows_as_can_be() -> None:
    clip = AudioClip(samples=np.ones(95 * RATE, dtype=np.float32), sample_rate=RATE)
    windows = list(split(regions_of((0, 95)), clip, request_id="r", max_window=30))
    assert len(windows) == 4


def test_regions_outside_the_clip_or_repeated_are_left_out() -> None:
    regions = regions_of((0, 3), (2, 4), (2.5, 3.5), (6, 12), (15, 16))
    windows = list(split(regions, clip_of(10), request_id="r", max_window=30))
    assert [(r.start, r.end) for r in windows[0].regions] == [(0, 3), (3, 4), (6, 10)]


def test_a_long_pause_ends_a_window() -> None:
    regions = regions_of((0, 4), (4 + LONGEST_PAUSE, 9), (9.1 + LONGEST_PAUSE, 14))
    windows = list(split(regions, clip_of(20), request_id="r", max_window=30))
    assert times(windows) == [(0, 9), (9.1 + LONGEST_PAUSE, 14)]


def test_silence_gives_no_window() -> None:
    assert list(split([], clip_of(5), request_id="r", max_window=30)) == []


def test_a_window_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="max_window"):
        Splitter(clip_of(5), request_id="r", max_window=0)


def word(text: str, start: float, end: float) -> Word:
    return Word(text=text, start=start, end=end)


def heard(index: int, language: str, *segments: Segment) -> WindowTranscript:
    return WindowTranscript(
        window_index=index, language=language, language_probability=0.9, segments=segments
    )


def finished(
    *transcripts: WindowTranscript, task: Task = "transcribe", duration: float = 30
) -> Transcript:
    window = Window(request_id="r", index=0, start=0, end=duration, samples=clip_of(0).samples)
    return stitch(
        [finish_window(each, window, task) for each in transcripts],
        task=task,
        duration=duration,
        default_language="de",
    )


def test_stitching_finds_the_main_language() -> None:
    transcript = finished(
        heard(0, "en", Segment(start=0, end=9, text="Hello.")),
        heard(1, "fr", Segment(start=10, end=25, text=" Bonjour.")),
        heard(2, "en", Segment(start=26, end=27, text="Bye."), Segment(start=27, end=28, text=" ")),
    )
    assert transcript.text == "Hello. Bonjour. Bye."
    assert transcript.languages == ("fr", "en")
    assert transcript.language == "fr"
    assert [segment.language for segment in transcript.segments] == ["en", "fr", "en"]


def test_all_times_stay_inside_the_window() -> None:
    words = (word("a", -0.2, 0.4), word("b", 0.4, 10.4))
    segment = Segment(start=-0.2, end=10.4, text="a b", words=words, language="en")
    late = Segment(start=11, end=12, text="c")
    transcript = finished(heard(0, "en", segment, late), duration=10)
    assert [(s.start, s.end) for s in transcript.segments] == [(0, 10), (10, 10)]
    assert [(w.start, w.end) for w in transcript.words] == [(0, 0.4), (0.4, 10)]


def test_a_window_with_words_becomes_sentences() -> None:
    words = tuple(word(text, k, k + 0.5) for k, text in enumerate(["Mr.", "Ab", "left.", "Why?"]))
    segment = Segment(start=0, end=9, text="Mr. Ab left. Why?", words=words, avg_logprob=-0.3)
    transcript = finished(heard(0, "en", segment))
    assert [(s.text, s.start, s.end, s.avg_logprob) for s in transcript.segments] == [
        ("Mr. Ab left.", 0, 2.5, -0.3),
        ("Why?", 3, 3.5, -0.3),
    ]


def test_a_translation_is_english_whatever_was_spoken() -> None:
    transcript = finished(
        heard(0, "ja", Segment(start=0, end=1, text="Good day.", language="ja")),
        heard(1, "ja", Segment(start=1, end=2, text="How are you?")),
        task="translate",
    )
    assert transcript.text == "Good day. How are you?"
    assert transcript.language == "ja"
    assert {segment.language for segment in transcript.segments} == {"en"}


def test_silence_is_in_the_language_that_was_asked_for() -> None:
    transcript = stitch([], task="transcribe", duration=3, default_language="fr")
    assert (transcript.text, transcript.language, transcript.languages) == ("", "fr", ())


def test_windows_carry_how_probable_speech_is() -> None:
    regions = [
        SpeechRegion(start=0.0, end=1.0, probability=0.9),
        SpeechRegion(start=2.0, end=5.0, probability=0.1),
    ]
    [window] = split(regions, clip_of(6), request_id="r", max_window=30)
    assert [region.probability for region in window.regions] == [0.9, 0.1]
    assert window.speech_seconds == pytest.approx(4.0)
    assert window.speech_probability == pytest.approx(0.3)


def undetected(
    clip: AudioClip, *detected: Window, max_window: float = 10
) -> tuple[list[tuple[float, float]], bool]:
    windows, more = undetected_windows(clip, detected, request_id="r", max_window=max_window)
    assert all(window.speech_probability == 0 for window in windows)
    for window in windows:
        assert len(window.samples) == round((window.end - window.start) * RATE)
    return times(windows), more


def test_sound_without_detected_speech_is_cut_into_windows() -> None:
    silent = ((0, 41), (44, 60))
    [(start, end)], more = undetected(clip_of(60, silent=silent))
    assert start <= 41
    assert end >= 44
    assert not more
    assert undetected(clip_of(0.5)) == ([(0.0, 0.5)], False)
    assert undetected(clip_of(9, silent=((0, 9),))) == ([], False)
    assert undetected(clip_of(0)) == ([], False)


def test_undetected_windows_lie_beside_the_detected_ones() -> None:
    clip = clip_of(40)
    detected = split(regions_of((0.5, 2), (20, 22)), clip, request_id="r", max_window=10)
    windows, _ = undetected(clip, *detected)
    assert (windows[0][0], windows[-1][1]) == (2, 40)  # half a second is too short
    assert all(end <= 20 or start >= 22 for start, end in windows)
    assert sum(end - start for start, end in windows) == 36


def test_of_much_undetected_sound_the_loudest_is_taken() -> None:
    clip = clip_of(2 * MOST_UNDETECTED)
    clip.samples[: round(0.9 * MOST_UNDETECTED * RATE)] *= 0.1
    windows, more = undetected(clip)
    assert more
    assert windows == sorted(windows)
    assert windows[0][0] >= 0.9 * MOST_UNDETECTED - 10
    assert 0.9 * MOST_UNDETECTED < sum(end - start for start, end in windows) <= MOST_UNDETECTED
