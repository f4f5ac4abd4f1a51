/** The page's texts: `strings.LANGUAGE.json` for each language in `LANGUAGES`. */

import { all } from "./elements.js";

const LANGUAGES = ["en"];

/** @type {Record<string, string>} */
let texts = {};

/** Load the texts of the first language of the reader that there is, and write them into the page. */
export async function loadStrings() {
  const wanted = navigator.languages.map((tag) => tag.split("-")[0]);
  const language = wanted.find((each) => LANGUAGES.includes(each)) ?? LANGUAGES[0];
  texts = await (await fetch(new URL(`../strings.${language}.json`, import.meta.url))).json();
  document.documentElement.lang = language;
  for (const element of all("[data-t]")) {
    element.textContent = t(element.dataset.t);
  }
  for (const element of all("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
  }
  for (const element of all("[data-t-placeholder]")) {
    element.setAttribute("placeholder", t(element.dataset.tPlaceholder));
  }
}

/**
 * The text of a key; `{name}` in it is replaced.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
