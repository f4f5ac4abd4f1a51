"""Whisper's vocabulary: prompts, suppressed tokens, texts and the bytes of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ...domain import Task
from ...errors import InvalidRequest
from ..vendors import require

MAX_LENGTH = 448  # positions of Whisper's decoder
MAX_CONTEXT = MAX_LENGTH // 2 - 1  # tokens of prompt and hotwords, openai/whisper decoding.py
MAX_CONTEXT_CHARACTERS = 8192  # tokenized at most: clients may send far more than is used
NUMERAL_CHARACTERS = frozenset("0123456789%$£")  # WhisperX's `suppress_numerals`


class Vocabulary:
    """The tokenizer of one model. Thread-safe."""

    def __init__(self, tokenizer_file: Path, *, multilingual: bool) -> None:
        self._multilingual = multilingual
        self._tokenizer = require("tokenizers", extra="cpu").Tokenizer.from_file(
            str(tokenizer_file)
        )
        self._splitter = require("faster_whisper.tokenizer", extra="cpu").Tokenizer
        self.end_of_text = self._id("<|endoftext|>")
        self._start = self._id("<|startoftranscript|>")
        self._start_of_previous = self._id("<|startofprev|>")
        self._no_timestamps = self._id("<|notimestamps|>")
        self._tasks: Mapping[Task, int] = {
            "transcribe": self._id("<|transcribe|>"),
            "translate": self._id("<|translate|>"),
        }
        self._languages = self._find_languages()
        self._bytes = _byte_decoder()

    @property
    def languages(self) -> frozenset[str]:
        """The supported language codes."""
        return frozenset(self._languages)

    def prompt(self, task: Task, language: str) -> tuple[int, ...]:
        """The decoder's start tokens, after the context.

        Raises:
            InvalidRequest: the model does not support the language.
        """
        if language not in self._languages:
            raise InvalidRequest(
                f"the model does not support the language {language!r}", param="language"
            )
        if not self._multilingual:
            return self._start, self._no_timestamps
        return self._start, self._languages[language], self._tasks[task], self._no_timestamps

    def context(self, prompt: str | None, hotwords: str | None) -> tuple[int, ...]:
        """The tokens before `<|startoftranscript|>`: the hotwords, then the prompt.

        As in faster-whisper, hotwords keep their beginning and the prompt keeps its end. If both
        are long they share the maximum length of one, so that there is room for the text.
        """
        words = self.encode((hotwords or "")[:MAX_CONTEXT_CHARACTERS])[:MAX_CONTEXT]
        before = self.encode((prompt or "")[-MAX_CONTEXT_CHARACTERS:])
        before = before[max(0, len(before) - (MAX_CONTEXT - len(words))) :]
        return (self._start_of_previous, *words, *before) if words or before else ()

    @cached_property
    def numerals(self) -> list[int]:
        """Ids of the text tokens that contain a digit or one of `%$£`."""
        texts = self._tokenizer.decode_batch([[token] for token in range(self.end_of_text)])
        return [token for token, text in enumerate(texts) if NUMERAL_CHARACTERS & set(text)]

    def text_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The tokens without special tokens."""
        return [token for token in tokens if token < self.end_of_text]

    def decode(self, tokens: Sequence[int]) -> str:
        """Decode text tokens."""
        return str(self._tokenizer.decode(tokens))

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that a text token stands for; a character may need several tokens."""
        return bytes(self._bytes[character] for character in self._tokenizer.id_to_token(token))

    def split_words(self, tokens: Sequence[int], language: str) -> list[tuple[str, int]]:
        """The words of text tokens, each with its number of tokens.

        A language without spaces is split at every character, as openai/whisper does.
        """
        splitter = self._splitter(
            self._tokenizer, self._multilingual, task="transcribe", language=language
        )
        words, groups = splitter.split_to_word_tokens(list(tokens))
        return [(word, len(group)) for word, group in zip(words, groups, strict=True)]

    def encode(self, text: str) -> list[int]:
        """Encode a text after one space, as Whisper writes it; no tokens for blank text."""
        if not text.strip():
            return []
        ids = self._tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids
        return self.text_tokens(ids)  # removes special tokens such as "<|startoftranscript|>"

    def _find_languages(self) -> dict[str, int]:
        """Language code -> token: in every version, those between the start and the tasks."""
        if not self._multilingual:
            return {"en": self._start}
        tokens = range(self._start + 1, min(self._tasks.values()))
        return {self._tokenizer.id_to_token(token)[2:-2]: token for token in tokens}

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token}")
        return int(found)


def _byte_decoder() -> dict[str, int]:
    """GPT-2's byte-level alphabet, reversed: printable Latin-1 is itself, others follow U+00FF."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(rest)
    }
