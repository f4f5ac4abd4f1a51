/** Live captions: the microphone over `/v1/realtime`, in large type, and what was said as a file. */

import { ApiError, liveSocket } from "./api.js";
import { byId, copy, download, make } from "./elements.js";
import { chosenOptions } from "./form.js";
import { clearError, showError } from "./problems.js";
import { t } from "./strings.js";

const RATE = 24000; // Hz
const LAST_WORDS = 10_000; // ms to wait for the end of what was said

/** @typedef {{id: string, element: HTMLElement, start: number, end: number}} Turn */

/** @type {Map<string, Turn>} */
const turns = new Map();

/** @param {string} id */
function turn(id) {
  let found = turns.get(id);
  if (found === undefined) {
    found = { id, element: make("p"), start: 0, end: 0 };
    turns.set(id, found);
    byId("captions").append(found.element);
  }
  return found;
}

/** A session: the microphone, and the connection that it is sent over. */
class Session {
  /** @param {() => void} ended */
  constructor(ended) {
    this.ended = ended;
    /** @type {Set<string>} turns without their last words */
    this.open = new Set();
    this.context = new AudioContext({ sampleRate: RATE });
  }

  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const { model, language, prompt } = chosenOptions();
    const socket = await liveSocket({
      ...(model && { model }), ...(language && { language }), ...(prompt && { prompt }),
    });
    this.socket = socket;
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    socket.onclose = () => this.#close();
    socket.onerror = () => showError(new ApiError(0, ""));
    await this.context.audioWorklet.addModule(new URL("pcm-worklet.js", import.meta.url));
    const worklet = new AudioWorkletNode(this.context, "pcm");
    worklet.port.onmessage = ({ data }) => {
      if (socket.readyState !== WebSocket.OPEN || this.stopping) return;
      const audio = btoa(String.fromCharCode(...new Uint8Array(data.buffer)));
      socket.send(JSON.stringify({ type: "input_audio_buffer.append", audio }));
    };
    this.context.createMediaStreamSource(this.stream).connect(worklet);
  }

  /** @param {any} event an event of the server */
  #take(event) {
    const kind = event.type.replace("conversation.item.input_audio_transcription.", "");
    if (kind === "input_audio_buffer.speech_started") {
      this.open.add(event.item_id);
      turn(event.item_id).start = event.audio_start_ms / 1000;
    } else if (kind === "input_audio_buffer.speech_stopped") {
      turn(event.item_id).end = event.audio_end_ms / 1000;
    } else if (kind === "delta") {
      turn(event.item_id).element.append(event.delta);
      byId("captions").scrollTop = byId("captions").scrollHeight;
    } else if (kind === "completed" || kind === "failed") {
      this.open.delete(event.item_id);
      if (kind === "completed") turn(event.item_id).element.textContent = event.transcript;
      else showError(new ApiError(500, event.error.message));
    } else if (kind === "error" && !this.stopping) {
      showError(new ApiError(400, event.error.message));
    }
    if (this.stopping && !this.open.size) this.socket?.close();
  }

  /** Stop listening; the last words are still shown. */
  stop() {
    this.stopping = true;
    if (this.open.size && this.socket?.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
      setTimeout(() => this.socket?.close(), LAST_WORDS);
    } else {
      this.socket?.close();
    }
  }

  #close() {
    this.abandon();
    this.ended();
  }

  /** Let the microphone go. */
  abandon() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context.state !== "closed") this.context.close();
  }

  stopping = false;
  /** @type {WebSocket | undefined} */
  socket;
  /** @type {MediaStream | undefined} */
  stream;
}

/** What was said, a line for each turn. */
function text() {
  return [...turns.values()].map(({ element }) => `${element.textContent}\n`).join("");
}

/** What was said, as WebVTT. */
function captions() {
  const time = (/** @type {number} */ s) => new Date(1000 * s).toISOString().slice(11, 23);
  const escaped = (/** @type {string} */ line) => line.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const cues = [...turns.values()].filter(({ element }) => element.textContent).map((each) => {
    const end = Math.max(each.end, each.start + 1);
    return `${time(each.start)} --> ${time(end)}\n${escaped(each.element.textContent ?? "")}\n`;
  });
  return ["WEBVTT\n", ...cues].join("\n");
}

/** Make the buttons work; they are hidden where the browser gives no microphone. */
export function installLive() {
  const toggle = byId("live-toggle");
  /** @type {Session | null} */
  let session = null;
  byId("live-open").hidden = !navigator.mediaDevices;
  byId("live-open").addEventListener("click", () => {
    byId("live").hidden = false;
    toggle.focus();
  });
  toggle.addEventListener("click", async () => {
    if (session !== null) return session.stop();
    clearError();
    turns.clear();
    byId("captions").replaceChildren();
    const started = new Session(() => {
      session = null;
      toggle.textContent = t("liveStart");
    });
    session = started;
    toggle.textContent = t("liveStop");
    try {
      await started.start();
    } catch (error) {
      started.abandon();
      started.ended();
      showError(error);
    }
  });
  byId("live-copy").hidden = !navigator.clipboard;
  byId("live-copy").addEventListener("click", () => {
    copy(text(), byId("live-copy"), t("copied")).catch(showError);
  });
  byId("live-txt").addEventListener("click", () => download(text(), `${t("captionsFile")}.txt`));
  byId("live-vtt").addEventListener("click", () => download(captions(), `${t("captionsFile")}.vtt`));
}
