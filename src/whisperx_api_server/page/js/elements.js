/** Small helpers for elements, times and files. */

/**
 * The element with an id, which is in index.html.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * The elements of a selector.
 * @param {string} selector
 * @returns {Iterable<any>}
 */
export function all(selector) {
  return document.querySelectorAll(selector);
}

/** @param {number} ms */
export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, unknown>} [properties]
 * @param {(Node | string)[]} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/**
 * 61.5 -> 1:01, 3600 -> 1:00:00.
 * @param {number} seconds
 */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes, rest] = [whole / 3600, (whole / 60) % 60, whole % 60].map(Math.floor);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/**
 * Offer a text as a file.
 * @param {string} text
 * @param {string} name
 */
export function download(text, name) {
  const href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/**
 * Copy a text, and say so on the button for a moment.
 * @param {string} text
 * @param {HTMLElement} button
 * @param {string} said
 */
export async function copy(text, button, said) {
  await navigator.clipboard.writeText(text);
  const before = button.textContent;
  button.textContent = said;
  setTimeout(() => (button.textContent = before), 1500);
}
