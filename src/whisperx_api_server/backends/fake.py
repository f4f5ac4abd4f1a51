"""A backend without models, for tests: it transcribes tones.

`say` renders words as tones that all classes here recognise, so that a test can make a recording
and assert the result of the whole pipeline. A word is 0.2 s of three simultaneous tones, for the
word, the language and the speaker, followed by silence. All are below 4 kHz and survive lossy
codecs and telephone sample rates.

    clip = np.concatenate([say("red door", speaker=0), silence(1.0), say("rouge", language="fr")])

Options have visible effects: `language` writes the words in that language, `translate` in
English; `prompt` and `hotwords` determine capitals ("Red" in the prompt writes it so);
`temperature` is set in the segment; `word_timestamps` and `logprobs` add words and logprobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..domain import (
    SAMPLE_RATE,
    AudioClip,
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    Samples,
    Segment,
    SpeakerTurn,
    TokenLogprob,
    VadOptions,
    Window,
    WindowTranscript,
    Word,
)
from .base import (
    Aligner,
    AlignItem,
    Capabilities,
    Detection,
    Diarizer,
    ModelSpec,
    Transcriber,
    VoiceDetector,
)
from .binarize import BinarizeOptions, Binarizer, FrameDetection
from .published_whisper import published_model as published_model  # its models are called so

VOCABULARY: Mapping[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in {
        "en": "red blue green black white door house tree"
        " water bread open close bring find day night",
        "fr": "rouge bleu vert noir blanc porte maison arbre"
        " eau pain ouvre ferme apporte trouve jour nuit",
        "de": "rot blau grün schwarz weiß tür haus baum"
        " wasser brot öffne schließe bringe finde tag nacht",
    }.items()
}
"""The same sixteen words in each language, by position."""

LANGUAGES = tuple(VOCABULARY)
SPEAKERS = 8

WORD_TONES = 400.0 + 80.0 * np.arange(16)  # Hz
LANGUAGE_TONES = 2000.0 + 150.0 * np.arange(len(LANGUAGES))
SPEAKER_TONES = 2800.0 + 100.0 * np.arange(SPEAKERS)

WORD_SECONDS = 0.2
GAP_SECONDS = 0.1
SENTENCE_PAUSE = 0.5  # s; a longer one ends a sentence
TURN_PAUSE = 1.0  # s; a longer one ends a speaker's turn
SHORTEST_WORD = 0.05  # s; a shorter part of a word at the edge of a window is not recognised
WORD_LOGPROB = -0.1

FRAME = SAMPLE_RATE // 100  # 10 ms
AUDIBLE = 0.02  # root mean square of a frame
ACTIVITY = BinarizeOptions(onset=0.9, offset=0.6, padding=0.0, min_silence=0.3, min_speech=0.0)


def say(words: str, *, language: str = "en", speaker: int = 0) -> Samples:
    """Render words of `VOCABULARY`; word i lasts from 0.3 i to 0.3 i + 0.2 seconds."""
    clock = np.arange(round(WORD_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pieces = [silence(0)]
    for word in words.split():
        tones = (
            (WORD_TONES[VOCABULARY[language].index(word)], 0.4),
            (LANGUAGE_TONES[LANGUAGES.index(language)], 0.2),
            (SPEAKER_TONES[speaker], 0.2),
        )
        sound = sum(level * np.sin(2 * np.pi * hertz * clock) for hertz, level in tones)
        pieces += [np.asarray(sound, np.float32), silence(GAP_SECONDS)]
    return np.concatenate(pieces)


def silence(seconds: float) -> Samples:
    """Render silence."""
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeardWord:
    """A recognised word; `word` is its index in the vocabulary, times are in seconds."""

    word: int
    language: str
    speaker: int
    start: float
    end: float


def hear(samples: Samples, offset: float = 0.0) -> list[HeardWord]:
    """Recognise the words in samples that begin at `offset` seconds."""
    heard = []
    for first, last in audible_runs(samples):
        if (last - first) * FRAME < SHORTEST_WORD * SAMPLE_RATE:
            continue
        sound = samples[first * FRAME : last * FRAME]
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), SAMPLE_RATE))  # 1 Hz a bin
        heard.append(
            HeardWord(
                word=_loudest(spectrum, WORD_TONES),
                language=LANGUAGES[_loudest(spectrum, LANGUAGE_TONES)],
                speaker=_loudest(spectrum, SPEAKER_TONES),
                start=offset + first * FRAME / SAMPLE_RATE,
                end=offset + last * FRAME / SAMPLE_RATE,
            )
        )
    return heard


def audible_runs(samples: Samples) -> list[tuple[int, int]]:
    """Return the (first, last) frames of each continuous sound."""
    audible = _audible(samples, AUDIBLE)
    edges = np.flatnonzero(np.diff(audible.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _audible(samples: Samples, threshold: float) -> NDArray[np.bool_]:
    """Return whether each whole frame is louder than a threshold."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    loudness: NDArray[np.floating] = np.sqrt(np.square(frames).mean(axis=1))
    return loudness > threshold


