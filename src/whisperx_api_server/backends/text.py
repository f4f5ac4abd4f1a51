"""Text models through transformers: sequence-to-sequence translation and causal generation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from ..domain import SPACELESS_LANGUAGES
from ..errors import InvalidRequest, ServiceError
from .base import Declaration, GenerationOptions, LanguageModel, ModelSpec, Stage, Translator
from .hub import translate_hub_errors
from .json_schema import SchemaGuide
from .vendors import require, translate_memory_errors

EXTRA = "text"

_TEXT = Declaration(packages=("torch", "transformers"), extra=EXTRA, probe="config.json")
DECLARATIONS: Mapping[Stage, Declaration] = {"translation": _TEXT, "generation": _TEXT}

GENERATE_BATCH = 16
"""Maximum number of sentences per `generate` call."""

MAX_NEW_TOKENS = 1024
"""Default of `max_new_tokens`."""


def import_vendors(_stage: Stage, _spec: ModelSpec) -> None:
    with warnings.catch_warnings(action="ignore"):
        for module in (
            "modeling_layers",
            "models.auto.modeling_auto",
            "models.auto.tokenization_auto",
        ):
            require(f"transformers.{module}", extra=EXTRA)


def load_translator(spec: ModelSpec) -> Translator:
    """Load a sequence-to-sequence model: MarianMT, or a multilingual M2M100, mBART-50 or NLLB.

    Raises:
        NotInstalled: transformers is not installed.
        ModelNotFound: there is no such model.
        ModelUnavailable: the hub or the load failed.
    """
    return Seq2SeqTranslator(_load(spec, "AutoModelForSeq2SeqLM"))


def load_language_model(spec: ModelSpec) -> LanguageModel:
    """Load a causal language model; raises the same errors as `load_translator`."""
    return CausalLanguageModel(_load(spec, "AutoModelForCausalLM"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _TextModel:
    """A loaded model with its tokenizer; `torch` is the module."""

    model: Any
    tokenizer: Any
    torch: Any

    @property
    def context(self) -> int:
        """Maximum number of tokens that the model can process."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return int(min(filter(None, (positions, self.tokenizer.model_max_length))))

    def generate(self, inputs: Any, **options: Any) -> Any:
        """Call the model's `generate`, and return token ids (N, T)."""
        too_long = "the text does not fit into the device's memory: send a shorter one"
        try:
            with translate_memory_errors(too_long), self.torch.inference_mode():
                return self.model.generate(**inputs.to(self.model.device), **options)
        except (RuntimeError, IndexError) as error:  # IndexError: tokens without weights
            raise ServiceError("the text model failed: try again, or use another model") from error


class Seq2SeqTranslator:
    """A `Translator`; sentences too long for the model are cut between words."""

    def __init__(self, text_model: _TextModel) -> None:
        self._text_model = text_model
        self._tokenizer = text_model.tokenizer

    def translate(self, sentences: Sequence[str], source: str, target: str) -> list[str]:
        """See `Translator.translate`.

        Raises:
            InvalidRequest: a multilingual model does not support one of the languages.
        """
        prefix, options = self._languages(source, target)
        parts = [list(self._fitting(sentence)) for sentence in sentences]
        translated = self._translated(chain.from_iterable(parts), prefix, options)
        gap = "" if target in SPACELESS_LANGUAGES else " "
        return [gap.join(islice(translated, len(each))) for each in parts]

    def _translated(
        self, parts: Iterator[str], prefix: str, options: Mapping[str, int]
    ) -> Iterator[str]:
        while batch := [prefix + part for part in islice(parts, GENERATE_BATCH)]:
            inputs = self._tokenizer(batch, padding=True, return_tensors="pt")
            ids = self._text_model.generate(inputs, **options)
            for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True):
                yield text.strip()

    def _fitting(self, sentence: str) -> Iterator[str]:
        # half the context: languages need up to twice the tokens of others, plus language codes
        if len(self._tokenizer(sentence).input_ids) <= self._text_model.context // 2:
            yield sentence
            return
        words = sentence.split()
        parts, gap = (words, " ") if len(words) > 1 else (list(sentence), "")
        if len(parts) == 1:
            yield sentence
            return
        middle = len(parts) // 2
        yield from self._fitting(gap.join(parts[:middle]))
        yield from self._fitting(gap.join(parts[middle:]))

    def _languages(self, source: str, target: str) -> tuple[str, dict[str, int]]:
        """How to select the model's languages: a prefix of the text, and options of `generate`."""
        tokenizer = self._tokenizer
        targets = getattr(tokenizer, "supported_language_codes", [])
        if targets:  # a MarianMT with several targets
            return f"{language_token(targets, target, 'target_language')} ", {}
        codes = (
            getattr(tokenizer, "lang_code_to_id", None)
            or {  # M2M100 and mBART-50, or NLLB
                each: tokenizer.convert_tokens_to_ids(each)
                for each in tokenizer.additional_special_tokens
                if each[:1] != "<"  # T5's sentinels, <extra_id_0> and so on
            }
        )
        if not codes:
            return "", {}
        tokenizer.src_lang = language_token(list(codes), source, "source_language")
        first = language_token(list(codes), target, "target_language")
        return "", {"forced_bos_token_id": codes[first]}


