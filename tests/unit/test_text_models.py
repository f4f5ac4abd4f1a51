"""Translation and generation on tiny carried models, through transformers' real loaders.

The translator has learnt the fixtures' lexicon; the language model is random, so that whatever
sense its answers have was put there by the schema.
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from support import FIXTURES
from whisperx_api_server.backends.base import (
    GenerationOptions,
    LanguageModel,
    ModelSpec,
    Translator,
)
from whisperx_api_server.backends.json_schema import tightened
from whisperx_api_server.backends.text import (
    language_token,
    load_language_model,
    load_translator,
)
from whisperx_api_server.errors import InvalidRequest, ModelNotFound, ModelUnavailable
from whisperx_api_server.text_service import generation_options

MARIAN = FIXTURES / "models" / "marian"
CAUSAL = FIXTURES / "models" / "causal-lm"

TOPIC_PROPERTIES = {
    "title": {"type": "string"},
    "words": {"type": "array", "items": {"type": "string"}, "minItems": 2},
    "mood": {"enum": ["glad", "sad"]},
    "length": {"type": "integer", "minimum": 10, "maximum": 99},
    "speaker": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 3},
            "known": {"type": "boolean"},
        },
    },
    "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "note": {"anyOf": [{"type": "null"}, {"type": "string"}]},
}
TOPIC = {"type": "object", "properties": TOPIC_PROPERTIES}
"""The shortest object of it is about 120 characters, each a token of the model."""


@pytest.fixture(scope="module")
def marian() -> Translator:
    pytest.importorskip("transformers", reason="the text extra is not installed")
    return load_translator(ModelSpec(name=MARIAN.name, path=MARIAN))


@pytest.fixture(scope="module")
def causal() -> LanguageModel:
    pytest.importorskip("transformers", reason="the text extra is not installed")
    return load_language_model(ModelSpec(name=CAUSAL.name, path=CAUSAL))


def answer_of(
    causal: LanguageModel, schema: Mapping[str, Any], options: GenerationOptions
) -> dict[str, Any]:
    answer = json.loads(causal.generate("Summarize this.", options=options, schema=schema))
    jsonschema_rs.validate(dict(schema), answer)
    assert isinstance(answer, dict)
    return answer


def test_it_translates(marian: Translator) -> None:
    texts = ["Ouvre porte rouge.", "bonjour dimanche dix-sept"]
    assert marian.translate(texts, "fr", "en") == ["Open door red.", "hello sunday seventeen"]
    assert marian.translate([], "fr", "en") == []


def test_weights_that_would_run_code_are_not_loaded(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the text extra is not installed")
    torch = pytest.importorskip("torch", reason="the text extra is not installed")
    model, trace = tmp_path / "marian", tmp_path / "trace"
    shutil.copytree(MARIAN, model, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"weights": Command(trace)}, model / "pytorch_model.bin")

    with pytest.raises((ModelUnavailable, pickle.UnpicklingError)):
        load_translator(ModelSpec(name=model.name, path=model))

    assert not trace.exists()


class Command:
    """Writes a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._trace,)


def test_more_sentences_than_fit_one_call_stay_in_order(marian: Translator) -> None:
    translated = marian.translate(["Ouvre porte rouge.", "Merci chat."] * 20, "fr", "en")
    assert translated == ["Open door red.", "Thanks cat."] * 20


def test_a_sentence_longer_than_the_model_is_not_lost(marian: Translator) -> None:
    (translated,) = marian.translate([" ".join(["chat", "chien", "porte"] * 20)], "fr", "en")
    assert translated == " ".join(["cat", "dog", "door"] * 20)


@pytest.mark.parametrize(
    ("tokens", "language", "token"),
    [
        ([">>es<<", ">>fr<<"], "fr", ">>fr<<"),
        (["af", "fr"], "fr", "fr"),
        (["en_XX", "fr_XX"], "fr", "fr_XX"),
        (["eng_Latn", "fra_Latn"], "fra", "fra_Latn"),
    ],
)
def test_multilingual_models_are_told_their_language(
    tokens: list[str], language: str, token: str
) -> None:
    assert language_token(tokens, language, "target_language") == token
    with pytest.raises(InvalidRequest, match="'tlh'") as failure:
        language_token(tokens, "tlh", "target_language")
    assert failure.value.param == "target_language"


