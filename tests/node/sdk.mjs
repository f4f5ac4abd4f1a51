// The official Node SDK against a running server on the fake backend.
//
//   SDK_TEST=given.json node --test sdk.mjs
//
// Each claim is a test of its own; node's test runner prints the ones that fail.

import assert from "node:assert/strict";
import { createReadStream, readFileSync, renameSync, writeFileSync } from "node:fs";
import net from "node:net";
import test from "node:test";
import tls from "node:tls";

import OpenAI, { toFile } from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const given = JSON.parse(readFileSync(process.env.SDK_TEST, "utf8"));
const audio = (name) => createReadStream(given.audio[name]);
const client = new OpenAI({ baseURL: `${given.url}/v1`, apiKey: "unused", maxRetries: 0 });
const create = (fields) => client.audio.transcriptions.create({ model: "whisper-1", ...fields });

function allow() {
  const unfinished = `${given.gate}/allowed.node`;
  writeFileSync(unfinished, "1000000000");
  renameSync(unfinished, `${given.gate}/allowed`);
}

// The SDK connects live sessions with TLS only, which a reverse proxy provides.
async function liveSession(url, apiKey) {
  const { hostname, port } = new URL(url);
  const keys = { key: readFileSync(given.tls.key), cert: readFileSync(given.tls.cert) };
  const proxy = tls.createServer(keys, (socket) => {
    const behind = net.connect(Number(port), hostname);
    socket.pipe(behind).pipe(socket);
    for (const end of [socket, behind]) end.on("error", () => end.destroy());
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  proxy.unref();
  const baseURL = `https://127.0.0.1:${proxy.address().port}/v1`;
  const options = { rejectUnauthorized: false };
  return new OpenAIRealtimeWS(
    { intent: "transcription", options },
    new OpenAI({ baseURL, apiKey }),
  );
}

test("json is the default", async () => {
  const heard = await create({ file: audio("three") });
  assert.equal(heard.text, given.text.three);
  assert.deepEqual(heard.usage, { type: "duration", seconds: 15 });
  assert.deepEqual(heard.languages, [{ code: "en" }]);
  assert.equal(heard.logprobs, undefined);
});

test("verbose_json has what the granularities say", async () => {
  const fields = { file: audio("three"), response_format: "verbose_json" };
  const both = await create({ ...fields, timestamp_granularities: ["word", "segment"] });
  assert.equal(both.language, "english");
  assert.equal(both.duration, 15);
  assert.equal(both.words.map((word) => word.word).join(" "), given.text.three);
  assert.equal(both.segments.map((segment) => segment.text).join("").trim(), given.text.three);
  for (const name of ["id", "seek", "start", "end", "temperature", "avg_logprob"]) {
    assert.equal(typeof both.segments[0][name], "number");
  }
  assert.ok(Array.isArray(both.segments[0].tokens));
  const words = await create({
    ...fields,
    file: audio("three"),
    timestamp_granularities: ["word"],
  });
  assert.equal(words.segments, undefined);
});

for (const format of ["text", "srt", "vtt"]) {
  test(`${format} is a bare string`, async () => {
    const answer = await create({ file: audio("three"), response_format: format });
    assert.equal(typeof answer, "string");
    const said = answer
      .split("\n")
      .filter((line) => !/-->|^\d*$|^WEBVTT/.test(line))
      .join(" ");
    assert.equal(said, given.text.three);
  });
}

test("diarized_json tells speakers apart and names the known ones", async () => {
  const fields = { response_format: "diarized_json", chunking_strategy: "auto" };
  const heard = await create({ file: audio("dialogue"), ...fields });
  assert.deepEqual(heard.segments.map((segment) => segment.speaker), ["A", "B", "A"]);
  assert.equal(heard.task, "transcribe");
  const named = await create({
    file: audio("dialogue"),
    ...fields,
    known_speaker_names: ["Ann", "Bob"],
    known_speaker_references: given.references,
  });
  assert.deepEqual(named.segments.map((segment) => segment.speaker), ["Bob", "Ann", "Bob"]);
});

test("logprobs are included", async () => {
  const heard = await create({ file: audio("three"), include: ["logprobs"] });
  assert.equal(heard.logprobs.map((each) => each.token).join(""), ` ${given.text.three}`);
  assert.equal(
    Buffer.from(heard.logprobs.flatMap((each) => each.bytes)).toString(),
    ` ${given.text.three}`,
  );
});

test("prompt, keywords and languages are honoured", async () => {
  const spelled = await create({ file: audio("red"), prompt: "Red", keywords: ["House"] });
  assert.equal(spelled.text, "Red House.");
  const german = await create({ file: audio("red"), languages: ["de"] });
  assert.equal(german.text, "rot haus.");
  const french = await create({ file: audio("red"), language: "fr" });
  assert.equal(french.text, "rouge maison.");
});

test("server_vad is honoured", async () => {
  const vad = { type: "server_vad", prefix_padding_ms: 100, silence_duration_ms: 500 };
  const heard = await create({ file: audio("red"), chunking_strategy: { ...vad, threshold: 0.1 } });
  assert.equal(heard.text, "red house.");
  const deaf = await create({ file: audio("red"), chunking_strategy: { ...vad, threshold: 0.99 } });
  assert.equal(deaf.text, "");
});

test("a stream is deltas and the whole text", async () => {
  const stream = await create({ file: audio("long"), stream: true, include: ["logprobs"] });
  const events = [];
  for await (const event of stream) events.push(event);
  const done = events.pop();
  assert.ok(events.length > 1);
  assert.ok(events.every((event) => event.type === "transcript.text.delta"));
  assert.equal(done.type, "transcript.text.done");
  assert.equal(events.map((event) => event.delta).join(""), given.text.long);
  assert.equal(done.text, given.text.long);
  assert.deepEqual(done.logprobs, events.flatMap((event) => event.logprobs));
});

test("a diarized stream has segments", async () => {
  const stream = await create({
    file: audio("dialogue"),
    stream: true,
    response_format: "diarized_json",
  });
  const speakers = [];
  for await (const event of stream) {
    if (event.type === "transcript.text.segment") speakers.push(event.speaker);
  }
  assert.deepEqual(speakers, ["A", "B", "A"]);
});

test("a stream that is aborted ends", async () => {
  const stream = await create({ file: audio("long"), stream: true });
  for await (const event of stream) {
    assert.equal(event.type, "transcript.text.delta");
    stream.controller.abort();
    break;
  }
});

test("translations are in English", async () => {
  const fields = { model: "whisper-1", response_format: "verbose_json" };
  const heard = await client.audio.translations.create({ file: audio("rouge"), ...fields });
  assert.equal(heard.text, "red house.");
  assert.equal(heard.language, "english");
});

test("models are listed and found", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes("whisper-1") && ids.includes("gpt-transcribe"));
  assert.equal((await client.models.retrieve("gpt-4o-transcribe")).object, "model");
});

