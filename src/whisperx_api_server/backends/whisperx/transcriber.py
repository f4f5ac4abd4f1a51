"""Whisper through CTranslate2: one batch of windows in, one transcript a window out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...domain import DecodeOptions, Samples, Segment, Window, WindowTranscript
from ...errors import InsufficientMemory, InvalidRequest, TranscriptionFailed
from ..base import Capabilities, require
from .decoding import TEMPERATURES, Decoding, best, compression_ratio
from .features import HOP, N_FRAMES, LogMel, Mel
from .vocabulary import MAX_LENGTH, Vocabulary
from .words import logprobs_of, words_of

BEST_OF = 5  # samples at a temperature above 0
OUT_OF_MEMORY = ("out of memory", "failed to allocate", "alloc_failed")
MIN_LANGUAGE_PROBABILITY = 0.5  # below it one window does not tell its language


class EncodedBatch:
    """The encoder's output for a batch, computed once, and parts of it.

    On a CPU the windows are encoded one by one: the encoder gains nothing by batches, and its
    attention over 1500 frames outgrows the caches. Twelve windows of Whisper base on two cores
    take 30 % less time so, and 0.3 GB instead of 1.3.
    """

    def __init__(self, model: Any, mels: NDArray[np.float32]) -> None:
        self._model = model
        self._mels = mels
        self._storage = require("ctranslate2", extra="cpu").StorageView
        one_by_one = model.device == "cpu"
        first = self._encode(mels[:1] if one_by_one else mels)
        # numpy sees neither a GPU's memory nor bfloat16
        self._sliceable = bool(first.device == "cpu" and first.dtype.name == "float32")
        if not one_by_one or len(mels) == 1:
            self._whole = first
        elif self._sliceable:
            rest = [np.asarray(self._encode(mels[row : row + 1])) for row in range(1, len(mels))]
            self._whole = self._storage.from_array(np.concatenate([np.asarray(first), *rest]))
        else:
            self._whole = self._encode(mels)

    @property
    def sliceable(self) -> bool:
        """Whether a part costs nothing."""
        return self._sliceable

    def rows(self, rows: Sequence[int]) -> Any:
        """The output for some windows (a ctranslate2.StorageView), in the order given."""
        if list(rows) == list(range(len(self._mels))):
            return self._whole
        if self.sliceable:
            return self._storage.from_array(np.asarray(self._whole)[list(rows)])
        return self._encode(self._mels[list(rows)])  # cheap beside decoding them again

    def _encode(self, mels: NDArray[np.float32]) -> Any:
        return self._model.encode(self._storage.from_array(np.ascontiguousarray(mels)))


class WhisperTranscriber:
    """A `Transcriber` over `ctranslate2.models.Whisper`.

    At temperature 0 it is deterministic, and unless the fallback sets in it gives the text that
    WhisperX's pipeline gives for the same windows. `fallback` False turns the fallback off.
    `log_mel` must be thread-safe; None is numpy's.
    """

    def __init__(
        self,
        model: Any,
        vocabulary: Vocabulary,
        *,
        max_batch: int,
        fallback: bool,
        log_mel: Callable[[Samples], Mel] | None = None,
    ) -> None:
        self._model = model
        self._ladder = TEMPERATURES if fallback else TEMPERATURES[:1]
        self._vocabulary = vocabulary
        self._log_mel = LogMel(model.n_mels) if log_mel is None else log_mel
        self._capabilities = Capabilities(
            languages=vocabulary.languages,
            tasks=frozenset(
                ("transcribe", "translate") if model.is_multilingual else ("transcribe",)
            ),
            detects_language=True,
            can_time_words=True,
            can_prompt=True,
            can_logprobs=True,
            can_sample=True,
            max_window=30.0,
            max_batch=max_batch,
            padded_to=30.0,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def batch_key(self, options: DecodeOptions) -> Hashable:
        """What one `generate` call has once: all that is before `<|startoftranscript|>` is as long,
        and beam, temperature and suppressed tokens are the same. Thread-safe.
        """
        context = self._vocabulary.context(options.prompt, options.hotwords)
        beam = options.beam_size if options.temperature == 0 else 1
        return len(context), beam, options.temperature, options.suppress_numerals

    def features(self, window: Window) -> Mel:
        """The window's log-mel spectrogram, (n_mels, 3000). Thread-safe.

        Raises:
            InsufficientMemory: the device's memory ran out.
            TranscriptionFailed: the device failed for another reason.
        """
        with _translated_errors():
            return self._log_mel(window.samples)

    def detect_language(self, windows: Sequence[Window]) -> list[Mapping[str, float]]:
        if not windows:
            return []
        mels = np.stack([self.features(window) for window in windows])
        with _translated_errors():
            return self._detect(EncodedBatch(self._model, mels), range(len(windows)))

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode windows whose options have one `batch_key`, in one batch.

        Raises:
            InvalidRequest: the model does not know an option's language, or cannot detect it.
            InsufficientMemory: fewer windows may succeed.
            TranscriptionFailed: CTranslate2 failed for another reason.
        """
        if not windows:
            return []
        mels = np.stack(
            [
                mel if isinstance(mel, np.ndarray) else self.features(window)
                for window, mel in zip(windows, features, strict=True)
            ]
        )
        with _translated_errors():
            encoded = EncodedBatch(self._model, mels)
            languages = self._languages(encoded, options)
            prompts = [
                self._vocabulary.prompt(wanted, language)
                for wanted, (language, _) in zip(options, languages, strict=True)
            ]
            decodings = self._decode(encoded, prompts, options[0])
            segments = [
                _segment(window, decoding, language)
                for window, decoding, (language, _) in zip(
                    windows, decodings, languages, strict=True
                )
            ]
            segments = self._with_details(encoded, windows, options, prompts, segments)
        return [
            WindowTranscript(
                window_index=window.index,
                language=language,
                language_probability=probability,
                segments=() if segment is None else (segment,),
            )
            for window, (language, probability), segment in zip(
                windows, languages, segments, strict=True
            )
        ]

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
        """Language and its probability for each window: as asked for, else as heard."""
        languages = [(wanted.language or "", 1.0) for wanted in options]
        unknown = [row for row, wanted in enumerate(options) if wanted.language is None]
        if unknown:
            rows = unknown if encoded.sliceable else range(len(options))
            heard = dict(zip(rows, self._detect(encoded, rows), strict=True))
            for row in unknown:
                languages[row] = _choose_language(heard[row], options[row])
        return languages

    def _decode(
        self, encoded: EncodedBatch, prompts: Sequence[list[int]], options: DecodeOptions
    ) -> list[Decoding]:
        """openai/whisper's ladder: who is doubtful at one temperature is tried at the next."""
        tries: list[list[Decoding]] = [[] for _ in prompts]
        pending = list(range(len(prompts)))
        for temperature in self._ladder if options.temperature == 0 else (options.temperature,):
            found = self._generate(
                encoded.rows(pending), [prompts[row] for row in pending], options, temperature
            )
            for row, decoding in zip(pending, found, strict=True):
                tries[row].append(decoding)
            pending = [row for row in pending if tries[row][-1].doubtful]
            if not pending:
                break
        return [best(found) for found in tries]

    def _generate(
        self,
        encoded: Any,
        prompts: list[list[int]],
        options: DecodeOptions,
        temperature: float,
    ) -> list[Decoding]:
        sampling: dict[str, object] = {"beam_size": options.beam_size}
        if temperature > 0:
            sampling = {
                "beam_size": 1,
                "num_hypotheses": BEST_OF,
                "sampling_topk": 0,
                "sampling_temperature": temperature,
            }
        # -1 stands for the symbols that the model's own config.json suppresses
        suppressed = [-1, *(self._vocabulary.numerals if options.suppress_numerals else ())]
        results = self._model.generate(
            encoded,
            prompts,
            max_length=MAX_LENGTH,
            suppress_tokens=suppressed,
            return_scores=True,
            return_no_speech_prob=True,
            **sampling,
        )
        return [self._decoding(result, temperature) for result in results]

    def _decoding(self, result: Any, temperature: float) -> Decoding:
        score, sequence = max(
            zip(result.scores, result.sequences_ids, strict=True), key=lambda pair: pair[0]
        )
        tokens = self._vocabulary.text_tokens(sequence)
        text = self._vocabulary.decode(tokens)
        return Decoding(
            tokens=tuple(tokens),
            text=text,
            temperature=temperature,
            # the score is a mean that does not count the end of the text; openai/whisper's does
            avg_logprob=score * len(sequence) / (len(sequence) + 1),
            compression_ratio=compression_ratio(text.strip()),
            no_speech_prob=result.no_speech_prob,
        )

    def _with_details(
        self,
        encoded: EncodedBatch,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        prompts: Sequence[list[int]],
        segments: Sequence[Segment | None],
    ) -> list[Segment | None]:
        """The segments with the words and log probabilities that their requests ask for."""
        detailed = list(segments)
        groups: dict[tuple[int, ...], list[int]] = {}  # one `align` call has one start sequence
        for row, (wanted, segment) in enumerate(zip(options, segments, strict=True)):
            if segment is not None and (wanted.word_timestamps or wanted.logprobs):
                start = _alignment_start(prompts[row], segment.tokens)
                groups.setdefault(start, []).append(row)
        for start, rows in groups.items():
            chosen = [(row, segment) for row in rows if (segment := segments[row]) is not None]
            found = self._model.align(
                encoded.rows(rows),
                list(start),
                [list(segment.tokens) for _, segment in chosen],
                [_frames(windows[row]) for row in rows],
            )
            for (row, segment), alignment in zip(chosen, found, strict=True):
                detailed[row] = self._detailed(segment, windows[row], options[row], alignment)
        return detailed

    def _detailed(
        self, segment: Segment, window: Window, wanted: DecodeOptions, alignment: Any
    ) -> Segment:
        probabilities = alignment.text_token_probs
        if wanted.word_timestamps:
            words = words_of(
                self._vocabulary,
                segment.tokens,
                segment.language or "en",
                path=alignment.alignments,
                probabilities=probabilities,
                window=window,
            )
            segment = replace(segment, words=words)
        if wanted.logprobs:
            logprobs = logprobs_of(self._vocabulary, segment.tokens, probabilities)
            segment = replace(segment, logprobs=logprobs)
        return segment


