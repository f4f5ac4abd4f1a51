/** The list of jobs, which the server keeps, and of the uploads on their way there. */

import { jobs } from "./api.js";
import { byId, clock, make } from "./elements.js";
import { showError, words } from "./problems.js";
import { t } from "./strings.js";

/** @typedef {import("./api.js").Job} Job */

const INTERVAL = 1000; // ms between two looks at jobs that are under way

/**
 * What a job is called.
 * @param {Job} job
 */
export function title(job) {
  return job.filename ?? t("unnamed", { time: new Date(job.submitted_at * 1000).toLocaleString() });
}

/**
 * How far a job is, in words.
 * @param {Job} job
 */
export function describe(job) {
  if (job.status === "failed") return t("failed", { error: job.error?.message ?? "" });
  if (job.queue_position) return t("behind", { count: job.queue_position });
  if (job.status === "running") {
    const left = job.eta_seconds === null ? "" : t("left", { time: clock(job.eta_seconds) });
    return t("running", { percent: Math.floor(job.percent) }) + left;
  }
  const length = job.duration === null ? "" : clock(job.duration);
  return t(job.status, { length });
}

/** @param {Job} job */
export function underWay(job) {
  return job.status === "queued" || job.status === "running";
}

/** @type {Map<string, HTMLLIElement>} */
const rows = new Map();
let waiting = false;
/** @type {string | null} */
let oldest = null;

/**
 * Write a row anew only where it changed, so that a focus in it stays.
 * @param {Job} job
 */
function row(job) {
  const known = rows.get(job.request_id);
  const item = known ?? make("li");
  if (known === undefined) {
    const bar = make("progress", { max: 100, ariaLabel: t("progress") });
    const link = make("a", { href: `#job=${job.request_id}` }, title(job));
    item.append(link, make("span", { className: "state" }), bar);
    rows.set(job.request_id, item);
  }
  const [, state, bar] = item.children;
  item.dataset.status = job.status;
  if (state.textContent !== describe(job)) state.textContent = describe(job);
  bar.value = job.percent;
  bar.hidden = !underWay(job);
  return item;
}

/**
 * @param {Job[]} page
 * @param {boolean} first
 */
function show(page, first) {
  const list = byId("job-list");
  const items = page.map(row);
  if (first) {
    let place = [...list.children].find((each) => !each.dataset.upload) ?? null;
    for (const item of items) {
      if (item === place) place = place.nextElementSibling;
      else list.insertBefore(item, place);
    }
  } else {
    list.append(...items);
  }
  byId("no-jobs").hidden = list.children.length > 0;
}

/** Show the newest jobs as they are now. */
export async function showJobs() {
  const page = await jobs();
  const listed = new Set(page.data.map((job) => job.request_id));
  const older = page.has_more ? [] : [...rows.keys()].filter((id) => !listed.has(id));
  for (const id of older) {
    rows.get(id)?.remove();
    rows.delete(id);
  }
  show(page.data, true);
  waiting = page.data.some(underWay);
  if (oldest === null || !page.has_more) {
    oldest = page.last_id;
    byId("more-jobs").hidden = !page.has_more;
  }
}

async function showMore() {
  const page = await jobs(oldest);
  oldest = page.last_id;
  show(page.data, false);
  byId("more-jobs").hidden = !page.has_more;
}

/** Look at the jobs again and again while one is under way and somebody can see it. */
export function followJobs() {
  byId("more-jobs").addEventListener("click", () => showMore().catch(showError));
  setInterval(() => {
    if (waiting && !document.hidden && !byId("home").hidden) showJobs().catch(showError);
  }, INTERVAL);
}

/**
 * A row for a recording that is being sent.
 * @param {string} name
 */
export function addUpload(name) {
  const state = make("span", { className: "state" }, t("waitingToSend"));
  const bar = make("progress", { max: 1, value: 0, ariaLabel: t("progress") });
  const item = make("li", {}, make("span", {}, name), state, bar);
  item.dataset.upload = name;
  byId("job-list").prepend(item);
  byId("no-jobs").hidden = true;
  return {
    /** @param {number} part */
    sent(part) {
      bar.value = part;
      state.textContent = t("sending", { percent: Math.floor(100 * part) });
    },
    done: () => item.remove(),
    /** @param {number} seconds */
    waits(seconds) {
      state.textContent = t("serverFull", { seconds });
    },
    /** @param {Error} error */
    failed(error) {
      item.dataset.status = "failed";
      bar.remove();
      state.textContent = t("failed", { error: words(error) });
    },
  };
}
