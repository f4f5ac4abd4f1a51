"""Transcribes batches of windows with Whisper on CTranslate2."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...domain import SAMPLE_RATE, DecodeOptions, Samples, Segment, Window, WindowTranscript
from ...errors import InvalidRequest, TranscriptionFailed
from ..base import CLEAR_LANGUAGE, Capabilities, ContextStats
from ..vendors import translate_memory_errors
from .contexts import Contexts, cost_of, encoded_frames, is_doubtful
from .decoding import Decoding, is_speech, letters_of
from .encoding import EncodedBatch, Encoder
from .features import N_FRAMES, LogMel, Mel
from .parts import Parts
from .search import MIN_BEAM_TO_SAMPLE, PLAIN, BeamSearch, Row
from .spelling import NumeralSpeller
from .timing import CrossAttention, Heard, cut_window
from .vocabulary import Vocabulary

CAPABILITIES = Capabilities(
    tasks=frozenset({"transcribe", "translate"}),
    detects_language=True,
    can_time_words=True,
    can_prompt=True,
    can_logprobs=True,
    can_sample=True,
    spells_numerals=True,
    tells_silence=True,
    max_window=30.0,
    padded_to=30.0,
)
"""Capabilities of every multilingual Whisper model."""

ENGLISH_ONLY = replace(CAPABILITIES, languages=frozenset({"en"}), tasks=frozenset({"transcribe"}))

LEAST_PACE_OF_PART = 1.25  # half of what covers a window, in a part that was found without words
MAX_DEPTH = 2  # unheard parts of unheard parts of a window are decoded, but no deeper


class WhisperTranscriber:
    """A `Transcriber` over `ctranslate2.models.Whisper`.

    Deterministic: a window's text does not depend on the rest of the batch. It equals the text of
    WhisperX's pipeline, unless numerals are spelled, the window is doubtful or partly unheard, or
    `contexts` gives it a short context. `fallback` False does not decode doubtful and partly
    unheard windows again. `log_mel` must be thread-safe; None computes features with numpy. A batch
    is divided into at most `parts`, which the model must be able to compute side by side.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        *,
        contexts: Contexts,
        fallback: bool,
        log_mel: Callable[[Samples], Mel] | None = None,
        parts: int = 1,
    ) -> None:
        self._model = model
        self._parts = Parts(parts)
        self._encoder = Encoder(model)
        self._contexts = contexts
        self._fallback = fallback
        self._vocabulary = vocabulary
        self._search = BeamSearch(model, vocabulary, fallback=fallback)
        self._speller = NumeralSpeller(self._search, vocabulary)
        self._attention = CrossAttention(model, vocabulary)
        self._log_mel = LogMel(model.n_mels) if log_mel is None else log_mel
        self._capabilities = replace(
            CAPABILITIES if model.is_multilingual else ENGLISH_ONLY,
            languages=vocabulary.languages,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def context_stats(self) -> ContextStats:
        """See `base.ShortContexts`."""
        return self._contexts.stats

    def batch_key(self, options: DecodeOptions) -> Hashable:
        """What one `generate` call shares, and whether it is a draft. Thread-safe."""
        context = self._vocabulary.context(options.prompt, options.hotwords)
        sampled = options.temperature > 0
        beam = max(options.beam_size, MIN_BEAM_TO_SAMPLE) if sampled else options.beam_size
        return len(context), beam, options.temperature, options.draft

    def features(self, window: Window) -> Mel:
        """Compute the window's log-mel spectrogram, (n_mels, 3000). Thread-safe.

        Raises:
            InsufficientMemory: the device's memory ran out.
            TranscriptionFailed: the device failed for another reason.
        """
        with _translated_errors():
            return self._log_mel(window.samples)

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode windows with equal `batch_key` in one batch.

        Raises:
            InvalidRequest: the model does not support a language, or cannot detect it.
            InsufficientMemory: fewer windows may succeed.
            TranscriptionFailed: CTranslate2 failed for another reason.
        """
        if not windows:
            return []
        mels = [
            mel if isinstance(mel, np.ndarray) else self.features(window)
            for window, mel in zip(windows, features, strict=True)
        ]

        def decode(part: Sequence[int]) -> list[WindowTranscript]:
            return self._transcribe(
                [windows[place] for place in part],
                [options[place] for place in part],
                [mels[place] for place in part],
                depth=0,
            )

        with _translated_errors():
            return self._parts.compute([cost_of(window) for window in windows], decode)

    def _transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        mels: Sequence[Mel],
        *,
        depth: int,
    ) -> list[WindowTranscript]:
        """Decode windows, those with equal contexts together.

        Those with a doubtful text are decoded again in the full context, unless they are drafts.
        """
        found: dict[int, WindowTranscript] = {}

        def decode(places: Sequence[int], frames: int) -> list[int]:
            """Decode some of the windows; returns those that are doubtful."""
            transcripts, doubtful = self._in_context(
                [windows[place] for place in places],
                [options[place] for place in places],
                np.stack([mels[place][:, :frames] for place in places]),
                depth=depth,
            )
            found.update(zip(places, transcripts, strict=True))
            return [places[index] for index in doubtful]

        draft = options[0].draft
        groups = self._contexts.groups(windows, draft=draft)
        full = groups.pop(N_FRAMES, []) if not draft else []
        repeated = [place for frames, places in groups.items() for place in decode(places, frames)]
        if draft:
            return [found[place] for place in range(len(windows))]
        again = decode([*full, *repeated], N_FRAMES) if full or repeated else []
        self._contexts.count(
            windows=len(windows) - len(full),
            repeated=len(repeated),
            failed=len(set(repeated) - set(again)),
        )
        return [found[place] for place in range(len(windows))]

    def _in_context(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        mels: NDArray[np.float32],
        *,
        depth: int,
    ) -> tuple[list[WindowTranscript], list[int]]:
        """Decode windows in one context: the frames of `mels`, (batch, n_mels, frames).

        Returns their transcripts, and the indices of doubtful ones. These have no text if the
        context is short, or if they are drafts.
        """
        frames = [encoded_frames(window, mels.shape[-1]) for window in windows]
        encoded = EncodedBatch(self._encoder, mels, frames)
        languages = self._languages(encoded, options)
        rows = [
            self._row(place, windows[place], options[place], language)
            for place, (language, _) in enumerate(languages)
        ]
        clear = [options[0].draft or each >= CLEAR_LANGUAGE for _, each in languages]
        decodings, doubtful = self._decode(encoded, rows, windows, options, clear)
        heard = [
            Heard(
                row=rows[place],
                window=windows[place],
                options=options[place],
                segment=_segment(windows[place], decoding, languages[place][0]),
            )
            for place, decoding in decodings.items()
        ]
        around: dict[int, tuple[list[Segment], list[Segment]]] = {}
        if self._fallback and depth < MAX_DEPTH and not options[0].draft:
            heard, around = self._with_parts(encoded, heard, depth + 1)
        segments: dict[int, list[Segment]] = {}
        for one, segment in zip(heard, self._attention.detailed(encoded, heard), strict=True):
            before, behind = around.get(one.row.place, ([], []))
            segments[one.row.place] = [*before, segment, *behind]
        transcripts = [
            WindowTranscript(
                window_index=window.index,
                language=language,
                language_probability=probability,
                segments=tuple(segments.get(place, ())),
            )
            for place, (window, (language, probability)) in enumerate(
                zip(windows, languages, strict=True)
            )
        ]
        return transcripts, doubtful

    def _row(self, place: int, window: Window, options: DecodeOptions, language: str) -> Row:
        context = self._vocabulary.context(options.prompt, options.hotwords)
        return Row(
            place=place,
            seconds=len(window.samples) / SAMPLE_RATE,
            language="en" if options.task == "translate" else language,
            prompt=(*context, *self._vocabulary.prompt(options.task, language)),
            context=len(context),
            seed=zlib.crc32(window.samples.tobytes()) if options.temperature > 0 else 0,
        )

    def _decode(
        self,
        encoded: EncodedBatch,
        rows: Sequence[Row],
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        clear: Sequence[bool],
    ) -> tuple[dict[int, Decoding], list[int]]:
        """Decode the windows; returns those with speech, by their index, and the doubtful ones.

        Those without a `clear` language are doubtful too. In a short context, or as a draft, a
        doubtful window is neither decoded again nor returned with a text.
        """
        beam, temperature = options[0].beam_size, options[0].temperature
        once = encoded.short or options[0].draft
        if once:
            decodings = self._search.generate(encoded, rows, PLAIN, beam, temperature)
        else:
            decodings = self._search.decode(encoded, rows, beam, temperature)
        doubtful = [
            row.place
            for row, decoding in zip(rows, decodings, strict=True)
            if is_doubtful(decoding, row) or not clear[row.place]
        ]
        found = {
            row.place: decoding
            for row, decoding in zip(rows, decodings, strict=True)
            if not (once and row.place in doubtful)
            and is_speech(decoding, windows[row.place], options[row.place])
        }
        in_words = [place for place in found if options[place].suppress_numerals]
        spelled = self._speller.spelled(
            encoded,
            [rows[place] for place in in_words],
            [found[place] for place in in_words],
            beam,
            temperature,
        )
        return found | dict(zip(in_words, spelled, strict=True)), doubtful

    def _with_parts(
        self, encoded: EncodedBatch, heard: Sequence[Heard], depth: int
    ) -> tuple[list[Heard], dict[int, tuple[list[Segment], list[Segment]]]]:
        """Separate the parts of windows that have speech but no words, and decode them.

        Returns the windows without these parts, and the segments before and after each, by its
        index in the batch.
        """
        kept = list(heard)
        around: dict[int, tuple[list[Segment], list[Segment]]] = {}
        for index, (before, behind) in self._attention.unheard(encoded, heard).items():
            one = heard[index]
            first, last = (
                self._part(part, one, depth) if part else [] for part in (before, behind)
            )
            kept[index] = one.between(
                before.end if before and first else one.window.start,
                behind.start if behind and last else one.window.end,
            )
            around[one.row.place] = first, last
        return kept, around

    def _part(self, part: Window, whole: Heard, depth: int) -> list[Segment]:
        """Decode a part at one end of a window; returns its segments if they are sure.

        If the whole window has the same text, it was spoken twice only if the rest of the window
        has it too. Otherwise it was spoken once, and the decoder's attention misplaced it. Fewer
        tokens than `LEAST_PACE_OF_PART` are not speech: laughter is "Montreal. Forced. A liner."
        """
        found = self._again(part, whole, depth)
        if sum(len(each.tokens) for each in found) < LEAST_PACE_OF_PART * part.speech_seconds:
            return []
        known = letters_of(whole.segment.text)
        if all(letters_of(segment.text) not in known for segment in found):
            return found
        begins = part.start - whole.window.start < whole.window.end - part.end
        start, end = (part.end, whole.window.end) if begins else (whole.window.start, part.start)
        rest = cut_window(whole.window, start, end)
        said = (
            letters_of(" ".join(each.text for each in self._again(rest, whole, depth)))
            if rest
            else ""
        )
        return [
            segment
            for segment in found
            if (letters := letters_of(segment.text)) not in known or letters in said
        ]

    def _again(self, part: Window, whole: Heard, depth: int) -> list[Segment]:
        """Decode a part of a window separately."""
        options = replace(whole.options, language=whole.segment.language)
        [found] = self._transcribe([part], [options], [self.features(part)], depth=depth)
        return list(found.segments)

    def _detect(self, encoded: EncodedBatch, rows: Sequence[int]) -> list[Mapping[str, float]]:
        if not self._model.is_multilingual:
            return [{"en": 1.0} for _ in rows]
        return [
            {token[2:-2]: probability for token, probability in found}
            for found in self._model.detect_language(encoded.rows(rows))
        ]

    def _languages(
        self, encoded: EncodedBatch, options: Sequence[DecodeOptions]
    ) -> list[tuple[str, float]]:
        """Language and probability per window: the requested or the detected one."""
        languages = [(wanted.language or "", 1.0) for wanted in options]
        unknown = [row for row, wanted in enumerate(options) if wanted.language is None]
        if unknown:
            rows = unknown if encoded.sliceable else range(len(options))
            heard = dict(zip(rows, self._detect(encoded, rows), strict=True))
            for row in unknown:
                languages[row] = _choose_language(heard[row], options[row])
        return languages


def _segment(window: Window, decoding: Decoding, language: str) -> Segment:
    """The window as one segment, as in WhisperX."""
    return Segment(
        start=window.start,
        end=window.end,
        text=decoding.text,
        language=language,
        tokens=decoding.tokens,
        temperature=decoding.temperature,
        avg_logprob=decoding.avg_logprob,
        compression_ratio=decoding.compression_ratio,
        no_speech_prob=decoding.no_speech_prob,
    )


def _choose_language(heard: Mapping[str, float], options: DecodeOptions) -> tuple[str, float]:
    """The most probable candidate, with its share of the candidates' probability."""
    if not heard:  # converted without its list of languages
        raise InvalidRequest("this model cannot detect the language: send it", param="language")
    shares = {code: heard[code] for code in options.languages if code in heard} or dict(heard)
    total = sum(shares.values())
    language = max(shares, key=shares.__getitem__)
    return language, shares[language] / total if total > 0 else 0.0


@contextmanager
def _translated_errors() -> Iterator[None]:
    too_large = (
        "the batch does not fit into memory: lower WHISPER__BATCH_SIZE or use a smaller model"
    )
    try:
        with translate_memory_errors(too_large):
            yield
    except (RuntimeError, ValueError) as error:
        raise TranscriptionFailed(
            "the Whisper engine failed on this recording: see the server's log"
        ) from error
