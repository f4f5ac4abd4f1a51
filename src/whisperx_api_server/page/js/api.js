/** The server's public API. */

import { apiKey } from "./remembered.js";

/** An error in the server's own words. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 if the server cannot be reached
   * @param {string} message
   * @param {number} [retryAfter] seconds until another try may succeed, if the server is full
   */
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/**
 * @typedef {object} Job
 * @property {string} request_id
 * @property {"queued" | "running" | "completed" | "failed" | "cancelled"} status
 * @property {string | null} filename
 * @property {number} submitted_at
 * @property {number | null} duration
 * @property {number} percent
 * @property {number | null} eta_seconds
 * @property {number} queue_position
 * @property {{message: string} | null} error
 */

const RETRY_AFTER = 5; // s, where a full server names no time
const JOBS = "v1/audio/transcriptions";

/** @param {string} path */
function url(path) {
  return new URL(path, document.baseURI);
}

/**
 * @param {string | null} key
 * @returns {Record<string, string>}
 */
function authorization(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}

/**
 * @param {number} status
 * @param {string} body
 * @param {string | null} wait the header Retry-After
 */
function failure(status, body, wait) {
  const retryAfter = status === 429 ? Number(wait ?? RETRY_AFTER) : undefined;
  try {
    return new ApiError(status, JSON.parse(body).error.message, retryAfter);
  } catch {
    return new ApiError(status, body.slice(0, 200) || `HTTP ${status}`, retryAfter);
  }
}

/**
 * Ask the server; once more if the key was entered meanwhile.
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>}
 */
async function request(path, init = {}) {
  const key = apiKey();
  let answer;
  try {
    const headers = { ...authorization(key), ...init.headers };
    answer = await fetch(url(path), { ...init, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ApiError(0, "");
  }
  if (answer.status === 401 && key !== apiKey()) return request(path, init);
  if (!answer.ok) {
    throw failure(answer.status, await answer.text(), answer.headers.get("retry-after"));
  }
  return answer;
}

/** @returns {Promise<string[]>} */
export async function models() {
  const list = await (await request("v1/models")).json();
  return list.data.map((/** @type {{id: string}} */ model) => model.id);
}

/**
 * A page of one's jobs, newest first.
 * @param {string} [after] the job before them
 * @returns {Promise<{data: Job[], has_more: boolean}>}
 */
export async function jobs(after) {
  const query = new URLSearchParams({ limit: "100", ...(after && { after }) });
  return (await request(`${JOBS}?${query}`)).json();
}

/**
 * @param {string} id
 * @returns {Promise<Job>}
 */
export async function job(id) {
  return (await request(`${JOBS}/${id}/status`)).json();
}

/**
 * Cancel a job, or delete one that has ended; returns whether it was deleted.
 * @param {string} id
 * @returns {Promise<boolean>}
 */
export async function cancel(id) {
  return (await (await request(`${JOBS}/${id}`, { method: "DELETE" })).json()).deleted;
}

/**
 * A job's transcript.
 * @param {string} id
 * @param {string} format
 * @returns {Promise<string>}
 */
export async function result(id, format) {
  const query = new URLSearchParams({ response_format: format });
  if (format === "verbose_json") {
    query.append("timestamp_granularities[]", "segment");
    query.append("timestamp_granularities[]", "word");
  }
  return (await request(`${JOBS}/${id}/result?${query}`)).text();
}

/**
 * The events of a job, and its text window by window, until it ends.
 * @param {string} id
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* events(id, signal) {
  const answer = await request(`${JOBS}/${id}/events?text=true`, { signal });
  const body = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body);
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data: {")) yield JSON.parse(line.slice(6));
    }
  }
}

/**
 * Submit a recording as a job; an XMLHttpRequest, because `fetch` does not tell how much is sent.
 * @param {FormData} form
 * @param {(part: number) => void} sent the part in [0, 1] that has been sent
 * @returns {Promise<Job>}
 */
export function submit(form, sent) {
  form.set("async", "true");
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", url(JOBS));
    for (const [name, value] of Object.entries(authorization(apiKey()))) {
      call.setRequestHeader(name, value);
    }
    call.upload.onprogress = (event) => sent(event.total ? event.loaded / event.total : 0);
    call.onerror = () => reject(new ApiError(0, ""));
    call.onload = () => {
      if (call.status === 202) resolve(JSON.parse(call.responseText));
      else reject(failure(call.status, call.responseText, call.getResponseHeader("retry-after")));
    };
    call.send(form);
  });
}

/**
 * A connection for live captions, with a key that is valid for this session only.
 * @param {Record<string, unknown>} transcription its model, language and prompt
 * @returns {Promise<WebSocket>}
 */
export async function liveSocket(transcription) {
  const session = {
    type: "transcription",
    audio: { input: { format: { type: "audio/pcm", rate: 24000 }, transcription } },
  };
  const answer = await request("v1/realtime/client_secrets", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ session }),
  });
  const { value } = await answer.json();
  const address = url("v1/realtime?intent=transcription");
  address.protocol = address.protocol.replace("http", "ws");
  return new WebSocket(address, ["realtime", `openai-insecure-api-key.${value}`]);
}
