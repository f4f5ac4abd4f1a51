"""A Whisper of any published size with random weights: the work of the real one, no download.

Every window decodes to exactly `tokens` text tokens (about 60 is what 30 s of real speech gives),
since the end-of-text logit is steered by the position embedding. The logits are scaled up until
the model is sure of what it says, or openai/whisper's temperature fallback would set in.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).parents[1] / "tests" / "fixtures" / "models" / "whisper"

SIZES = {  # d_model, heads, encoder layers, decoder layers
    "micro": (96, 2, 2, 2),
    "tiny": (384, 6, 4, 4),
    "base": (512, 8, 6, 6),
    "small": (768, 12, 12, 12),
    "turbo": (1280, 20, 32, 4),
    "large-v3": (1280, 20, 32, 32),
}
END_OF_TEXT = 50257
PROMPT = 4  # <|startoftranscript|> <|language|> <|task|> <|notimestamps|>
SURENESS = 30.0  # by which the logits are multiplied
VOCABULARY_SIZE = 51_865


def speed_model(size: str, out: Path, *, tokens: int = 60, quantization: str = "int8") -> Path:
    """The CTranslate2 model directory, made unless it is there already."""
    if (out / "model.bin").exists():
        return out
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "hf"
        _save(_random_model(size, tokens), source)
        from ctranslate2.converters import TransformersConverter

        converted = Path(scratch) / "ct2"
        TransformersConverter(str(source)).convert(str(converted), quantization=quantization)
        shutil.copy(VOCABULARY / "tokenizer.json", converted)
        features = json.loads((VOCABULARY / "preprocessor_config.json").read_text())
        features["feature_size"] = _mels(size)
        (converted / "preprocessor_config.json").write_text(json.dumps(features))
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(converted, out)
    return out


def _mels(size: str) -> int:
    return 128 if size in ("turbo", "large-v3") else 80


def _random_model(size: str, tokens: int) -> Any:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    width, heads, encoder, decoder = SIZES[size]
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=VOCABULARY_SIZE,
            num_mel_bins=_mels(size),
            d_model=width,
            encoder_layers=encoder,
            decoder_layers=decoder,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
        )
    ).eval()
    with torch.no_grad():
        # One zero-mean direction that only the end-of-text embedding and the positions know.
        direction = torch.tensor([1.0, -1.0]).repeat(width // 2) / width**0.5
        embed = model.model.decoder.embed_tokens.weight
        embed -= (embed @ direction)[:, None] * direction
        embed[END_OF_TEXT] = 2.0 * direction
        place = model.model.decoder.embed_positions.weight
        place.normal_()  # another token at each position: a repeated one would be decoded again
        place -= (place @ direction)[:, None] * direction
        last = PROMPT + tokens - 1
        place[:last] -= 40.0 * direction
        place[last:] += 40.0 * direction
        model.model.decoder.layer_norm.weight *= SURENESS
    model.proj_out.weight = embed
    return model


def _save(model: Any, out: Path) -> None:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    model.save_pretrained(out)
    GenerationConfig(
        begin_suppress_tokens=[220, END_OF_TEXT],
        suppress_tokens=[],
        alignment_heads=[[1, 0]],
        lang_to_id={},
        is_multilingual=True,
    ).save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_file=str(VOCABULARY / "tokenizer.json"),
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    ).save_pretrained(out)
