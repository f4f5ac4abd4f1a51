/** One job: how far it is, its text as it grows, and its transcript at the end. */

import { cancel, events, job as readJob } from "./api.js";
import { byId, pause } from "./elements.js";
import { describe, title, underWay } from "./jobs.js";
import { showError } from "./problems.js";
import { forgetRecording } from "./recordings.js";
import { closeResult, openResult } from "./result.js";
import { forgetSpeakerNames } from "./remembered.js";
import { t } from "./strings.js";

const RECONNECT = 1000; // ms until a connection that broke is tried again

let following = new AbortController();

/** @param {import("./api.js").Job} job */
function showState(job) {
  document.title = title(job);
  byId("job-heading").textContent = title(job);
  const state = describe(job);
  if (byId("job-status").textContent !== state) byId("job-status").textContent = state;
  byId("job-status").dataset.status = job.status;
  byId("job-progress").hidden = !underWay(job);
  byId("job-progress").value = job.percent;
  byId("job-text").hidden = !underWay(job);
  byId("job-cancel").textContent = t(underWay(job) ? "cancel" : "delete");
}

/**
 * Show a job's events until it ends; returns the job as it ended.
 * @param {import("./api.js").Job} job
 * @param {AbortSignal} signal
 */
async function follow(job, signal) {
  while (underWay(job)) {
    byId("job-text").textContent = "";
    try {
      for await (const event of events(job.request_id, signal)) {
        if (event.type === "transcript.text.delta") byId("job-text").append(event.delta);
        else if (event.type?.startsWith("job.")) showState((job = event));
      }
    } catch (error) {
      // The connection broke, or the page was left; an answer of the server is shown.
      if (signal.aborted || error.status > 0) throw error;
    }
    if (underWay(job)) await pause(RECONNECT);
    signal.throwIfAborted();
  }
  return job;
}

/**
 * Show a job, and follow it to its end.
 * @param {string} id
 */
export async function openJob(id) {
  const { signal } = following;
  byId("job-heading").textContent = "";
  byId("job-status").textContent = "";
  let job = await readJob(id);
  signal.throwIfAborted();
  showState(job);
  byId("job-heading").focus();
  byId("job-cancel").onclick = () => remove(job).catch(showError);
  job = await follow(job, signal);
  if (job.status === "completed") await openResult(job, signal);
}

/** Leave the job that is shown. */
export function closeJob() {
  following.abort();
  following = new AbortController();
  closeResult();
  document.title = t("title");
}

/** @param {import("./api.js").Job} job */
async function remove(job) {
  const deleted = await cancel(job.request_id);
  if (!deleted) return; // its last event says that it is cancelled
  await forgetRecording(job.request_id);
  forgetSpeakerNames(job.request_id);
  location.hash = "";
}
