/** What the nodes tell of themselves: a row each, and figures over all of them. @module */

import { $, element } from "../page.js";
import { addFigures, clearFigures } from "./figures.js";
import { count, duration, millis, rate, size } from "./words.js";

/** Seconds after which a node that says nothing is said to be silent, and after which it is taken off the table. */
const SILENT = 4;
const GONE = 30;

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
    if (!silent && row.outbox) {
      const { waiting, lag, dead } = row.outbox;
      const words = `outbox: ${count.format(waiting)} wait, ${lag} s behind, ${count.format(dead)} dead`;
      word.append(element("small", "outbox", words));
    }
    const title = element("th", "", element("code", "", name));
    title.scope = "row";
    const numbers = [
      duration(row.uptime), count.format(row.connections), rate(row.in), rate(row.out), millis(row.publish_p50),
      millis(row.publish_p99), size(row.queue_bytes),
    ].map((text) => element("td", "number", silent ? "–" : text)); // prettier-ignore
    lines.push(element("tr", "", title, word, ...numbers));
  }
  $("nodes").replaceChildren(...lines);
  addFigures(rows);
}

/** @param {any} row  what a node says of itself */
export function hearNode(row) {
  nodes.set(row.node, { row, heard: performance.now() });
}

export function forgetNodes() {
  nodes.clear();
  clearFigures();
  $("nodes").replaceChildren();
}
