// The Vercel AI SDK, whose provider adds fields by itself: to whisper-1 and to the gpt-4o models.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import * as ai from "ai";
import { createOpenAI } from "@ai-sdk/openai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const given = JSON.parse(process.env.GIVEN);
const transcribe = ai.transcribe ?? ai.experimental_transcribe;
const openai = createOpenAI({ baseURL: `${given.url}/v1`, apiKey: "unused" });

for (const [model, options] of [
  ["whisper-1", {}],
  ["whisper-1", { include: ["logprobs"] }],
  ["whisper-1", { timestampGranularities: ["word"] }],
  ["gpt-4o-transcribe", { language: "en" }],
  ["gpt-4o-mini-transcribe", { timestampGranularities: ["segment", "word"] }],
]) {
  test(`${model} ${JSON.stringify(options)}`, async () => {
    const heard = await transcribe({
      model: openai.transcription(model),
      audio: readFileSync(given.audio),
      providerOptions: { openai: options },
      maxRetries: 0,
    });
    assert.equal(heard.text, given.text);
    if (options.timestampGranularities?.[0] === "word") {
      assert.equal(heard.segments.length, given.text.split(" ").length);
    }
  });
}
