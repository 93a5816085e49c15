/** Prices at which one wants to be told: kept in this browser, drawn into the plot, said when they are crossed. @module */

import { button, recall, remember } from "../page.js";
import { toast } from "../toasts.js";
import { digits } from "./instrument.js";

/** @typedef {import("./instrument.js").Instrument} Instrument */

const NAME = "dashboard.alerts";
const MOST = 5;
/** Milliseconds in which a price that trembles around a limit is said once. */
const QUIET = 10_000;

export class Alerts {
  /** @type {Record<string, number[]>} */
  #kept = {};
  /** @type {Map<string, { above: boolean, said: number }>} */
  #seen = new Map();
  #changed;

  /** @param {() => void} changed */
  constructor(changed) {
    this.#changed = changed;
    const kept = recall("localStorage", NAME);
    if (!kept || typeof kept !== "object") return;
    for (const [symbol, values] of Object.entries(kept)) {
      if (Array.isArray(values)) this.#kept[symbol] = values.filter(Number.isFinite).slice(0, MOST);
    }
  }

  /** @param {string} symbol */
  of(symbol) {
    return this.#kept[symbol] ?? [];
  }

  /** @param {string} symbol @param {number} value */
  add(symbol, value) {
    if (!Number.isFinite(value) || this.of(symbol).includes(value)) return;
    this.#keep(symbol, [...this.of(symbol), value].slice(-MOST));
  }

  /** @param {string} symbol @param {number[]} values */
  #keep(symbol, values) {
    this.#kept[symbol] = values;
    if (!values.length) delete this.#kept[symbol];
    remember("localStorage", NAME, this.#kept);
    this.#changed();
  }

  /** Whether a price has gone over one of its limits. @param {Instrument} instrument */
  look({ symbol, price }) {
    for (const value of this.of(symbol)) {
      const key = `${symbol} ${value}`;
      const seen = this.#seen.get(key);
      const above = price >= value;
      if (seen === undefined) this.#seen.set(key, { above, said: 0 });
      else if (seen.above !== above) {
        seen.above = above;
        if (Date.now() - seen.said < QUIET) continue;
        seen.said = Date.now();
        toast(`${symbol} is ${above ? "above" : "below"} ${digits.format(value)}`, { stays: 10_000 });
      }
    }
  }

  /** Those of an instrument, each to be taken away. @param {HTMLElement} place @param {string} symbol */
  show(place, symbol) {
    const chips = this.of(symbol).map((value) => {
      const chip = button("alert", `${digits.format(value)} ×`);
      chip.ariaLabel = `No alert at ${digits.format(value)} any more`;
      chip.addEventListener("click", () => this.#keep(symbol, this.of(symbol).filter((one) => one !== value)));
      return chip;
    });
    place.replaceChildren(...chips);
  }
}
