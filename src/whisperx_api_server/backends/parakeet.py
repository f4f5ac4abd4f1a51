"""Transcription with NVIDIA NeMo Parakeet: FastConformer transducers (TDT, RNNT, hybrid TDT-CTC).

NeMo's own `transcribe` wraps each call in a data loader, a temporary directory and a switch of the
decoding strategy. Here the strategy is set once, and a batch goes straight through preprocessor,
encoder and greedy decoder. Words are put together from the tokens, so that text, times and
scores cannot disagree.
"""

from __future__ import annotations

import logging
import math
import re
import tarfile
import warnings
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..domain import (
    DecodeOptions,
    Samples,
    Segment,
    TokenLogprob,
    Window,
    WindowTranscript,
    Word,
)
from ..errors import (
    InsufficientMemory,
    ModelNotFound,
    ModelUnavailable,
    NotConfigured,
    TranscriptionFailed,
)
from .base import Capabilities, ModelSpec, Transcriber, require
from .hub import shown_name, snapshot, translate_hub_errors

EXTRA = "parakeet"
SAMPLE_RATE = 16_000

MIN_SAMPLES = SAMPLE_RATE
"""NeMo centre-pads what is shorter than a second, which shifts its times: we pad at the end."""

SILENCE_PEAK = 2 / 32768
"""Digital silence, two steps of 16 bits, is not shown to the model: it hears words in it."""

MAX_BATCH = 128

# fmt: off
V3_LANGUAGES = frozenset({
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it",
    "lt", "lv", "mt", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk",
})
# fmt: on
"""From the model card of nvidia/parakeet-tdt-0.6b-v3."""

SENTENCE_END = re.compile(r"[.?!…]['\"”’»)\]]*$")
TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs."})
SENTENCE_PAUSE = 1.5
"""Seconds without a word that end a sentence even where no punctuation does."""

CLOSING_PUNCTUATION = frozenset(".,?!:;%…")
WORD_START = "▁"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")

