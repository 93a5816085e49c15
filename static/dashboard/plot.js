/** Plots on a canvas, in the colours of the style sheet. @module */

import { SLOT, SLOTS } from "./series.js";

/** @typedef {import("./series.js").Series} Series */

/** The time that is shown: what there is, but neither very little nor more than is kept. In ms. */
const SPAN = { least: 4000, most: SLOT * SLOTS };
/** @param {Series} series @param {number} now */
const spanOf = (series, now) => Math.min(SPAN.most, Math.max(SPAN.least, series.age(now)));

/** A canvas that is as sharp as the screen, and the colours at present. */
class Sheet {
  #canvas;
  context;
  width = 0;
  height = 0;
  /** @type {Record<string, string>} */
  colours = {};

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    new ResizeObserver(() => this.#fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#fit());
  }

  #fit() {
    const { clientWidth, clientHeight } = this.#canvas;
    const style = getComputedStyle(this.#canvas);
    for (const name of ["accent", "tint", "line", "muted", "good", "bad"]) {
      this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    const scale = devicePixelRatio;
    this.#canvas.width = Math.round(clientWidth * scale);
    this.#canvas.height = Math.round(clientHeight * scale);
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.width = clientWidth;
    this.height = clientHeight;
  }

  /** @param {Series} series @param {number} now */
  static range(series, now) {
    let low = Infinity;
    let high = -Infinity;
    let most = 0;
    series.each(now, (_, price, volume) => {
      low = Math.min(low, price);
      high = Math.max(high, price);
      most = Math.max(most, volume);
    });
    const room = (high - low || high * 0.001) * 0.08;
    return { low: low - room, high: high + room, most };
  }
}

/** The line of a row in the list. */
export class Spark extends Sheet {
  #series;

  /** @param {HTMLCanvasElement} canvas @param {Series} series */
  constructor(canvas, series) {
    super(canvas);
    this.#series = series;
  }

  /** @param {number} now */
  draw(now) {
    const { context, width, height, colours } = this;
    if (!width) return;
    const { low, high } = Sheet.range(this.#series, now);
    const span = spanOf(this.#series, now);
    context.clearRect(0, 0, width, height);
    context.beginPath();
    let first = NaN;
    let last = NaN;
    this.#series.each(now, (age, price) => {
      if (Number.isNaN(first)) first = price;
      last = price;
      context.lineTo(width * (1 - age / span), height * (1 - (price - low) / (high - low)));
    });
    context.lineTo(width, height * (1 - (last - low) / (high - low)));
    context.strokeStyle = last < first ? colours.bad : colours.good;
    context.lineWidth = 1.4;
    context.lineJoin = "round";
    context.stroke();
  }
}

const axis = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });
const MARGIN = { right: 76, bottom: 24, top: 8 };
/** The part of the height that the volume may take. */
const VOLUME = 0.2;

/** The large one: a line with its area, bars of volume, and two axes. */
export class Plot extends Sheet {
  /** @type {Series | null} */
  series = null;
  /** What the axis spans, which follows what is shown gently. */
  #low = NaN;
  #high = NaN;
  /** @type {Series | null} */
  #drawn = null;

  /** @param {number} now */
  draw(now) {
    const { context, colours, series } = this;
    const width = this.width - MARGIN.right;
    const height = this.height - MARGIN.bottom - MARGIN.top;
    if (!series || width <= 0) return;
    const { low, high, most } = Sheet.range(series, now);
    if (!Number.isFinite(low)) return context.clearRect(0, 0, this.width, this.height);
    const follow = this.#drawn === series ? 0.15 : 1;
    this.#drawn = series;
    this.#low = follow === 1 ? low : this.#low + (low - this.#low) * follow;
    this.#high = follow === 1 ? high : this.#high + (high - this.#high) * follow;
    const span = spanOf(series, now);
    const x = (/** @type {number} */ age) => width * (1 - age / span);
    const y = (/** @type {number} */ price) =>
      MARGIN.top + height * (1 - (price - this.#low) / (this.#high - this.#low));

    context.clearRect(0, 0, this.width, this.height);
    context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    this.#axes(x, y, span, width, height);

    context.fillStyle = colours.line;
    const slot = (width * SLOT) / span;
    series.each(now, (age, _, volume) => {
      const tall = most ? (height * VOLUME * volume) / most : 0;
      if (tall) context.fillRect(x(age) - slot, MARGIN.top + height - tall, Math.max(1, slot - 1), tall);
    });

    context.beginPath();
    let begin = NaN;
    let last = NaN;
    series.each(now, (age, price) => {
      if (Number.isNaN(begin)) begin = x(age);
      last = price;
      context.lineTo(Math.max(0, x(age)), y(price));
    });
    context.lineTo(width, y(last));
    context.strokeStyle = colours.accent;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(width, MARGIN.top + height);
    context.lineTo(Math.max(0, begin), MARGIN.top + height);
    context.closePath();
    context.globalAlpha = 0.12;
    context.fillStyle = colours.accent;
    context.fill();
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(width, y(last), 4, 0, 7);
    context.fill();
  }

  /** @param {(age: number) => number} x @param {(price: number) => number} y @param {number} span @param {number} width @param {number} height */
  #axes(x, y, span, width, height) {
    const { context, colours } = this;
    context.lineWidth = 1;
    context.strokeStyle = colours.line;
    context.fillStyle = colours.muted;
    context.textBaseline = "middle";
    context.textAlign = "left";
    const step = nice((this.#high - this.#low) / (height / 56));
    for (let price = Math.ceil(this.#low / step) * step; price <= this.#high; price += step) {
      const at = Math.round(y(price)) + 0.5;
      context.beginPath();
      context.moveTo(0, at);
      context.lineTo(width, at);
      context.stroke();
      context.fillText(axis.format(price), width + 10, at);
    }
    context.textAlign = "center";
    const every = [2, 5, 10, 20, 30].find((seconds) => (1000 * seconds * width) / span > 50) ?? 60;
    for (let seconds = every; 1000 * seconds < span * 0.95; seconds += every) {
      context.fillText(`−${seconds} s`, x(seconds * 1000), this.height - MARGIN.bottom / 2 + 2);
    }
  }
}

/** The next larger 1, 2 or 5 times a power of ten. @param {number} step */
function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= step) ?? 10);
}
