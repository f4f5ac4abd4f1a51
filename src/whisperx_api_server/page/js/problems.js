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

/** @param {Error} error */
export function showError(error) {
  if (error.name === "AbortError") return;
  if (error instanceof ApiError && error.status === 401) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  byId("error").textContent = words(error);
  byId("error").hidden = false;
  if (!(error instanceof ApiError || error instanceof DOMException)) throw error;
}

/** Take the error away. */
export function clearError() {
  byId("error").hidden = true;
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
