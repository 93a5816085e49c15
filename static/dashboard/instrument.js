/** One instrument: its figures and its row in the list. @module */

import { button, element } from "../page.js";
import { Series } from "../plots/series.js";
import { Spark } from "./spark.js";

export const digits = new Intl.NumberFormat(undefined, { minimumSignificantDigits: 6, maximumSignificantDigits: 6 });
export const percent = new Intl.NumberFormat(undefined, {
  style: "percent",
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  signDisplay: "exceptZero",
});
export const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
export const still = matchMedia("(prefers-reduced-motion: reduce)");
/** Two minutes finely, a quarter of an hour by the second, an hour. */
const LEVELS = /** @type {[number, number][]} */ ([
  [250, 482],
  [1000, 902],
  [5000, 722],
]);

/** @param {number} change */
export const way = (change) => (Math.abs(change) < 0.00005 ? "" : change > 0 ? "up" : "down");

export class Instrument {
  price = NaN;
  open = NaN;
  low = Infinity;
  high = -Infinity;
  volume = 0;
  series = new Series(LEVELS);
  changed = true;
  #drawn = NaN;
  #price = element("td", "number price");
  #change = element("td", "number change");
  #volume = element("td", "number wide");
  #spark;

  /** @param {string} symbol @param {(instrument: Instrument) => void} choose @param {(instrument: Instrument) => void} compare */
  constructor(symbol, choose, compare) {
    this.symbol = symbol;
    this.button = button("symbol", symbol);
    this.button.addEventListener("click", () => choose(this));
    this.compare = button("compare");
    this.compare.ariaLabel = `Compare ${symbol}`;
    this.compare.title = "In the comparison, or not";
    this.compare.addEventListener("click", (event) => {
      event.stopPropagation();
      compare(this);
    });
    const canvas = element("canvas", "spark");
    canvas.ariaHidden = "true";
    this.#spark = new Spark(canvas, this.series);
    const name = element("th", "", this.compare, this.button);
    name.scope = "row";
    this.row = element("tr", "", name, this.#price, this.#change, this.#volume, element("td", "", canvas));
    this.row.addEventListener("click", () => choose(this));
  }

  /** @param {any} tick  as it came @param {number} now */
  take({ price, volume, open, low, high }, now) {
    if (!Number.isFinite(price)) return;
    const more = Number.isFinite(volume) ? Math.max(0, volume - (this.volume || volume)) : 0;
    if (Number.isNaN(this.open)) this.open = price;
    if (Number.isFinite(open) && open > 0) this.open = open;
    this.low = Math.min(this.low, price, Number.isFinite(low) ? low : price);
    this.high = Math.max(this.high, price, Number.isFinite(high) ? high : price);
    if (Number.isFinite(volume)) this.volume = volume;
    this.price = price;
    this.series.add(now, price, more);
    this.changed = true;
  }

  get change() {
    return this.price / this.open - 1;
  }

  draw() {
    if (!this.changed) return;
    this.changed = false;
    this.#price.textContent = digits.format(this.price);
    this.#change.textContent = percent.format(this.change);
    this.#change.dataset.way = way(this.change);
    this.#volume.textContent = whole.format(this.volume);
    if (!still.matches && this.price !== this.#drawn && !Number.isNaN(this.#drawn)) {
      // Two names of one animation, in turns: a changed name starts it anew, and the layout is left alone.
      const kind = this.price > this.#drawn ? "up" : "down";
      this.#price.className = `number price ${kind}${this.#price.classList.contains(`${kind}-1`) ? "-2" : "-1"}`;
    }
    this.#drawn = this.price;
  }

  /** @param {number} now */
  drawPlot(now) {
    this.#spark.draw(now);
  }
}