test("errors have their classes", async () => {
  const noise = await toFile(Buffer.from("noise"), "a.wav");
  const cases = [
    [{ file: noise }, OpenAI.BadRequestError, 400, "invalid_audio", "file"],
    [{ file: audio("red"), temperature: 3 }, OpenAI.BadRequestError, 400, "invalid_value", "temperature"],
    [{ file: audio("red"), model: "../x" }, OpenAI.NotFoundError, 404, "model_not_found", "model"],
    [
      { file: audio("red"), model: "tiny", response_format: "srt", stream: true },
      OpenAI.UnprocessableEntityError,
      422,
      "invalid_value",
      "stream",
    ],
  ];
  for (const [fields, kind, status, code, param] of cases) {
    const error = await create(fields).then(assert.fail, (refusal) => refusal);
    assert.equal(error.constructor, kind);
    assert.deepEqual([error.status, error.code, error.param], [status, code, param]);
    assert.ok(error.requestID);
  }
});

test("a wrong key is an authentication error", async () => {
  const stranger = new OpenAI({ baseURL: `${given.strictUrl}/v1`, apiKey: "wrong", maxRetries: 0 });
  const asking = stranger.audio.transcriptions.create({ model: "whisper-1", file: audio("red") });
  await assert.rejects(asking, OpenAI.AuthenticationError);
});

