"""openai-python 0.28: what was written against OpenAI's audio API before version 1."""

import json
import os
from pathlib import Path

import openai

given = json.loads(os.environ["GIVEN"])
openai.api_base = given["url"] + "/v1"
openai.api_key = "unused"


def heard(**fields):
    with Path(given["audio"]).open("rb") as file:
        return openai.Audio.transcribe("whisper-1", file, **fields)


assert heard()["text"] == given["text"]
assert heard(response_format="verbose_json")["text"] == given["text"]
assert heard(response_format="text").strip() == given["text"]
assert "-->" in heard(response_format="srt")
assert heard(response_format="vtt").startswith("WEBVTT")
with Path(given["audio"]).open("rb") as file:
    assert openai.Audio.translate("whisper-1", file)["text"] == given["text"]
try:
    heard(temperature=3)
except openai.error.InvalidRequestError as error:
    refusal = str(error)
assert "temperature" in refusal
