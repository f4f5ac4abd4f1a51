/** Errors, in the server's own words, and the form for the key that a server may want. */

import { ApiError } from "./api.js";
import { byId } from "./elements.js";
import { rememberKey } from "./remembered.js";
import { t } from "./strings.js";

/**
 * The words for an error.
 * @param {Error} error
 */
export function words(error) {
  if (error instanceof ApiError && error.status === 0) return t("unreachable");
  return error.message;
}

/** @type {Error | null} */
let shown = null;

/**
 * Show an error; the same words are not announced again.
 * @param {Error} error
 */
export function showError(error) {
  if (error.name === "AbortError") return;
  if (error instanceof ApiError && error.status === 401) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  if (byId("error").textContent !== words(error)) byId("error").textContent = words(error);
  byId("error").hidden = false;
  shown = error;
  if (!(error instanceof ApiError || error instanceof DOMException)) throw error;
}

/**
 * Take an error away, if it is still the one that is shown.
 * @param {Error | null} error
 */
export function clearError(error = shown) {
  if (error !== shown) return;
  byId("error").hidden = true;
  shown = null;
}

/**
 * Call back once a key was entered.
 * @param {() => void} entered
 */
export function onKey(entered) {
  byId("key-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    rememberKey(byId("key").value.trim());
    byId("key").value = "";
    byId("key-form").hidden = true;
    entered();
  });
}