_PRECISIONS = {
    "default": "float32",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_CHATTY_LOGGERS = ("nv_one_logger", "nemo_logger", "lightning", "lightning.pytorch", "lhotse")


def supports_name(name: str) -> bool:
    """Whether a model name asks for this backend: a Parakeet of NVIDIA's, or a `.nemo` file."""
    name = name.lower()
    return name.startswith(("nvidia/parakeet-", "parakeet-")) or name.endswith(".nemo")


def supported_languages(name: str) -> frozenset[str]:
    """The languages of a Parakeet by its name: version 3 has 25, all others are English only."""
    return V3_LANGUAGES if re.search(r"[-_]v3\b", name.lower()) else frozenset({"en"})


def load_transcriber(spec: ModelSpec) -> Transcriber:
    """Load a `.nemo` file, or a model of the hub (`parakeet-…` is short for `nvidia/parakeet-…`).

    Raises:
        NotInstalled: NeMo is absent.
        NotConfigured: the precision is none that Parakeet computes in.
        ModelNotFound: there is no such model, or it is no transducer.
        ModelUnavailable: the hub or the load failed.
        InsufficientMemory: the device cannot hold it.
    """
    if spec.compute_type not in _PRECISIONS:
        raise NotConfigured(
            f"PARAKEET__PRECISION cannot be {spec.compute_type!r}: "
            "set it to float32, bfloat16 or float16"
        )
    with _silenced():
        models = require("nemo.collections.asr.models", extra=EXTRA)
        nemo_logging = require("nemo.utils", extra=EXTRA).logging
        nemo_logging.set_verbosity(nemo_logging.ERROR)
        torch = require("torch", extra=EXTRA)
        omegaconf = require("omegaconf", extra=EXTRA)
        device = torch.device(
            f"{spec.device}:{spec.device_index}" if spec.device == "cuda" else spec.device
        )
        file = _nemo_file(spec)
        with _translated_load_errors(torch, spec.name):
            model = models.ASRModel.restore_from(str(file), map_location=device).eval()
            if not hasattr(model, "joint"):
                raise ModelNotFound(
                    f"{shown_name(spec.name)!r} is no transducer: use a parakeet-tdt, "
                    "parakeet-rnnt or parakeet-tdt_ctc model"
                )
            model.change_decoding_strategy(
                decoding_cfg=omegaconf.OmegaConf.merge(
                    omegaconf.OmegaConf.to_container(model.cfg.decoding),
                    {"strategy": "greedy_batch", "compute_timestamps": False},
                ),
                verbose=False,
            )
            dtype = getattr(torch, _PRECISIONS[spec.compute_type])
            # the preprocessor stays in float32: its mel filters lose their shape in half precision
            for part in (model.encoder, model.decoder, model.joint):
                part.to(dtype)
    return ParakeetTranscriber(
        model, torch=torch, device=device, dtype=dtype, languages=supported_languages(spec.name)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One decoded token: its frames in the encoder's output, and its natural log probability."""

    id: int
    piece: str
    start: int
    end: int
    logprob: float


class ParakeetTranscriber:
    """A `Transcriber` over a NeMo transducer; the model is touched by `transcribe` alone."""

    def __init__(
        self,
        model: Any,
        *,
        torch: Any,
        device: Any,
        dtype: Any,
        languages: frozenset[str],
    ) -> None:
        self._model = model
        self._torch = torch
        self._device = device
        self._dtype = dtype
        self._frame = float(model.encoder.subsampling_factor * model.cfg.preprocessor.window_stride)
        self._capabilities = Capabilities(
            languages=languages, native_words=True, can_logprobs=True, max_batch=MAX_BATCH
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def batch_key(self, options: DecodeOptions) -> Hashable:  # noqa: ARG002
        """Always equal: no option changes how a transducer decodes."""
        return None

    def features(self, window: Window) -> Samples:
        """The window's samples, finite, and at least `MIN_SAMPLES` of them."""
        samples = np.nan_to_num(window.samples, copy=True, nan=0.0, posinf=0.0, neginf=0.0)
        return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))

    def detect_language(self, windows: Sequence[Window]) -> list[Mapping[str, float]]:
        """Equal odds for all languages of the model: it follows a language without naming it."""
        languages = sorted(self._capabilities.languages or ())
        return [{language: 1 / len(languages) for language in languages} for _ in windows]

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode one batch greedily; the answer for a window does not depend on the others."""
        heard = [
            ready if isinstance(ready, np.ndarray) else self.features(window)
            for window, ready in zip(windows, features, strict=True)
        ]
        audible = [i for i, samples in enumerate(heard) if np.abs(samples).max() > SILENCE_PEAK]
        decoded = dict(
            zip(audible, self._decode([heard[i] for i in audible]), strict=True) if audible else ()
        )
        return [
            self._transcript(window, option, decoded.get(i, []))
            for i, (window, option) in enumerate(zip(windows, options, strict=True))
        ]

    def _decode(self, batch: Sequence[Samples]) -> list[list[Token]]:
        """Tokens of each recording, for a non-empty batch."""
        torch, model = self._torch, self._model
        padded = np.zeros((len(batch), max(map(len, batch))), np.float32)
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = samples
        with _translated_inference_errors(torch), torch.inference_mode():
            mel, mel_lengths = model.preprocessor(
                input_signal=torch.from_numpy(padded).to(self._device),
                length=torch.tensor([len(samples) for samples in batch], device=self._device),
            )
            encoded, lengths = model.encoder(audio_signal=mel.to(self._dtype), length=mel_lengths)
            hypotheses = model.decoding.rnnt_decoder_predictions_tensor(
                encoded, lengths, return_hypotheses=True
            )
            return self._tokens(encoded, hypotheses)

    def _tokens(self, encoded: Any, hypotheses: Sequence[Any]) -> list[list[Token]]:
        """The hypotheses' tokens, scored and timed by one more look at the frames they came from.

        The durations that NeMo 3.0 records change with a recording's neighbours in the batch, and
        its confidence is no plain probability. Given the tokens, one pass of the prediction
        network and a joint over (frame, prefix) pairs gives both exactly, for little.
        """
        torch, model = self._torch, self._model
        counts = [len(hypothesis.y_sequence) for hypothesis in hypotheses]
        if not any(counts):
            return [[] for _ in hypotheses]
        ids = [hypothesis.y_sequence.long() for hypothesis in hypotheses]
        flat = torch.cat(ids).to(self._device)
        frames = torch.cat([hypothesis.timestamp.long() for hypothesis in hypotheses])
        steps = torch.cat([torch.arange(count) for count in counts])
        lengths = torch.tensor(counts)
        rows = torch.repeat_interleave(torch.arange(len(counts)), lengths)
        predicted, *_ = model.decoder(
            targets=torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self._device),
            target_length=lengths.to(self._device),
        )
        # encoded (B, D, T) and predicted (B, H, 1 + U) -> joint (N, 1, D), (N, 1, H)
        logits = model.joint.joint(
            encoded[rows, :, frames].unsqueeze(1), predicted[rows, :, steps].unsqueeze(1)
        )[:, 0, 0].float()
        labels = model.decoding.blank_id + 1
        logprobs = logits[:, :labels].log_softmax(-1).gather(-1, flat[:, None])[:, 0]
        durations = getattr(model.decoding, "durations", None)
        if durations:  # a TDT; without durations a token lasts the frame that it was found in
            lasted = torch.tensor(list(durations))[logits[:, labels:].argmax(-1).cpu()]
        else:
            lasted = torch.ones_like(frames)
        pieces = model.tokenizer.ids_to_tokens(flat.tolist())
        tokens = [
            Token(id=token, piece=piece, start=start, end=start + max(1, length), logprob=logprob)
            for token, piece, start, length, logprob in zip(
                flat.tolist(),
                pieces,
                frames.tolist(),
                lasted.tolist(),
                logprobs.tolist(),
                strict=True,
            )
        ]
        ends = np.cumsum(counts).tolist()
        return [tokens[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _transcript(
        self, window: Window, options: DecodeOptions, tokens: Sequence[Token]
    ) -> WindowTranscript:
        language, probability = self._language(options)
        spoken = words_of_tokens(tokens, self._model.tokenizer.ids_to_text)
        timed = timed_words(spoken, window, self._frame)
        text = " ".join(word.text for word in timed)
        segments = tuple(
            Segment(
                start=timed[first].start,
                end=timed[last - 1].end,
                text=" ".join(word.text for word in timed[first:last]),
                language=language,
                words=tuple(timed[first:last]),
                tokens=tuple(token.id for word in spoken[first:last] for token in word.tokens),
                avg_logprob=sum(token.logprob for token in tokens) / len(tokens),
                compression_ratio=len(text.encode()) / len(zlib.compress(text.encode())),
                logprobs=tuple(
                    token_logprob(token) for word in spoken[first:last] for token in word.tokens
                )
                if options.logprobs
                else (),
            )
            for first, last in sentence_bounds(timed)
        )
        return WindowTranscript(
            window_index=window.index,
            language=language,
            language_probability=probability,
            segments=segments,
        )

    def _language(self, options: DecodeOptions) -> tuple[str, float]:
        """What the window is in, as far as anybody knows, and how far that is."""
        languages = self._capabilities.languages or frozenset()
        if options.language is not None:
            return options.language, 1.0
        if len(languages) == 1:
            return next(iter(languages)), 1.0
        return options.fallback_language or "en", 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenWord:
    """The tokens of a word, its punctuation among them."""

    text: str
    tokens: tuple[Token, ...]


def words_of_tokens(
    tokens: Sequence[Token], text_of: Callable[[list[int]], str]
) -> list[SpokenWord]:
    """Group tokens by the word-start mark; `text_of` writes a word's token ids as text.

    Punctuation that the tokenizer sets apart joins the word before it.
    """
    groups: list[list[Token]] = []
    for token in tokens:
        if token.piece.startswith(WORD_START) or not groups:
            groups.append([])
        groups[-1].append(token)
    words: list[SpokenWord] = []
    for group in groups:
        text = text_of([token.id for token in group]).strip()
        if words and set(text) <= CLOSING_PUNCTUATION:
            before = words.pop()
            text, group = before.text + text, [*before.tokens, *group]
        if text:
            words.append(SpokenWord(text=text, tokens=tuple(group)))
    return words


def timed_words(words: Sequence[SpokenWord], window: Window, frame: float) -> list[Word]:
    """Words on the recording's clock: in order, never overlapping, inside the window.

    `frame` is the encoder's step in seconds. A lone word-start mark and punctuation do not count:
    both are found away from the sound, the one early and the other late.
    """
    timed: list[Word] = []
    earliest = window.start
    for i, word in enumerate(words):
        voiced = [token for token in word.tokens if re.search(r"\w", token.piece)]
        sounding = voiced or list(word.tokens)
        end = window.start + sounding[-1].end * frame
        if i + 1 < len(words):
            end = min(end, window.start + _first_frame(words[i + 1]) * frame)
        start = min(max(window.start + sounding[0].start * frame, earliest), window.end)
        end = min(max(end, start), window.end)
        score = math.exp(min(token.logprob for token in sounding))
        timed.append(Word(text=word.text, start=start, end=end, score=score))
        earliest = end
    return timed


def _first_frame(word: SpokenWord) -> int:
    return next(
        (token.start for token in word.tokens if re.search(r"\w", token.piece)),
        word.tokens[0].start,
    )


def sentence_bounds(words: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """Index ranges of the sentences: each ends on `.`, `?`, `!` or `…`, or before a long pause."""
    first = 0
    for i, word in enumerate(words, 1):
        ends = SENTENCE_END.search(word.text) and word.text.lower() not in TITLES
        if i == len(words) or ends or words[i].start - word.end >= SENTENCE_PAUSE:
            yield first, i
            first = i


def token_logprob(token: Token) -> TokenLogprob:
    """The token as OpenAI's `logprobs` lists it; pieces of single bytes keep their byte."""
    byte = BYTE_PIECE.fullmatch(token.piece)
    text = token.piece.replace(WORD_START, " ")
    return TokenLogprob(
        token=text,
        logprob=token.logprob,
        bytes=(int(byte[1], 16),) if byte else tuple(text.encode()),
    )


def _nemo_file(spec: ModelSpec) -> Path:
    """The `.nemo` file that `spec.name` means, downloaded if need be."""
    if spec.name.endswith(".nemo"):
        file = Path(spec.name).expanduser()
        if not file.is_file():
            raise ModelNotFound(f"there is no file {file.name!r}: name a .nemo file that exists")
        return file
    repo_id = spec.name if "/" in spec.name else f"nvidia/{spec.name}"
    folder = snapshot(spec, repo_id, patterns=["*.nemo"], extra=EXTRA)
    files = sorted(folder.glob("*.nemo"))
    if not files:
        raise ModelNotFound(f"{repo_id!r} holds no .nemo file: use a Parakeet of NVIDIA's")
    return files[0]


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep NeMo's import and load off stderr: loggers for good, Python warnings inside only."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _translated_load_errors(torch: Any, name: str) -> Iterator[None]:
    with translate_hub_errors(name, extra=EXTRA):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise InsufficientMemory(
                f"the device's memory does not hold {shown_name(name)!r}: "
                "unload other models, or use a smaller one"
            ) from error
        except (tarfile.TarError, RuntimeError, ValueError, KeyError) as error:
            raise ModelUnavailable(
                f"the model {shown_name(name)!r} could not be loaded ({type(error).__name__}): "
                "see the server's log"
            ) from error


@contextmanager
def _translated_inference_errors(torch: Any) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # on a CPU torch has no class of its own for this
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InsufficientMemory(
                "the device's memory does not hold this batch: use a smaller batch size"
            ) from error
        raise TranscriptionFailed(
            "the Parakeet model failed on this recording: try it again, or with another model"
        ) from error
