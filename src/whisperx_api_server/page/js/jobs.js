/** The list of jobs, which the server keeps, and of the uploads on their way there. */

import { jobs } from "./api.js";
import { byId, clock, make, pause } from "./elements.js";
import { clearError, showError, words } from "./problems.js";
import { t } from "./strings.js";

/** @typedef {import("./api.js").Job} Job */

const INTERVAL = 1000; // ms between two looks at jobs that are under way
const STEP = 50; // how many jobs are listed at first, and how many "Show more" adds

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
let since = Infinity; // the list has all jobs that were submitted since then, in s since the epoch
/** @type {Error | null} */
let failure = null; // why the list could not be read
let reading = Promise.resolve();

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
 * The jobs since `since`, but at least `STEP`, and `more` older ones.
 * @param {number} more
 */
async function read(more) {
  /** @type {Job[]} */
  const found = [];
  let page;
  let count;
  do {
    page = await jobs(found.at(-1)?.request_id);
    found.push(...page.data);
    count = Math.max(STEP, found.filter((job) => job.submitted_at >= since).length + more);
  } while (page.has_more && found.length <= count);
  return { listed: found.slice(0, count), hasMore: page.has_more || found.length > count };
}

/**
 * Make the list show these jobs, newest first, below the uploads.
 * @param {Job[]} listed
 */
function show(listed) {
  const list = byId("job-list");
  const ids = new Set(listed.map((job) => job.request_id));
  for (const [id, item] of rows) {
    if (ids.has(id)) continue;
    item.remove();
    rows.delete(id);
  }
  let place = [...list.children].find((each) => !each.dataset.upload) ?? null;
  for (const item of listed.map(row)) {
    if (item === place) place = place.nextElementSibling;
    else list.insertBefore(item, place);
  }
  byId("no-jobs").hidden = list.children.length > 0;
}

/** @param {number} more */
async function load(more) {
  try {
    const { listed, hasMore } = await read(more);
    show(listed);
    since = listed.at(-1)?.submitted_at ?? Infinity;
    waiting = listed.some(underWay);
    byId("more-jobs").hidden = !hasMore;
    clearError(failure);
  } catch (error) {
    failure = error;
    waiting = error.status !== 401; // only a key helps against that
    throw error;
  }
}

/**
 * Show the jobs as they are now; one call after another, so that no older answer comes last.
 * @param {number} [more] how many older jobs to add to the list
 */
export function showJobs(more = 0) {
  const next = () => load(more);
  reading = reading.then(next, next);
  return reading;
}

/** Look at the jobs again and again while one is under way and somebody can see it. */
export async function followJobs() {
  byId("more-jobs").addEventListener("click", () => showJobs(STEP).catch(showError));
  while (true) {
    await pause(INTERVAL);
    if (waiting && !document.hidden && !byId("home").hidden) await showJobs().catch(showError);
  }
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
