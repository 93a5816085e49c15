/** What the nodes tell of themselves: a row each, figures over all of them, refusals and repairs. @module */

import { $, element, svg } from "../page.js";
import { at, count, duration, millis, rate, size } from "./words.js";

/** Seconds in the plots. */
const SPAN = 90;
/** Seconds after which a node that says nothing is said to be silent, and after which it is taken off the table. */
const SILENT = 4;
const GONE = 30;
const EVENTS = 100;

/** A figure over all nodes, with its last SPAN seconds as a plot. */
class Figure {
  /** @type {(number | null)[]} */
  #past = [];
  #value = element("b");
  #plot = svg("svg", { class: "plot", viewBox: `0 0 ${SPAN - 1} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #area = svg("polygon", {});
  #line = svg("polyline", {});

  /** @param {string} name @param {(rows: any[]) => number | null} sum @param {(value: number) => string} form */
  constructor(name, sum, form) {
    this.sum = sum;
    this.form = form;
    this.#plot.append(this.#area, this.#line);
    $("figures").append(element("li", "", element("span", "", name), this.#value, this.#plot));
  }

  clear() {
    this.#past = [];
  }

  /** @param {any[]} rows */
  add(rows) {
    const value = rows.length ? this.sum(rows) : null;
    this.#value.textContent = value === null ? "–" : this.form(value);
    this.#past = [...this.#past, value].slice(-SPAN);
    const top = Math.max(1e-9, ...this.#past.map((one) => one ?? 0)) * 1.1;
    const first = SPAN - this.#past.length;
    const points = this.#past.map((one, index) => `${first + index},${(100 - (100 * (one ?? 0)) / top).toFixed(1)}`);
    this.#line.setAttribute("points", points.join(" "));
    this.#area.setAttribute("points", `${first},100 ${points.join(" ")} ${SPAN - 1},100`);
  }
}

/** @param {string} field @returns {(rows: any[]) => number} */
const total = (field) => (rows) => rows.reduce((sum, row) => sum + (row[field] ?? 0), 0);
/** @param {any[]} rows */
const slowest = (rows) => rows.reduce((most, row) => (row.publish_p99 > (most ?? 0) ? row.publish_p99 : most), null);

const figures = [
  new Figure("Clients", total("connections"), count.format),
  new Figure("Published /s", total("in"), rate),
  new Figure("Delivered /s", total("out"), rate),
  new Figure("Publish p99", slowest, millis),
  new Figure("Refusals /s", total("refusals"), rate),
  new Figure("Repairs /s", total("repairs"), rate),
];

/** What each node said last. @type {Map<string, {row: any, heard: number}>} */
const nodes = new Map();

export function showNodes() {
  const now = performance.now();
  const rows = [];
  const lines = [];
  for (const [name, { heard }] of nodes) if (now - heard > GONE * 1000) nodes.delete(name);
  for (const [name, { row, heard }] of [...nodes].sort()) {
    const silent = now - heard > SILENT * 1000;
    if (!silent) rows.push(row);
    const status = silent ? "silent" : row.status;
    const word = element("td", "status", status);
    word.dataset.status = status;
    const reasons = silent ? [`for ${duration(Math.round((now - heard) / 1000))}`] : row.reasons;
    for (const reason of reasons) word.append(element("small", "", reason));
    const title = element("th", "", element("code", "", name));
    title.scope = "row";
    const numbers = [
      duration(row.uptime), count.format(row.connections), rate(row.in), rate(row.out), millis(row.publish_p50),
      millis(row.publish_p99), size(row.queue_bytes),
    ].map((text) => element("td", "number", silent ? "–" : text)); // prettier-ignore
    lines.push(element("tr", "", title, word, ...numbers));
  }
  $("nodes").replaceChildren(...lines);
  for (const figure of figures) figure.add(rows);
}

/** @param {any} event @param {number} time */
export function showEvent(event, time) {
  const times = event.count > 1 ? ` × ${count.format(event.count)}` : "";
  const item = element("li", "", at(time));
  if (event.event === "refusal") {
    item.append(element("b", "", event.code), times, ` ${event.reason}`);
    item.append(element("small", "", `${event.user ?? "guest"} · ${event.address} · ${event.node}`));
  } else {
    item.append(element("b", "", event.event), times, element("small", "", event.node ?? ""));
  }
  $("events").prepend(item);
  $("no-events").hidden = true;
  while ($("events").children.length > EVENTS) $("events").lastChild.remove();
}

/** @param {any} row  what a node says of itself */
export function hearNode(row) {
  nodes.set(row.node, { row, heard: performance.now() });
}

export function forgetNodes() {
  nodes.clear();
  for (const figure of figures) figure.clear();
  for (const id of ["nodes", "events"]) $(id).replaceChildren();
  $("no-events").hidden = false;
}
