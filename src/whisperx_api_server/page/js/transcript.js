/** The words of a transcript: lit as they are played, marked where unsure or found. */

import { clock, make } from "./elements.js";
import { t } from "./strings.js";

/**
 * @typedef {{word: string, start: number, end: number, score?: number}} Word
 * @typedef {{start: number, end: number, text: string, speaker?: string, avg_logprob: number,
 *   words?: Word[]}} Segment
 * @typedef {{duration: number, segments: Segment[]}} Transcript
 */

/** Words of a lower probability are marked. */
const UNSURE = 0.5;

/** Shows a transcript in an element. */
export class TranscriptView {
  /**
   * @param {HTMLElement} element
   * @param {Transcript} transcript
   * @param {Record<string, string>} names the reader's names for speakers, by label
   */
  constructor(element, transcript, names) {
    this.element = element;
    this.segments = transcript.segments;
    this.names = names;
    /** @type {string[]} */
    this.speakers = [...new Set(this.segments.flatMap((each) => each.speaker ?? []))].sort();
    /** @type {{element: HTMLElement, word: Word}[]} */
    this.words = [];
    /** @type {(time: number) => void} */
    this.onSeek = () => {};
    this.lit = -1;
    /** @type {number[][]} the words of each place that was found */
    this.found = [];
    this.foundAt = -1;
    this.unsureAt = -1;
    element.replaceChildren(...this.segments.map((segment, at) => this.#paragraph(segment, at)));
    this.unsure = [...this.words.keys()].filter((at) => {
      return this.words[at].element.classList.contains("unsure");
    });
    this.showNames();
    element.onclick = (event) => {
      const at = /** @type {HTMLElement} */ (event.target).dataset.at;
      if (at !== undefined) this.onSeek(this.words[Number(at)].word.start);
    };
    element.onkeydown = (event) => this.#key(event);
    element.scrollTop = 0;
  }

  get unsureCount() {
    return this.unsure.length;
  }

  /**
   * @param {Segment} segment
   * @param {number} at
   */
  #paragraph(segment, at) {
    const words = make("span", { className: "words" });
    const spoken = segment.words?.length
      ? segment.words
      : [{ word: segment.text.trim(), start: segment.start, end: segment.end }];
    let place = 0;
    for (const word of spoken) {
      const from = segment.text.indexOf(word.word, place);
      if (from > place) words.append(segment.text.slice(place, from));
      else if (from < 0) words.append(" ");
      if (from >= 0) place = from + word.word.length;
      const element = make("span", {}, word.word);
      element.dataset.at = String(this.words.length);
      const probability = word.score ?? Math.exp(segment.avg_logprob);
      if (probability < UNSURE) {
        element.className = "unsure";
        element.title = t("unsure", { percent: Math.round(100 * probability) });
      }
      this.words.push({ element, word });
      words.append(element);
    }
    words.append(segment.text.slice(place));
    const time = make("span", { className: "time" }, clock(segment.start));
    const paragraph = make("p", { className: "segment" }, time, " ");
    const before = this.segments[at - 1];
    if (segment.speaker && segment.speaker !== before?.speaker) {
      const color = this.speakers.indexOf(segment.speaker) % 8;
      const label = make("b", { className: `speaker speaker-${color}` });
      label.dataset.speaker = segment.speaker;
      paragraph.append(label, " ");
    }
    paragraph.append(words);
    return paragraph;
  }

  /** Write the names of the speakers anew. */
  showNames() {
    for (const label of this.element.querySelectorAll("[data-speaker]")) {
      const { speaker } = /** @type {any} */ (label).dataset;
      label.textContent = `${this.names[speaker] ?? speaker}:`;
    }
  }

  /** The text, with a paragraph for each turn of a speaker. */
  text() {
    const parts = this.segments.map((segment, at) => {
      const { speaker, text } = segment;
      if (!speaker || speaker === this.segments[at - 1]?.speaker) return text;
      return `${at ? "\n\n" : ""}${this.names[speaker] ?? speaker}:${text}`;
    });
    return parts.join("").trim();
  }

  /**
   * Light the word that is spoken at a time.
   * @param {number} time
   * @param {boolean} follow whether to scroll to it
   */
  light(time, follow) {
    let [low, high] = [0, this.words.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].word.start <= time + 0.001) low = middle + 1;
      else high = middle;
    }
    const at = low - 1;
    if (at === this.lit) return;
    this.words[this.lit]?.element.classList.remove("lit");
    this.lit = at;
    this.words[at]?.element.classList.add("lit");
    if (follow) this.#reveal(at);
  }

  /** @param {number} at */
  #reveal(at) {
    const word = this.words[at]?.element;
    if (word === undefined) return;
    const [box, view] = [word.getBoundingClientRect(), this.element.getBoundingClientRect()];
    if (box.top < view.top || box.bottom > view.bottom) {
      this.element.scrollTop += box.top - view.top - view.height / 3;
    }
  }

  /**
   * Mark all places where a text is; returns how many there are.
   * @param {string} text
   */
  search(text) {
    for (const at of this.found.flat()) this.words[at].element.classList.remove("found");
    this.found = [];
    this.foundAt = -1;
    const wanted = text.trim().toLocaleLowerCase().replace(/\s+/g, " ");
    if (wanted) {
      let whole = "";
      const starts = this.words.map(({ word }) => {
        const start = whole.length;
        whole += `${word.word.toLocaleLowerCase()} `;
        return start;
      });
      let first = 0;
      for (let at = whole.indexOf(wanted); at >= 0; at = whole.indexOf(wanted, at + 1)) {
        while (starts[first + 1] <= at) first++;
        let last = first;
        while (starts[last + 1] < at + wanted.length) last++;
        this.found.push(Array.from({ length: last - first + 1 }, (_, place) => first + place));
      }
      for (const at of this.found.flat()) this.words[at].element.classList.add("found");
    }
    return this.found.length;
  }

  /** Go to the next place that was found. */
  nextFound() {
    if (!this.found.length) return;
    this.foundAt = (this.foundAt + 1) % this.found.length;
    this.#go(this.found[this.foundAt][0]);
  }

  /** Go to the next word of a low probability. */
  nextUnsure() {
    this.unsureAt = (this.unsureAt + 1) % this.unsure.length;
    this.#go(this.unsure[this.unsureAt]);
  }

  /** @param {number} at */
  #go(at) {
    if (this.words[at] === undefined) return;
    const { start } = this.words[at].word;
    this.onSeek(start);
    this.light(start, false);
    this.#reveal(at);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (event.key in steps) {
      const at = this.lit + steps[/** @type {keyof typeof steps} */ (event.key)];
      this.#go(Math.max(0, Math.min(at, this.words.length - 1)));
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      this.onToggle?.();
      event.preventDefault();
    }
  }

  /** @type {(() => void) | undefined} called to play or pause */
  onToggle;
}