def _loudest(spectrum: NDArray[np.floating], tones: NDArray[np.floating]) -> int:
    return int(np.argmax(spectrum[tones.astype(int)]))


class FakeTranscriber:
    """Transcribes words, with a full stop at each pause."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            languages=frozenset(LANGUAGES),
            tasks=frozenset({"transcribe", "translate"}),
            detects_language=True,
            can_time_words=True,
            can_prompt=True,
            can_logprobs=True,
            can_sample=True,
        )

    def batch_key(self, options: DecodeOptions) -> Hashable:
        """Windows with equal temperatures share a batch."""
        return options.temperature

    def features(self, window: Window) -> list[HeardWord]:
        return hear(window.samples, window.start)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """One segment per window, none for silence."""
        return [
            _transcript(
                window,
                self.features(window) if feature is None else cast("list[HeardWord]", feature),
                option,
            )
            for window, option, feature in zip(windows, options, features, strict=True)
        ]


def _language_probabilities(heard: Sequence[HeardWord]) -> dict[str, float]:
    winner = Counter(word.language for word in heard).most_common(1)
    spoken = winner[0][0] if winner else LANGUAGES[0]
    rest = 0.1 / (len(LANGUAGES) - 1)
    return {language: 0.9 if language == spoken else rest for language in LANGUAGES}


def _transcript(
    window: Window, heard: Sequence[HeardWord], options: DecodeOptions
) -> WindowTranscript:
    probabilities = _language_probabilities(heard)
    candidates = [name for name in LANGUAGES if name in options.languages] or LANGUAGES
    language = options.language or max(candidates, key=lambda name: probabilities[name])
    spelled = _spell(heard, "en" if options.task == "translate" else language, options)
    segment = Segment(
        start=heard[0].start if heard else window.start,
        end=heard[-1].end if heard else window.end,
        text=" ".join(spelled),
        language=language,
        words=_words(heard, spelled) if options.word_timestamps else None,
        tokens=tuple(word.word for word in heard),
        temperature=options.temperature,
        avg_logprob=WORD_LOGPROB,
        compression_ratio=1.0,
        logprobs=tuple(_token(text) for text in spelled) if options.logprobs else (),
    )
    return WindowTranscript(
        window_index=window.index,
        language=language,
        language_probability=probabilities[language],
        segments=(segment,) if heard else (),
    )


def _spell(heard: Sequence[HeardWord], language: str, options: DecodeOptions) -> list[str]:
    """The words' texts; the last word of each sentence has the full stop."""
    hints = f"{options.prompt or ''} {options.hotwords or ''}".replace(",", " ").split()
    spelling = {hint.lower(): hint for hint in hints}
    texts = [VOCABULARY[language][word.word] for word in heard]
    texts = [spelling.get(text, text) for text in texts]
    for place, (word, following) in enumerate(pairwise(heard)):
        if following.start - word.end > SENTENCE_PAUSE:
            texts[place] += "."
    return [*texts[:-1], texts[-1] + "."] if texts else []


def _words(heard: Sequence[HeardWord], texts: Sequence[str]) -> tuple[Word, ...]:
    return tuple(
        Word(text=text, start=word.start, end=word.end, score=0.9)
        for word, text in zip(heard, texts, strict=True)
    )


def _token(text: str) -> TokenLogprob:
    token = f" {text}"
    return TokenLogprob(token=token, logprob=WORD_LOGPROB, bytes=tuple(token.encode()))


