/** The form: recordings and URLs go in, jobs come out. */

import { models, submit } from "./api.js";
import { byId, make, pause } from "./elements.js";
import { addUpload, showJobs } from "./jobs.js";
import { LANGUAGES } from "./languages.js";
import { clearError, showError } from "./problems.js";
import { keepRecording } from "./recordings.js";
import { options, rememberOptions } from "./remembered.js";

const MAX_SPEAKERS = 10;

/** The options of the form that are set, by name. */
export function chosenOptions() {
  const fields = new FormData(byId("new")).entries();
  return Object.fromEntries([...fields].filter(([, value]) => value !== "").map(
    ([name, value]) => [name, String(value)],
  ));
}

/** A new form with the chosen options, as the API names them. */
function fields() {
  const { speakers, ...others } = chosenOptions();
  const form = new FormData();
  for (const [name, value] of Object.entries(others)) form.set(name, value);
  if (speakers) form.set("diarize", "true");
  if (Number(speakers)) form.set("num_speakers", speakers);
  return form;
}

/**
 * Submit a recording, again and again while the server is full.
 * @param {FormData} form
 * @param {ReturnType<typeof addUpload>} row
 * @returns {Promise<import("./api.js").Job>}
 */
async function submitPatiently(form, row) {
  try {
    return await submit(form, row.sent);
  } catch (error) {
    if (error.retryAfter === undefined) throw error;
    row.waits(error.retryAfter);
    await pause(1000 * error.retryAfter);
    return submitPatiently(form, row);
  }
}

/**
 * Submit recordings, one after another.
 * @param {Iterable<File>} files
 */
async function submitFiles(files) {
  clearError();
  const waiting = [...files].map((file) => ({ file, form: fields(), row: addUpload(file.name) }));
  for (const { file, form, row } of waiting) {
    form.set("file", file, file.name);
    try {
      const job = await submitPatiently(form, row);
      await keepRecording(job.request_id, file);
      await showJobs().catch(showError);
      row.done();
    } catch (error) {
      row.failed(error);
      if (error.status === 401) showError(error);
    }
  }
}

/** @param {string} address */
async function submitUrl(address) {
  clearError();
  const form = fields();
  form.set("audio_url", address);
  await submit(form, () => {});
  await showJobs();
}

/** Offer the server's models. */
export async function offerModels() {
  byId("models").replaceChildren(...(await models()).map((value) => make("option", { value })));
}

function fillSelects() {
  const names = new Intl.DisplayNames(document.documentElement.lang, { type: "language" });
  const languages = LANGUAGES.map((value) => make("option", { value }, names.of(value) ?? value));
  languages.sort((one, other) => one.text.localeCompare(other.text));
  const form = byId("new");
  form.elements.language.append(...languages);
  for (let count = 1; count <= MAX_SPEAKERS; count++) {
    form.elements.speakers.append(make("option", {}, String(count)));
  }
}

function installDrop() {
  const drop = byId("drop");
  for (const type of ["dragover", "dragenter"]) {
    addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) {
    addEventListener(type, () => drop.classList.remove("over"));
  }
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files.length) {
      location.hash = "";
      submitFiles(event.dataTransfer.files);
    }
  });
}

/** Make the form work; returns the function that submits recordings. */
export function installForm() {
  fillSelects();
  const form = byId("new");
  for (const [name, value] of Object.entries(options())) {
    if (form.elements[name]) form.elements[name].value = value;
  }
  form.addEventListener("change", () => rememberOptions(chosenOptions()));
  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const address = byId("url").value.trim();
    if (address) submitUrl(address).then(() => (byId("url").value = ""), showError);
  });
  byId("files").addEventListener("change", () => {
    submitFiles([...byId("files").files]);
    byId("files").value = "";
  });
  installDrop();
  return submitFiles;
}
