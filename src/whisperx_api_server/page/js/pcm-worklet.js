/** Sends the microphone's samples to the page, as 16-bit integers, 100 ms at a time. */

const SAMPLES = 2400;

registerProcessor("pcm", class extends AudioWorkletProcessor {
  pcm = new Int16Array(SAMPLES);
  filled = 0;

  /** @param {Float32Array[][]} inputs */
  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.pcm[this.filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this.filled === SAMPLES) {
        this.port.postMessage(this.pcm.slice());
        this.filled = 0;
      }
    }
    return true;
  }
});