class FakeAligner:
    """Aligns the words of a segment with the tones."""

    def align(self, items: Sequence[AlignItem]) -> list[Segment]:
        """Segments with words, spread evenly if their number differs from that of the tones."""
        return [_aligned(item) for item in items]


def _aligned(item: AlignItem) -> Segment:
    segment, texts = item.segment, item.segment.text.split()
    heard = [
        word
        for word in hear(item.samples, item.offset)
        if segment.start - 1e-6 <= word.start and word.end <= segment.end + 1e-6
    ]
    if len(heard) == len(texts):
        words = _words(heard, texts)
    else:
        edges = np.linspace(segment.start, segment.end, len(texts) + 1).tolist()
        words = tuple(
            Word(text=text, start=start, end=end)
            for text, (start, end) in zip(texts, pairwise(edges), strict=True)
        )
    return replace(segment, start=words[0].start, end=words[-1].end, words=words)


class FakeDiarizer:
    """Recognises speakers by their tones."""

    @property
    def match_threshold(self) -> float:
        return 0.5

    def diarize(
        self, clip: AudioClip, options: DiarizeOptions
    ) -> Generator[float, None, Diarization]:
        """A step per turn; speakers beyond the requested maximum are merged into the last one."""
        heard = hear(clip.samples)
        voices = list(dict.fromkeys(word.speaker for word in heard))
        most = options.num_speakers or options.max_speakers or SPEAKERS
        names = {voice: f"SPEAKER_{min(place, most - 1):02d}" for place, voice in enumerate(voices)}
        turns: list[SpeakerTurn] = []
        for word in heard:
            turn = SpeakerTurn(start=word.start, end=word.end, speaker=names[word.speaker])
            if (
                turns
                and turns[-1].speaker == turn.speaker
                and turn.start - turns[-1].end <= TURN_PAUSE
            ):
                turn = replace(turn, start=turns.pop().start)
            else:
                yield turn.start / clip.duration
            turns.append(turn)
        wanted = options.embeddings or options.known_speakers
        return Diarization(
            turns=tuple(turns),
            exclusive=tuple(turns),
            embeddings={names[voice]: _voice_vector(voice) for voice in reversed(voices)}
            if wanted
            else {},
        )

    def embed(self, clips: Sequence[AudioClip]) -> list[tuple[float, ...] | None]:
        """The embedding of the speaker with the most words."""
        answers: list[tuple[float, ...] | None] = []
        for clip in clips:
            voices = Counter(word.speaker for word in hear(clip.samples)).most_common(1)
            answers.append(_voice_vector(voices[0][0]) if voices else None)
        return answers


def _voice_vector(voice: int) -> tuple[float, ...]:
    return tuple(float(place == voice) for place in range(SPEAKERS))


class FakeVoiceDetector:
    """Detects speech by loudness: `threshold` is the root mean square over 10 ms."""

    def start(self, options: VadOptions) -> Detection:
        threshold = AUDIBLE if options.threshold is None else options.threshold
        thresholds = ACTIVITY.overridden(replace(options, threshold=None))
        return FrameDetection(_Loudness(threshold), Binarizer(thresholds, step=FRAME / SAMPLE_RATE))


class _Loudness:
    """Scores loud frames as certain speech and others as a possible pause."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._samples = silence(0)  # of a frame that is not whole yet

    def push(self, samples: Samples) -> list[float]:
        known = np.concatenate([self._samples, samples])
        audible = _audible(known, self._threshold)
        self._samples = known[len(audible) * FRAME :]
        scores: list[float] = np.where(audible, 1.0, 0.5).tolist()
        return scores

    def finish(self) -> list[float]:
        return []


def load_transcriber(_spec: ModelSpec) -> Transcriber:
    return FakeTranscriber()


def load_aligner(_spec: ModelSpec) -> Aligner:
    return FakeAligner()


def load_diarizer(_spec: ModelSpec) -> Diarizer:
    return FakeDiarizer()


def load_voice_detector(_spec: ModelSpec) -> VoiceDetector:
    return FakeVoiceDetector()


def align_model(language: str) -> str | None:
    """Return the name of the align model for a language of `VOCABULARY`."""
    return f"fake-{language}" if language in LANGUAGES else None
