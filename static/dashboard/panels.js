/** The market's plots: one time for all of them, and what each of them shows. @module */

import { $, element } from "../page.js";
import { Frame } from "../plots/frame.js";
import { Panel } from "../plots/panel.js";
import { showRanges } from "../plots/ranges.js";
import { Series } from "../plots/series.js";
import { Alerts } from "./alerts.js";
import { digits, percent, whole } from "./instrument.js";

/** @typedef {import("./instrument.js").Instrument} Instrument */

export const RANGES = new Map([
  [60_000, "1 min"],
  [300_000, "5 min"],
  [900_000, "15 min"],
  [3_600_000, "1 h"],
]);
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const axis = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });
/** Colours that there are. */
const COMPARED = 8;
/** What is compared before anybody has chosen. */
const FIRST = 4;

export class Panels {
  frame = new Frame(60_000);
  #price = new Panel(this.frame, "Price", (value) => axis.format(value));
  #volume = new Panel(this.frame, "Volume", (value) => short.format(value), { floor: 0 });
  #together = new Panel(this.frame, "Compared", (value) => percent.format(value), { legend: true });
  #rate = new Panel(this.frame, "Updates /s", (value) => whole.format(value), { floor: 0 });
  #all = [this.#price, this.#volume, this.#together, this.#rate];
  #rates = new Series([
    [1000, 902],
    [10_000, 364],
  ]);
  /** @type {Instrument | null} */
  chosen = null;
  /** @type {Instrument[]} */
  compared = [];
  /** Whether somebody has chosen what is compared. */
  #picked = false;
  alerts = new Alerts(() => this.#showAlerts());
  #chips = element("span", "alerts");

  /** @param {() => void} moved  called when another time is to be shown */
  constructor(moved) {
    this.#price.element.classList.add("main");
    $("panels").append(...this.#all.map((panel) => panel.element));
    showRanges($("ranges"), this.frame, RANGES);
    this.frame.on(moved);
    this.#rate.show([{ name: "Updates /s", colour: "plot-3", series: this.#rates }]);
    this.#alertForm();
  }

  #alertForm() {
    const input = element("input");
    Object.assign(input, { id: "alert", inputMode: "decimal", placeholder: "Alert at", autocomplete: "off" });
    input.ariaLabel = "Alert at this price";
    const form = element("form", "alert-form", input);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = Number(input.value.trim().replace(",", "."));
      if (!this.chosen || !input.value.trim()) return;
      input.setAttribute("aria-invalid", String(!Number.isFinite(value)));
      if (!Number.isFinite(value)) return;
      input.value = "";
      this.alerts.add(this.chosen.symbol, value);
    });
    this.#price.extra.append(form, this.#chips);
  }

  #showAlerts() {
    const symbol = this.chosen?.symbol ?? "";
    this.alerts.show(this.#chips, symbol);
    this.#price.plot.limits = this.alerts.of(symbol).map((value) => ({ value, words: digits.format(value) }));
    this.#price.plot.draw(Date.now(), true);
  }

  /** @param {Instrument} instrument */
  choose(instrument) {
    this.chosen = instrument;
    const { symbol: name, series } = instrument;
    this.#price.show([{ name, colour: "plot-1", series }]);
    this.#price.rename(`${name}, the price`);
    this.#volume.show([{ name, colour: "plot-7", series, bars: true }]);
    this.#showAlerts();
  }

  /** As long as nobody has chosen any, the first few are compared. @param {Instrument[]} all  by name */
  offer(all) {
    const first = all.slice(0, FIRST);
    if (!this.#picked && first.some((one, at) => one !== this.compared[at])) this.#compare(first);
  }

  /** Take it into the comparison, or out of it. @param {Instrument} instrument */
  compare(instrument) {
    this.#picked = true;
    const there = this.compared.includes(instrument);
    this.#compare(there ? this.compared.filter((one) => one !== instrument) : [...this.compared, instrument].slice(-COMPARED));
  }

  /** @param {Instrument[]} instruments */
  #compare(instruments) {
    for (const one of this.compared) this.#mark(one, "");
    this.compared = instruments;
    const lines = instruments.map((one, at) => {
      const colour = `plot-${at + 1}`;
      this.#mark(one, colour);
      return { name: one.symbol, colour, series: one.series, of: (/** @type {number} */ price) => price / one.open - 1 };
    });
    this.#together.show(lines);
  }

  /** @param {Instrument} instrument @param {string} colour */
  #mark({ compare }, colour) {
    compare.className = `compare swatch ${colour}`;
    compare.setAttribute("aria-pressed", String(colour !== ""));
  }

  /** Of which series the past is wanted. */
  get wanted() {
    return new Set([...(this.chosen ? [this.chosen] : []), ...this.compared]);
  }

  /** @param {number} rate */
  note(rate) {
    this.#rates.add(Date.now(), rate);
  }

  /** @param {number} now */
  draw(now) {
    for (const panel of this.#all) panel.draw(now);
  }

  redraw() {
    for (const panel of this.#all) panel.draw(Date.now(), true);
  }

  /** Whether one of them was alone, and is not any more. */
  together() {
    const one = this.#all.find((panel) => panel.isAlone);
    one?.alone(false);
    return one !== undefined;
  }

  /** The one that the focus is in alone, or the price. */
  alone() {
    const one = this.#all.find((panel) => panel.element.contains(document.activeElement)) ?? this.#price;
    one.alone(!one.isAlone);
  }
}
