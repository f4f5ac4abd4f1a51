"""A NeMo transducer as a `Transcriber`.

NeMo's `transcribe` wraps each call in a data loader, a temporary directory and a change of the
decoding strategy. Here the strategy is set once, and a batch goes directly through preprocessor,
encoder and greedy decoder. Words are assembled from the tokens, so that text, times and
scores are consistent.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...domain import SAMPLE_RATE, DecodeOptions, Samples, Segment, Window, WindowTranscript
from ...errors import TranscriptionFailed
from ..base import Capabilities
from ..vendors import translate_memory_errors
from .words import Token, timed_words, token_logprob, words_of_tokens

MIN_SAMPLES = SAMPLE_RATE
"""Shorter windows are padded at the end: NeMo would pad both sides, which shifts the times."""

SILENCE_PEAK = 2 / 32768
"""Digital silence (two steps of 16 bits) is not passed to the model, which hallucinates on it."""


class ParakeetTranscriber:
    """A `Transcriber` over a NeMo transducer; only `transcribe` uses the model."""

    def __init__(
        self,
        model: Any,
        *,
        torch: Any,
        device: Any,
        dtype: Any,
        capabilities: Capabilities,
    ) -> None:
        self._model = model
        self._torch = torch
        self._device = device
        self._dtype = dtype
        self._frame = float(model.encoder.subsampling_factor * model.cfg.preprocessor.window_stride)
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def batch_key(self, options: DecodeOptions) -> Hashable:  # noqa: ARG002
        """Always equal, because no option affects a transducer."""
        return None

    def features(self, window: Window) -> Samples:
        """The window's samples, finite and padded to at least `MIN_SAMPLES`."""
        samples = np.nan_to_num(window.samples, copy=True, nan=0.0, posinf=0.0, neginf=0.0)
        return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        """Decode one batch greedily; the result for a window does not depend on the others."""
        inputs = [
            ready if isinstance(ready, np.ndarray) else self.features(window)
            for window, ready in zip(windows, features, strict=True)
        ]
        audible = [i for i, samples in enumerate(inputs) if np.abs(samples).max() > SILENCE_PEAK]
        decoded = dict(
            zip(audible, self._decode([inputs[i] for i in audible]), strict=True) if audible else ()
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
        with _translated_inference_errors(), torch.inference_mode():
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
        """Return the hypotheses' tokens, with probabilities and durations.

        The durations of NeMo 3.0 depend on the other recordings in the batch, and its confidence
        is not a probability. With the tokens known, one pass of the prediction network and a joint
        over (frame, prefix) pairs computes both exactly, at a low cost.
        """
        torch, model = self._torch, self._model
        counts = [len(hypothesis.y_sequence) for hypothesis in hypotheses]
        if not any(counts):
            return [[] for _ in hypotheses]
        ids = [hypothesis.y_sequence.long() for hypothesis in hypotheses]
        flat = torch.cat(ids).to(self._device)
        frames = torch.cat([hypothesis.timestamp.long() for hypothesis in hypotheses]).cpu()
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
        if durations:  # of a TDT; without durations a token lasts one frame
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
        segment = Segment(
            start=timed[0].start if timed else window.start,
            end=timed[-1].end if timed else window.end,
            text=text,
            language=language,
            words=tuple(timed),
            tokens=tuple(token.id for token in tokens),
            avg_logprob=sum(token.logprob for token in tokens) / max(1, len(tokens)),
            compression_ratio=len(text.encode()) / len(zlib.compress(text.encode())),
            logprobs=tuple(token_logprob(token) for token in tokens) if options.logprobs else (),
        )
        return WindowTranscript(
            window_index=window.index,
            language=language,
            language_probability=probability,
            segments=(segment,) if text else (),
        )

    def _language(self, options: DecodeOptions) -> tuple[str, float]:
        """The window's language and its probability; English with 0 if unknown."""
        languages = self._capabilities.languages or frozenset()
        if options.language is not None:
            return options.language, 1.0
        if len(languages) == 1:
            return next(iter(languages)), 1.0
        return "en", 0.0


@contextmanager
def _translated_inference_errors() -> Iterator[None]:
    too_large = "the batch does not fit into the device's memory: use a smaller batch size"
    try:
        with translate_memory_errors(too_large):
            yield
    except RuntimeError as error:
        raise TranscriptionFailed(
            "the Parakeet model failed on this recording: try again, or use another model"
        ) from error
