/** The console's figures over time: an hour of them, which the server remembers, and each second as it comes. @module */

import { $, element } from "../page.js";
import { Frame } from "../plots/frame.js";
import { Panel } from "../plots/panel.js";
import { showRanges } from "../plots/ranges.js";
import { Series } from "../plots/series.js";
import { count, millis, rate } from "./words.js";

const RANGES = new Map([
  [90_000, "90 s"],
  [300_000, "5 min"],
  [900_000, "15 min"],
  [3_600_000, "1 h"],
]);
const LEVELS = /** @type {[number, number][]} */ ([
  [1000, 120],
  [10_000, 364],
]);

/** @param {string} field @returns {(rows: any[]) => number} */
const total = (field) => (rows) => rows.reduce((sum, row) => sum + (row[field] ?? 0), 0);
/** @param {any[]} rows */
const slowest = (rows) => rows.reduce((most, row) => (row.publish_p99 > (most ?? 0) ? row.publish_p99 : most), null);

const frame = new Frame(90_000);

class Figure {
  #series = new Series(LEVELS);

  /** @param {string} name @param {string} field @param {(value: number) => string} form @param {string} colour @param {(rows: any[]) => number | null} [sum] */
  constructor(name, field, form, colour, sum = total(field)) {
    this.field = field;
    this.sum = sum;
    this.colour = colour;
    this.panel = new Panel(frame, name, form, { floor: 0, axis: (value) => form(value).replace("≤ ", "") });
    this.clear();
  }

  clear() {
    this.#series = new Series(LEVELS);
    this.panel.show([{ name: this.panel.name, colour: this.colour, series: this.#series }]);
  }

  /** @param {any[]} rows  what each node says of itself */
  add(rows) {
    const value = rows.length ? this.sum(rows) : null;
    if (value !== null) this.#series.add(Date.now(), value);
    this.panel.draw(Date.now(), true);
  }

  /** @param {any[]} rows  the hour before, the oldest first */
  fill(rows) {
    for (const row of rows.toReversed()) if (row[this.field] !== null) this.#series.fill(row.time, row[this.field]);
    this.panel.draw(Date.now(), true);
  }
}

const figures = [
  new Figure("Clients", "connections", count.format, "plot-1"),
  new Figure("Published /s", "in", rate, "plot-3"),
  new Figure("Delivered /s", "out", rate, "plot-7"),
  new Figure("Publish p99", "publish_p99", millis, "plot-4", slowest),
  new Figure("Refusals /s", "refusals", rate, "plot-2"),
  new Figure("Repairs /s", "repairs", rate, "plot-5"),
];

/** Into the page, once. */
export function showFigures() {
  if ($("figures").children.length) return;
  $("figures").append(...figures.map((one) => element("li", "", one.panel.element)));
  showRanges($("ranges"), frame, RANGES);
}

/** @param {any[]} rows  of the nodes that can be heard */
export function addFigures(rows) {
  for (const one of figures) one.add(rows);
}

/** @param {any[]} rows */
export function fillFigures(rows) {
  for (const one of figures) one.fill(rows);
}

export function clearFigures() {
  for (const one of figures) one.clear();
  frame.follow();
}
