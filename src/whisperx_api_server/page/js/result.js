/** A transcript with its recording: what is shown once a job is done. */

import { result } from "./api.js";
import { byId, copy, download, make } from "./elements.js";
import { Player } from "./player.js";
import { showError } from "./problems.js";
import { keepRecording, recording } from "./recordings.js";
import { rememberSpeakerNames, speakerNames } from "./remembered.js";
import { t } from "./strings.js";
import { TranscriptView } from "./transcript.js";

const FORMATS = [
  { format: "srt", extension: "srt" },
  { format: "vtt", extension: "vtt" },
  { format: "text", extension: "txt" },
  { format: "verbose_json", extension: "json" },
  { format: "aud", extension: "aud" },
];

/** @type {Player | null} */
let player = null;

/**
 * Show the transcript of a job.
 * @param {import("./api.js").Job} job
 * @param {AbortSignal} signal aborted when the job is left
 */
export async function openResult(job, signal) {
  const id = job.request_id;
  const transcript = JSON.parse(await result(id, "verbose_json"));
  const blob = await recording(id);
  signal.throwIfAborted();
  const names = speakerNames(id);
  const view = new TranscriptView(byId("transcript"), transcript, names);
  const opened = new Player(transcript, view, signal);
  player = opened;
  view.onSeek = (time) => opened.seek(time);
  opened.onChosen = (file) => keepRecording(id, file).catch(showError);
  showSpeakers(view, names, id);
  showTools(view, signal);
  showDownloads(job, names);
  byId("result").hidden = false;
  opened.open(blob);
}

/** Take the transcript away, and stop the recording. */
export function closeResult() {
  byId("result").hidden = true;
  player?.close();
  player = null;
  byId("transcript").replaceChildren();
}

/**
 * @param {TranscriptView} view
 * @param {Record<string, string>} names
 * @param {string} id
 */
function showSpeakers(view, names, id) {
  const fields = view.speakers.map((label, place) => {
    const input = make("input", { value: names[label] ?? "" });
    input.addEventListener("input", () => {
      if (input.value.trim()) names[label] = input.value.trim();
      else delete names[label];
      view.showNames();
      rememberSpeakerNames(id, names);
    });
    const swatch = make("span", { className: `swatch speaker-${place % 8}` });
    return make("label", {}, swatch, t("speakerName", { label }), input);
  });
  const [legend] = byId("speakers").children;
  byId("speakers").replaceChildren(legend, ...fields);
  byId("speakers").hidden = fields.length === 0;
}

/**
 * @param {TranscriptView} view
 * @param {AbortSignal} signal
 */
function showTools(view, signal) {
  const search = byId("search");
  const count = byId("search-count");
  search.value = "";
  count.textContent = "";
  search.addEventListener("input", () => {
    const found = view.search(search.value);
    count.textContent = search.value.trim() ? t("found", { count: found }) : "";
  }, { signal });
  search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") view.nextFound();
  }, { signal });
  byId("search-next").addEventListener("click", () => view.nextFound(), { signal });
  byId("unsure-next").textContent = t("unsureNext", { count: view.unsureCount });
  byId("unsure-next").hidden = view.unsureCount === 0;
  byId("unsure-next").addEventListener("click", () => view.nextUnsure(), { signal });
  byId("copy").hidden = !navigator.clipboard;
  byId("copy").addEventListener("click", () => {
    copy(view.text(), byId("copy"), t("copied")).catch(showError);
  }, { signal });
}

/**
 * @param {import("./api.js").Job} job
 * @param {Record<string, string>} names
 */
function showDownloads(job, names) {
  const stem = (job.filename ?? t("transcriptFile")).replace(/\.[^.]+$/, "");
  const buttons = FORMATS.map(({ format, extension }) => {
    const button = make("button", { type: "button" }, extension);
    button.setAttribute("aria-label", t("downloadAs", { format: extension }));
    button.addEventListener("click", async () => {
      try {
        download(named(await result(job.request_id, format), format, names), `${stem}.${extension}`);
      } catch (error) {
        showError(error);
      }
    });
    return button;
  });
  byId("downloads").replaceChildren(t("downloads"), ...buttons);
}

/**
 * A transcript with the reader's names for the speakers.
 * @param {string} body
 * @param {string} format
 * @param {Record<string, string>} names
 */
function named(body, format, names) {
  if (format === "verbose_json") {
    return JSON.stringify(JSON.parse(body, (key, value) => {
      return key === "speaker" ? (names[value] ?? value) : value;
    }), null, 1);
  }
  return body.replace(/\[([^\]\n]+)\]: /g, (prefix, label) => {
    return label in names ? `[${names[label]}]: ` : prefix;
  });
}
