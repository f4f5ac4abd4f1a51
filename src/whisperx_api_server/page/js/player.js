/** Plays the recording, and shows where it is in the waveform and in the words. */

import { byId } from "./elements.js";
import { showError } from "./problems.js";
import { readPeaks, Waveform } from "./waveform.js";

/** The recording of a transcript. */
export class Player {
  /**
   * @param {import("./transcript.js").Transcript} transcript
   * @param {import("./transcript.js").TranscriptView} view
   * @param {AbortSignal} signal aborted when the job is left
   */
  constructor(transcript, view, signal) {
    this.audio = byId("audio");
    this.view = view;
    this.signal = signal;
    this.waveform = new Waveform(byId("waveform"), transcript, view.speakers);
    view.onToggle = () => this.toggle();
    const listen = { signal };
    const show = () => this.#show();
    for (const type of ["timeupdate", "seeking", "play"]) {
      this.audio.addEventListener(type, show, listen);
    }
    addEventListener("resize", () => this.waveform.draw(this.audio.currentTime), listen);
    byId("waveform").addEventListener("click", (/** @type {MouseEvent} */ event) => {
      this.seek(this.waveform.timeAt(event));
    }, listen);
    byId("audio-file").addEventListener("change", () => {
      const [file] = byId("audio-file").files;
      this.onChosen(file);
      this.open(file);
    }, listen);
  }

  /**
   * Take a recording; without one, ask for it.
   * @param {Blob | undefined} blob
   */
  open(blob) {
    byId("audio-missing").hidden = blob !== undefined;
    this.audio.hidden = blob === undefined;
    this.#release();
    this.waveform.draw(0);
    if (blob === undefined) return;
    this.address = URL.createObjectURL(blob);
    this.audio.src = this.address;
    readPeaks(blob, this.waveform.duration).then((peaks) => {
      if (this.signal.aborted) return;
      this.waveform.peaks = peaks;
      this.waveform.draw(this.audio.currentTime);
    }).catch(showError);
  }

  /**
   * Play from a time.
   * @param {number} time in seconds
   */
  seek(time) {
    this.view.light(time, true);
    this.waveform.draw(time);
    if (this.audio.hidden) return;
    this.audio.currentTime = time;
    this.#play();
  }

  /** Play or pause. */
  toggle() {
    if (this.audio.hidden) return;
    if (this.audio.paused) this.#play();
    else this.audio.pause();
  }

  #play() {
    this.audio.play().catch((/** @type {Error} */ error) => {
      if (!this.signal.aborted) showError(error);
    });
  }

  /** Stop, and let the recording go. */
  close() {
    this.audio.pause();
    this.#release();
  }

  #release() {
    if (this.address === undefined) return;
    this.audio.removeAttribute("src");
    this.audio.load();
    URL.revokeObjectURL(this.address);
    this.address = undefined;
  }

  /** Show the present time, in each frame while it plays. */
  #show() {
    const time = this.audio.currentTime;
    this.view.light(time, !this.audio.paused);
    this.waveform.draw(time);
    if (!this.audio.paused && !this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        if (!this.signal.aborted) this.#show();
      });
    }
  }

  /** @type {(file: File) => void} called with the recording that the reader chooses */
  onChosen = () => {};
  frame = 0;
  /** @type {string | undefined} */
  address;
}
