/** The line of a row in the list, on a canvas as sharp as the screen. @module */

/** @typedef {import("../plots/series.js").Series} Series */

/** What is shown, in ms. */
const SPAN = 120_000;

export class Spark {
  #canvas;
  #context;
  #series;
  #width = 0;
  #height = 0;
  #good = "";
  #bad = "";

  /** @param {HTMLCanvasElement} canvas @param {Series} series */
  constructor(canvas, series) {
    this.#canvas = canvas;
    this.#series = series;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    new ResizeObserver(() => this.#fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#fit());
  }

  #fit() {
    const { clientWidth, clientHeight } = this.#canvas;
    const style = getComputedStyle(this.#canvas);
    this.#good = style.getPropertyValue("--good").trim();
    this.#bad = style.getPropertyValue("--bad").trim();
    this.#canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.#canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.#context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    this.#width = clientWidth;
    this.#height = clientHeight;
  }

  /** @param {number} now */
  draw(now) {
    const context = this.#context;
    const [width, height] = [this.#width, this.#height];
    if (!width) return;
    let [low, high, first, last] = [Infinity, -Infinity, NaN, NaN];
    let begin = now - SPAN;
    this.#series.each(now - SPAN, now, (time, value) => {
      if (Number.isNaN(first)) [first, begin] = [value, Math.max(begin, time)];
      last = value;
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
    context.clearRect(0, 0, width, height);
    if (Number.isNaN(first)) return;
    const span = Math.max(4000, now - begin);
    const room = high - low || 1;
    const y = (/** @type {number} */ value) => 2 + (height - 4) * (1 - (value - low) / room);
    context.beginPath();
    this.#series.each(now - SPAN, now, (time, value) => context.lineTo(width * (1 - (now - time) / span), y(value)));
    context.lineTo(width, y(last));
    context.strokeStyle = last < first ? this.#bad : this.#good;
    context.lineWidth = 1.4;
    context.lineJoin = "round";
    context.stroke();
  }
}
