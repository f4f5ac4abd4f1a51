/** What the browser remembers: the options of the form, names of speakers, the key of the tab. */

const OPTIONS = "options";
const KEY = "key";

/**
 * @param {string} name
 * @returns {Record<string, string>}
 */
function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "{}");
  } catch {
    return {};
  }
}

/** The options of the form, by the name of the field. */
export function options() {
  return read(OPTIONS);
}

/** @param {Record<string, string>} values */
export function rememberOptions(values) {
  localStorage.setItem(OPTIONS, JSON.stringify(values));
}

/**
 * The names that the reader gave to the speakers of a job, by label.
 * @param {string} id
 */
export function speakerNames(id) {
  return read(`speakers:${id}`);
}

/**
 * @param {string} id
 * @param {Record<string, string>} names
 */
export function rememberSpeakerNames(id, names) {
  localStorage.setItem(`speakers:${id}`, JSON.stringify(names));
}

/** @param {string} id */
export function forgetSpeakerNames(id) {
  localStorage.removeItem(`speakers:${id}`);
}

/** The server's key, kept until the tab is closed. */
export function apiKey() {
  return sessionStorage.getItem(KEY);
}

/** @param {string} key */
export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}