def language_token(tokens: Sequence[str], language: str, param: str) -> str:
    """Find the token of a language: `fr`, `>>fr<<`, `fr_XX` or `fra_Latn`.

    Raises:
        InvalidRequest: there is none.
    """
    for token in tokens:
        if re.split(r"[_-]", token.strip("<>"))[0] == language:
            return token
    raise InvalidRequest(
        f"this translation model does not support the language {language!r}: use another model",
        param=param,
    )


class CausalLanguageModel:
    """A `LanguageModel` over one causal model of transformers."""

    def __init__(self, text_model: _TextModel) -> None:
        self._text_model = text_model
        self._tokenizer = text_model.tokenizer
        self._llguidance_tokenizer: Any = None

    def generate(
        self,
        prompt: str,
        *,
        options: GenerationOptions,
        schema: Mapping[str, object] | None = None,
    ) -> str:
        """Answer a prompt, with the tokenizer's chat template if it has one.

        Raises:
            InvalidRequest: the prompt does not fit into the model's context, the schema is not
                supported, or `max_new_tokens` is too small for it.
        """
        guide = None if schema is None else self._guide(schema)
        inputs = self._encoded(prompt)
        length = int(inputs["input_ids"].shape[1])
        limit = self._limit(length, options.max_new_tokens)
        ids = self._text_model.generate(
            inputs,
            max_new_tokens=limit,
            logits_processor=[guide] if guide else None,
            **_generate_arguments(options),
        )[0, length:].tolist()
        ends = self._end_tokens()
        answer = ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]
        if guide:
            return guide.finish(answer, limit)
        return str(self._tokenizer.decode(answer, skip_special_tokens=True)).strip()

    def _encoded(self, prompt: str) -> Any:
        if self._tokenizer.chat_template:
            return self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        return self._tokenizer(prompt, return_tensors="pt")

    def _limit(self, prompt_length: int, wanted: int | None) -> int:
        room = self._text_model.context - prompt_length
        if room < (wanted or 1):
            raise InvalidRequest(
                f"the prompt has {prompt_length} tokens and does not fit with its answer into the "
                f"model's context of {self._text_model.context}: shorten it",
                param="prompt",
            )
        return wanted or min(room, MAX_NEW_TOKENS)

    def _end_tokens(self) -> list[int]:
        ends = self._text_model.model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends, self._tokenizer.eos_token_id]
        return [token for token in dict.fromkeys(listed) if token is not None]

    def _guide(self, schema: Mapping[str, object]) -> SchemaGuide:
        if self._llguidance_tokenizer is None:  # takes a second, and most prompts do not need it
            self._llguidance_tokenizer = require("llguidance.hf", extra=EXTRA).from_tokenizer(
                self._tokenizer,
                n_vocab=max(len(self._tokenizer), self._text_model.model.config.vocab_size),
                eos_token=self._end_tokens(),
            )
        return SchemaGuide(schema, self._llguidance_tokenizer, extra=EXTRA)


def _generate_arguments(options: GenerationOptions) -> dict[str, Any]:
    """The options as arguments of transformers; sampling options only if it samples."""
    sample = options.do_sample
    if sample is None:
        sample = bool(options.temperature) and options.num_beams == 1
    sample = sample and options.temperature != 0
    unused = {"max_new_tokens"} if sample else {"max_new_tokens", "temperature", "top_p", "top_k"}
    return {**options.model_dump(exclude_none=True, exclude=unused), "do_sample": sample}


def _load(spec: ModelSpec, auto_class: str) -> _TextModel:
    with warnings.catch_warnings(action="ignore"), translate_hub_errors(spec.name, extra=EXTRA):
        transformers = require("transformers", extra=EXTRA)
        torch = require("torch", extra=EXTRA)
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        source = {
            "cache_dir": spec.download_root,
            "local_files_only": spec.local_files_only,
            "token": spec.hf_token,
        }
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec.source, **source)
        model = getattr(transformers, auto_class).from_pretrained(
            spec.source,
            # CPUs compute in single precision, regardless of the file's type
            dtype="auto" if spec.device == "cuda" else torch.float32,
            # Most pairs of Helsinki-NLP have no safetensors; their pickles must not run code.
            weights_only=True,
            **source,
        )
        return _TextModel(
            model=model.to(spec.torch_device).eval(), tokenizer=tokenizer, torch=torch
        )