test("a full queue is a rate limit that the SDK waits out", async () => {
  const seconds = async () => {
    const info = await fetch(`${given.strictUrl}/info`, {
      headers: { authorization: "Bearer secret" },
    });
    return (await info.json()).queue.seconds;
  };
  const options = { baseURL: `${given.strictUrl}/v1`, apiKey: "secret" };
  const ask = async (openai, name) => {
    const file = await toFile(readFileSync(given.audio[name]), "a.wav"); // a stream has no second try
    return openai.audio.transcriptions.create({ model: "whisper-1", file });
  };
  const hasty = new OpenAI({ ...options, maxRetries: 0 });
  const first = ask(hasty, "red");
  while (!(await seconds())) await new Promise((resolve) => setTimeout(resolve, 10));
  const full = await ask(hasty, "three").then(assert.fail, (refusal) => refusal);
  assert.equal(full.constructor, OpenAI.RateLimitError);
  assert.ok(Number(full.headers.get("retry-after")) >= 1);

  let refusals = 0;
  const patient = new OpenAI({
    ...options,
    maxRetries: 4,
    fetch: async (...request) => {
      const answer = await fetch(...request);
      if (answer.status === 429) {
        refusals += 1;
        allow();
      }
      return answer;
    },
  });
  assert.equal((await ask(patient, "three")).text, given.text.three);
  assert.equal(refusals, 1);
  assert.equal((await first).text, "red house.");
});

test("a live session hears a recording, on Whisper base", async () => {
  const session = await liveSession(given.baseUrl, "unused");
  let deltas = "";
  const completed = new Promise((resolve, reject) => {
    session.on("error", reject);
    session.on("conversation.item.input_audio_transcription.delta", (event) => {
      deltas += event.delta;
    });
    session.on("conversation.item.input_audio_transcription.completed", resolve);
  });
  session.socket.on("open", () => {
    const input = {
      format: { type: "audio/pcm", rate: 24000 },
      turn_detection: { type: "server_vad" },
    };
    session.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
    const samples = readFileSync(given.audio.pcm);
    for (let first = 0; first < samples.length; first += 4800) {
      const piece = samples.subarray(first, first + 4800).toString("base64");
      session.send({ type: "input_audio_buffer.append", audio: piece });
    }
  });
  const event = await completed;
  session.close();
  writeFileSync(given.heard, event.transcript);
  assert.equal(deltas, event.transcript);
  assert.equal(event.usage.type, "duration");
});

test("a client secret opens a live session, and nothing else", async () => {
  const options = { baseURL: `${given.strictUrl}/v1`, maxRetries: 0 };
  const backend = new OpenAI({ ...options, apiKey: "secret" });
  const input = { transcription: { language: "fr" } };
  const secret = await backend.realtime.clientSecrets.create({
    expires_after: { anchor: "created_at", seconds: 60 },
    session: { type: "transcription", audio: { input } },
  });
  assert.ok(secret.expires_at > Date.now() / 1000);
  const page = new OpenAI({ ...options, apiKey: secret.value });
  const session = await liveSession(given.strictUrl, secret.value);
  const created = await new Promise((resolve, reject) => {
    session.on("error", reject);
    session.on("session.created", resolve);
  });
  session.close();
  assert.equal(created.session.audio.input.transcription.language, "fr");
  await assert.rejects(page.models.list(), OpenAI.AuthenticationError);
});

test("a webhook's signature is verified", async () => {
  const webhooks = new OpenAI({ apiKey: "unused", webhookSecret: given.webhook.secret }).webhooks;
  const body = readFileSync(given.webhook.body, "utf8");
  const event = await webhooks.unwrap(body, given.webhook.headers);
  assert.equal(event.type, "transcription.completed");
  const forged = body.replace("completed", "cancelled");
  await assert.rejects(webhooks.verifySignature(forged, given.webhook.headers));
});
