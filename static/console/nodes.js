/** What the nodes tell of themselves: a row each, figures over all of them, refusals and repairs. @module */

import { $, element, forget, recall, remember } from "../page.js";
import { Plot, showRanges } from "./plots.js";
import { at, count, duration, millis, rate, size } from "./words.js";

/** Seconds after which a node that says nothing is said to be silent, and after which it is taken off the table. */
const SILENT = 4;
const GONE = 30;
/** Events are kept for so long, over a reload of this tab as well, and so many. Milliseconds. */
const KEEP = 3_600_000;
const EVENTS = 500;
/** Of those who were refused so many are named. */
const NAMED = 8;

/** @param {string} field @returns {(rows: any[]) => number} */
const total = (field) => (rows) => rows.reduce((sum, row) => sum + (row[field] ?? 0), 0);
/** @param {any[]} rows */
const slowest = (rows) => rows.reduce((most, row) => (row.publish_p99 > (most ?? 0) ? row.publish_p99 : most), null);

const figures = [
  new Plot("Clients", total("connections"), count.format),
  new Plot("Published /s", total("in"), rate),
  new Plot("Delivered /s", total("out"), rate),
  new Plot("Publish p99", slowest, millis),
  new Plot("Refusals /s", total("refusals"), rate),
  new Plot("Repairs /s", total("repairs"), rate),
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
  for (const figure of figures) figure.add(rows);
}

/** The newest last. @type {{event: any, time: number}[]} */
let events = [];

/** What this tab has heard before it was loaded anew. */
export function recallEvents() {
  showRanges();
  const kept = recall("sessionStorage", "console.events");
  events = Array.isArray(kept) ? kept.filter(({ time }) => Date.now() - time < KEEP) : [];
  for (const { event, time } of events) listEvent(event, time);
  showRefused();
}

/** @param {any} event @param {number} time */
export function showEvent(event, time) {
  events.push({ event, time });
  const old = events.findIndex((one) => Date.now() - one.time < KEEP);
  events.splice(0, Math.max(old, events.length - EVENTS, 0));
  remember("sessionStorage", "console.events", events);
  listEvent(event, time);
  showRefused();
}

/** Who was refused what, the most often first. */
function showRefused() {
  /** @type {Map<string, {code: string, who: string, times: number}>} */
  const met = new Map();
  for (const { event } of events) {
    if (event.event !== "refusal") continue;
    const who = event.user ?? event.address;
    const one = met.get(`${event.code} ${who}`) ?? { code: event.code, who, times: 0 };
    one.times += event.count ?? 1;
    met.set(`${event.code} ${who}`, one);
  }
  const most = [...met.values()].sort((one, other) => other.times - one.times).slice(0, NAMED);
  $("refused-most").replaceChildren(
    ...most.map(({ code, who, times }) => element("li", "", element("b", "", code), ` ${who} × ${count.format(times)}`)),
  );
  $("refused-title").hidden = !most.length;
}

/** @param {any} event @param {number} time */
function listEvent(event, time) {
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
  events = [];
  forget("sessionStorage", "console.events");
  for (const id of ["nodes", "events", "refused-most"]) $(id).replaceChildren();
  $("no-events").hidden = false;
}
