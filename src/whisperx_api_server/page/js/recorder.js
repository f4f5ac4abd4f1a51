/** Records the microphone; what was recorded becomes a file. */

import { byId, clock } from "./elements.js";
import { clearError, showError } from "./problems.js";
import { t } from "./strings.js";

const ENDINGS = { "audio/webm": "webm", "audio/ogg": "ogg", "audio/mp4": "m4a" };

/** A name with the time, which any file system takes. */
function fileName(/** @type {string} */ type) {
  const now = new Date();
  const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000);
  const time = local.toISOString().slice(0, 19).replace("T", " ").replaceAll(":", ".");
  const kind = /** @type {keyof typeof ENDINGS} */ (type.split(";")[0]);
  return `${t("recordingFile")} ${time}.${ENDINGS[kind] ?? "webm"}`;
}

/** @param {(files: File[]) => Promise<void>} submit */
async function start(submit) {
  clearError();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  /** @type {Blob[]} */
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const began = Date.now();
  const show = () => (byId("record-time").textContent = clock((Date.now() - began) / 1000));
  const ticking = setInterval(show, 1000);
  recorder.onstop = () => {
    clearInterval(ticking);
    for (const track of stream.getTracks()) track.stop();
    byId("record").setAttribute("aria-pressed", "false");
    byId("record").textContent = t("record");
    byId("record-time").textContent = "";
    const type = recorder.mimeType;
    submit([new File(parts, fileName(type), { type })]);
  };
  recorder.start(1000);
  show();
  byId("record").setAttribute("aria-pressed", "true");
  byId("record").textContent = t("stopRecording");
  return recorder;
}

/**
 * Make the button work; it is hidden where the browser gives no microphone, as without TLS.
 * @param {(files: File[]) => Promise<void>} submit
 */
export function installRecorder(submit) {
  const button = byId("record");
  button.hidden = !navigator.mediaDevices || !("MediaRecorder" in globalThis);
  /** @type {MediaRecorder | null} */
  let recorder = null;
  button.addEventListener("click", async () => {
    try {
      if (recorder?.state === "recording") recorder.stop();
      else recorder = await start(submit);
    } catch (error) {
      showError(error);
    }
  });
}
