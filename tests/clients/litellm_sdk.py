"""litellm: asks for verbose_json by itself, and sends granularities to every model."""

import json
import os
from pathlib import Path

import litellm

given = json.loads(os.environ["GIVEN"])
BOTH = ["word", "segment"]

for model, fields in (
    ("whisper-1", {}),
    ("whisper-1", {"response_format": "verbose_json", "timestamp_granularities": BOTH}),
    ("gpt-4o-transcribe", {"timestamp_granularities": BOTH}),
    ("gpt-4o-mini-transcribe", {"response_format": "json", "timestamp_granularities": ["word"]}),
    ("tiny", {"response_format": "json"}),
):
    with Path(given["audio"]).open("rb") as file:
        heard = litellm.transcription(
            model=f"openai/{model}",
            file=file,
            api_base=given["url"] + "/v1",
            api_key="unused",
            **fields,
        )
    assert heard.text == given["text"], (model, fields)