def _segment(window: Window, decoding: Decoding, language: str) -> Segment | None:
    """The window as one segment, as in WhisperX; None when nothing is said in it."""
    if decoding.silent or not decoding.text.strip():
        return None
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
    """The likeliest of the candidates, its probability being its share among them.

    A window that does not tell gets the recording's language, when that is known.
    """
    if not heard:  # converted without its list of languages
        raise InvalidRequest("this model cannot detect the language: name it", param="language")
    shares = {code: heard[code] for code in options.languages if code in heard} or dict(heard)
    total = sum(shares.values())
    language = max(shares, key=shares.__getitem__)
    share = shares[language] / total if total > 0 else 0.0
    fallback = options.fallback_language
    if share < MIN_LANGUAGE_PROBABILITY and fallback is not None:
        return fallback, shares.get(fallback, 0.0) / total if total > 0 else 0.0
    return language, share


def _frames(window: Window) -> int:
    """Frames of sound in the spectrogram; two are one position of the encoder, the least."""
    return min(max(2, len(window.samples) // HOP), N_FRAMES)


def _alignment_start(prompt: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
    """The prompt without `<|notimestamps|>`, which `align` adds itself.

    The probabilities are then those under the prompt. Where prompt, text and its end exceed the
    decoder's positions the oldest context goes.
    """
    excess = max(0, len(prompt) + len(tokens) + 1 - MAX_LENGTH)
    return tuple(prompt[excess:-1])


def out_of_memory(error: Exception) -> bool:
    """Whether CTranslate2 or torch failed because the device's or the machine's memory ran out."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in message for sign in OUT_OF_MEMORY)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        if out_of_memory(error):
            raise InsufficientMemory(
                "the memory does not suffice for this batch: lower WHISPER__BATCH_SIZE or use a "
                "smaller model"
            ) from error
        raise TranscriptionFailed(
            "the Whisper engine failed on this recording: see the server's log"
        ) from error
