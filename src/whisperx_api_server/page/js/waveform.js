/** The recording as a waveform, in the colours of who speaks. */

const PEAKS = 2000;
const SAMPLE_RATE = 3000; // Hz; the lowest that browsers decode to
/* Larger or longer recordings are not decoded, because browsers hold all samples of a file at its
   own rate: 20 minutes of 48 kHz stereo are 460 MB. Their speech is shown as blocks. */
const MAX_BYTES = 200e6;
const MAX_DURATION = 1200; // s

/**
 * The loudest sample of each of `PEAKS` parts, in [0, 1]; null if it is too long, or of
 * a format that the browser cannot decode.
 * @param {Blob} blob
 * @param {number} duration in seconds
 * @returns {Promise<Float32Array | null>}
 */
export async function readPeaks(blob, duration) {
  if (blob.size > MAX_BYTES || duration > MAX_DURATION) return null;
  let decoded;
  try {
    const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
    decoded = await context.decodeAudioData(await blob.arrayBuffer());
  } catch (error) {
    if (error instanceof DOMException) return null;
    throw error;
  }
  const samples = decoded.getChannelData(0);
  const peaks = new Float32Array(PEAKS);
  for (let at = 0; at < samples.length; at++) {
    const part = Math.floor((at * PEAKS) / samples.length);
    peaks[part] = Math.max(peaks[part], Math.abs(samples[at]));
  }
  const loudest = peaks.reduce((one, other) => Math.max(one, other), 1e-6);
  return peaks.map((peak) => peak / loudest);
}

/** Draws on a canvas. */
export class Waveform {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {import("./transcript.js").Transcript} transcript
   * @param {string[]} speakers
   */
  constructor(canvas, transcript, speakers) {
    this.canvas = canvas;
    this.duration = transcript.duration || 1;
    /** @type {Float32Array | null} */
    this.peaks = null;
    this.speech = new Int16Array(PEAKS).fill(-1); // the speaker of each part; -1: nobody
    for (const { start, end, speaker } of transcript.segments) {
      const place = speakers.length ? speakers.indexOf(speaker ?? "") % 8 : 0;
      const [from, to] = [start, end].map((time) => Math.round((time / this.duration) * PEAKS));
      this.speech.fill(place, from, Math.max(to, from + 1));
    }
  }

  /**
   * The time under the pointer.
   * @param {MouseEvent} event
   */
  timeAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return Math.max(0, ((event.clientX - box.left) / box.width) * this.duration);
  }

  /**
   * Draw, with a line at a time.
   * @param {number} time in seconds
   */
  draw(time) {
    const style = getComputedStyle(this.canvas);
    const color = (/** @type {string} */ name) => style.getPropertyValue(name);
    const colors = Array.from({ length: 8 }, (_, place) => color(`--speaker-${place}`));
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = devicePixelRatio;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(scale, scale);
    for (let x = 0; x < width; x++) {
      const part = Math.floor((x * PEAKS) / width);
      const place = this.speech[part];
      const peak = this.peaks?.[part] ?? (place < 0 ? 0.02 : 0.5);
      const tall = Math.max(1, peak * (height - 4));
      context.fillStyle = place < 0 ? color("--quiet") : colors[place];
      context.fillRect(x, (height - tall) / 2, 1, tall);
    }
    context.fillStyle = color("--text");
    context.fillRect((time / this.duration) * width - 1, 0, 2, height);
  }
}
