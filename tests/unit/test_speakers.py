"""Speakers: every word gets its own, and no letter of the text is lost on the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisperx_api_server.domain import (
    Diarization,
    Segment,
    SpeakerTurn,
    TokenLogprob,
    Transcript,
    Word,
)
from whisperx_api_server.transcript.speakers import Labeller, match_known, rename


def turns(*triples: tuple[float, float, str]) -> list[SpeakerTurn]:
    return [SpeakerTurn(start=start, end=end, speaker=who) for start, end, who in triples]


def spoken(text: str, *, start: float = 0.0, step: float = 1.0, language: str = "en") -> Segment:
    """A segment whose words, split at spaces, last 0.8 of a second each."""
    words = tuple(
        Word(text=word, start=start + i * step, end=start + i * step + 0.8 * step)
        for i, word in enumerate(text.split())
    )
    return Segment(start=start, end=words[-1].end, text=text, words=words, language=language)


def label(segments: list[Segment], exclusive: list[SpeakerTurn]) -> tuple[Segment, ...]:
    return Labeller(exclusive).label(segments)


def said(segments: tuple[Segment, ...]) -> list[tuple[str | None, str]]:
    return [(segment.speaker, segment.text) for segment in segments]


def test_a_segment_is_cut_where_the_speaker_changes() -> None:
    segment = spoken("Are you there? Yes, I am.")
    parts = label([segment], turns((0, 3, "A"), (3, 6, "B")))
    assert said(parts) == [("A", "Are you there?"), ("B", "Yes, I am.")]
    assert [(p.start, p.end) for p in parts] == [(0, 2.8), (3, segment.end)]
    assert [w.speaker for p in parts for w in p.words or ()] == ["A"] * 3 + ["B"] * 3


def test_a_word_goes_to_the_largest_overlap_then_to_the_nearest_turn() -> None:
    segment = spoken("one two three four")
    parts = label([segment], turns((0, 1.3, "A"), (1.3, 1.7, "B"), (3.6, 5, "C")))
    assert said(parts) == [("A", "one"), ("B", "two three"), ("C", "four")]


def test_a_word_without_length_is_said_by_whose_turn_it_is() -> None:
    word = Word(text="hm", start=2.5, end=2.5)
    segment = Segment(start=2.5, end=2.5, text="hm", words=(word,))
    assert label([segment], turns((0, 2, "A"), (2, 3, "B"), (3, 4, "C")))[0].speaker == "B"


def test_a_segment_without_words_is_labelled_as_a_whole() -> None:
    segment = Segment(start=0, end=10, text="no words")
    parts = label([segment], turns((0, 4, "A"), (4, 7, "B"), (7, 9, "A")))
    assert said(parts) == [("A", "no words")]


def test_without_turns_nothing_is_labelled() -> None:
    segment = spoken("hello there")
    assert label([segment], []) == (segment,)


def test_text_without_spaces_keeps_its_punctuation_with_its_words() -> None:
    words = tuple(Word(text=char, start=i, end=i + 1) for i, char in enumerate("元気ですかはい"))
    segment = Segment(start=0, end=7, text="元気ですか。「はい」", words=words, language="ja")
    parts = label([segment], turns((0, 5, "A"), (5, 7, "B")))
    assert said(parts) == [("A", "元気ですか。"), ("B", "「はい」")]


def test_a_word_glued_to_another_goes_with_it() -> None:
    words = tuple(
        Word(text=text, start=i, end=i + 1) for i, text in enumerate(["well", "-known", "man"])
    )
    segment = Segment(start=0, end=3, text="well-known man", words=words, language="en")
    parts = label([segment], turns((0, 1, "A"), (1, 3, "B")))
    assert said(parts) == [("A", "well-known"), ("B", "man")]


def test_words_that_the_text_does_not_have_make_the_text() -> None:
    segment = Segment(
        start=0,
        end=2,
        text="20 people",
        words=(Word(text="twenty", start=0, end=1), Word(text="people", start=1, end=2)),
        language="en",
    )
    assert said(label([segment], turns((0, 1, "A"), (1, 2, "B")))) == [
        ("A", "twenty"),
        ("B", "people"),
    ]


def test_tokens_are_listed_once_however_often_a_segment_is_cut() -> None:
    logprobs = (TokenLogprob(token="a", logprob=-0.1, bytes=(97,)),)
    segment = spoken("a b")
    segment = Segment(
        start=0, end=2, text="a b", words=segment.words, language="en", logprobs=logprobs
    )
    parts = label([segment], turns((0, 1, "A"), (1, 2, "B")))
    assert [part.logprobs for part in parts] == [logprobs, ()]


@given(
    st.lists(st.text("abc,.!?«»'-", min_size=1, max_size=6), min_size=1, max_size=30),
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from("XYZ")), max_size=20),
)
def test_labelling_never_changes_the_text(
    texts: list[str], lengths: list[tuple[float, str]]
) -> None:
    segment = spoken(" ".join(texts))
    now, spans = 0.0, []
    for length, who in lengths:
        spans.append((now, now + length, who))
        now += length
    parts = label([segment], turns(*spans))

    def transcript(segments: tuple[Segment, ...]) -> str:
        return Transcript(
            task="transcribe", language="en", languages=(), duration=99, segments=segments
        ).text

    assert transcript(parts) == transcript((segment,))
    assert all(part.start <= part.end for part in parts)
    assert [w.text for p in parts for w in p.words or ()] == texts
    for part in parts:
        assert {word.speaker for word in part.words or ()} == {part.speaker}


def test_every_word_gets_the_speaker_that_a_plain_search_finds() -> None:
    spans = turns(*((i * 1.7, i * 1.7 + 1.1, f"S{i % 3}") for i in range(200)))
    words = tuple(Word(text=f"w{i}", start=i * 0.6, end=i * 0.6 + 0.5) for i in range(500))
    segment = Segment(
        start=0, end=301, text=" ".join(w.text for w in words), words=words, language="en"
    )
    for word in (w for part in label([segment], spans) for w in part.words or ()):
        gaps = [(max(t.start, word.start) - min(t.end, word.end), t.speaker) for t in spans]
        nearest = min(gap for gap, _ in gaps)
        assert word.speaker in {who for gap, who in gaps if gap == pytest.approx(nearest)}


def test_known_voices_are_matched_one_to_one_the_best_first() -> None:
    voices = {"SPEAKER_00": (1.0, 0.1), "SPEAKER_01": (1.0, 0.0), "SPEAKER_02": (0.0, 5.0)}
    known = {"ann": (9.0, 0.0), "bob": (0.0, 1.0), "eve": (-1.0, -1.0)}
    assert match_known(voices, known, 0.5) == {"SPEAKER_01": "ann", "SPEAKER_02": "bob"}


@pytest.mark.parametrize("vector", [(0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_vector_without_direction_is_nobody(vector: tuple[float, float]) -> None:
    assert match_known({"SPEAKER_00": vector}, {"ann": (1.0, 1.0)}, -0.5) == {}


def test_renaming_reaches_turns_and_embeddings() -> None:
    found = turns((0, 1, "SPEAKER_00"), (1, 2, "SPEAKER_01"))
    named = rename(
        Diarization(
            turns=tuple(found),
            exclusive=tuple(found),
            embeddings={"SPEAKER_00": (1.0,), "SPEAKER_01": (2.0,)},
        ),
        {"SPEAKER_01": "ann"},
    )
    assert named.turns == named.exclusive
    assert [turn.speaker for turn in named.turns] == ["SPEAKER_00", "ann"]
    assert named.embeddings == {"SPEAKER_00": (1.0,), "ann": (2.0,)}