def test_a_multilingual_model_translates_into_what_is_asked(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    vocabulary = json.loads((MARIAN / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": len(vocabulary), **vocabulary}))
    shutil.copy(MARIAN / "source.spm", tmp_path / "spm.model")
    transformers.M2M100Tokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "spm.model")
    ).save_pretrained(tmp_path)
    config = transformers.M2M100Config(
        vocab_size=1000, d_model=32, encoder_layers=1, decoder_layers=1, init_std=1.0,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_position_embeddings=64,
    )  # fmt: skip
    translator = transformers.M2M100ForConditionalGeneration(config)
    translator.generation_config.max_length = 32
    translator.save_pretrained(tmp_path)
    model = load_translator(ModelSpec(name=tmp_path.name, path=tmp_path))
    text = ["chat noir rouge"]
    assert model.translate(text, "fr", "en") == model.translate(text, "fr", "en")
    assert model.translate(text, "fr", "en") != model.translate(text, "fr", "de")
    assert model.translate(text, "fr", "en") != model.translate(text, "it", "en")
    with pytest.raises(InvalidRequest, match="'tlh'"):
        model.translate(text, "fr", "tlh")


def test_it_answers_without_the_prompt(causal: LanguageModel) -> None:
    options = GenerationOptions(max_new_tokens=12)
    answer = causal.generate("a prompt", options=options)
    assert "a prompt" not in answer
    assert answer == causal.generate("a prompt", options=options)
    assert answer != causal.generate("quite another prompt", options=options)


def test_the_answer_has_at_most_the_requested_length(causal: LanguageModel) -> None:
    for limit in (1, 5):
        answer = causal.generate("hello", options=GenerationOptions(max_new_tokens=limit))
        assert len(answer) <= limit


def test_sampling_differs_from_draw_to_draw(causal: LanguageModel) -> None:
    options = GenerationOptions(max_new_tokens=30, temperature=1.5, top_p=0.9, top_k=200)
    assert len({causal.generate("hello", options=options) for _ in range(3)}) > 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tokens", [130, 260])
def test_an_answer_satisfies_its_schema(causal: LanguageModel, seed: int, tokens: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    options = GenerationOptions(max_new_tokens=tokens, temperature=1.0)
    assert answer_of(causal, TOPIC, options).keys() == TOPIC_PROPERTIES.keys()


@pytest.mark.parametrize("beams", [1, 3])
def test_greedy_and_beam_search_obey_the_schema(causal: LanguageModel, beams: int) -> None:
    options = GenerationOptions(max_new_tokens=140, num_beams=beams)
    assert answer_of(causal, TOPIC, options).keys() == TOPIC_PROPERTIES.keys()


def test_a_free_object_is_closed_in_time(causal: LanguageModel) -> None:
    options = GenerationOptions(max_new_tokens=40, temperature=1.0)
    answer_of(causal, {"type": "object"}, options)


def test_a_recursive_schema_is_closed_in_time(causal: LanguageModel) -> None:
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "children"],
                "additionalProperties": False,
            }
        },
    }
    answer_of(causal, schema, GenerationOptions(max_new_tokens=60, temperature=1.0))


@pytest.mark.parametrize("seed", range(6))
def test_numbers_are_of_a_size_that_can_be_read(causal: LanguageModel, seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    schema = {"type": "object", "properties": {"n": {"type": "number"}, "i": {"type": "integer"}}}
    options = GenerationOptions(max_new_tokens=60, temperature=1.0)
    assert math.isfinite(answer_of(causal, schema, options)["n"])


def test_a_budget_too_small_for_the_schema_says_so(causal: LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="raise max_new_tokens") as failure:
        causal.generate("x", options=GenerationOptions(max_new_tokens=20), schema=TOPIC)
    assert failure.value.param == "gen_cfg"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objct"},
        {"type": "object", "properties": 5},
        {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
    ],
)
def test_a_schema_that_cannot_be_honoured_is_refused(
    causal: LanguageModel, schema: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest, match="gen_schema") as failure:
        causal.generate("x", options=GenerationOptions(), schema=schema)
    assert failure.value.param == "gen_schema"


def test_a_prompt_beyond_the_context_is_refused(causal: LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="shorten") as failure:
        causal.generate("x" * 2000, options=GenerationOptions())
    assert failure.value.param == "prompt"


def test_tightened_schemas_allow_less_never_more() -> None:
    schema = {
        "type": "object",
        "properties": {"properties": {"const": {"properties": {"a": 1}}}},
    }
    assert tightened(schema) == schema | {
        "required": ["properties"],
        "additionalProperties": False,
    }
    own = {"type": "object", "properties": {"a": {}}, "required": ["b"]}
    assert tightened(own) == own
    combined = {"properties": {"a": {}}, "anyOf": [{"required": ["b"]}]}
    assert "additionalProperties" not in tightened(combined)
    recursive = {"properties": {"child": {"$ref": "#"}}}
    assert tightened(recursive) == recursive


def test_generation_options_are_checked() -> None:
    assert generation_options({}) == GenerationOptions()
    fields = {"max_new_tokens": 1300, "num_beams": 3, "use_cache": True, "temperature": 0.3}
    assert generation_options({**fields, "top_p": None}) == GenerationOptions(
        max_new_tokens=1300, num_beams=3, use_cache=True, temperature=0.3
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5},
        {"max_new_tokens": 0},
        {"max_new_tokens": 5.0},
        {"max_new_tokens": True},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"num_beams": 100},
        {"do_sample": 1},
    ],
)
def test_wrong_generation_options_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))) as failure:
        generation_options(fields)
    assert failure.value.param == "gen_cfg"


@pytest.mark.parametrize("load", [load_translator, load_language_model])
def test_an_unknown_model_is_not_found(load: Any) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelNotFound):
        load(ModelSpec(name="nobody/opus-mt-xx-yy", local_files_only=True))


def test_the_fixture_models_are_small() -> None:
    for folder in (MARIAN, CAUSAL):
        assert np.sum([file.stat().st_size for file in folder.iterdir()]) < 1_000_000
