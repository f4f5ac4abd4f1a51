"""openai-python 1: every answer and the stream, strictly validated."""

import json
import os
from pathlib import Path

from openai import OpenAI

given = json.loads(os.environ["GIVEN"])
client = OpenAI(
    base_url=given["url"] + "/v1",
    api_key="unused",
    max_retries=0,
    _strict_response_validation=True,
)


def heard(model="whisper-1", **fields):
    return client.audio.transcriptions.create(model=model, file=Path(given["audio"]), **fields)


assert heard().text == given["text"]
verbose = heard(response_format="verbose_json", timestamp_granularities=["word", "segment"])
assert "".join(segment.text for segment in verbose.segments).strip() == given["text"]
assert " ".join(word.word for word in verbose.words) == given["text"]
assert heard(response_format="text").strip() == given["text"]
assert "-->" in heard(response_format="srt")

events = list(heard("gpt-4o-transcribe", stream=True))
assert [event.type for event in events[-2:]] == ["transcript.text.delta", "transcript.text.done"]
assert "".join(event.delta for event in events[:-1]) == events[-1].text == given["text"]
assert events[-1].usage.total_tokens > events[-1].usage.input_tokens > 0
