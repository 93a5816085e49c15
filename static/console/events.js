/** What went wrong within the hour, on all nodes: a list to be searched, and which limits are met by whom. @module */

import { $, element } from "../page.js";
import { at, ago, count } from "./words.js";

const KEEP = 3_600_000;
const EVENTS = 500;
/** Of those who met a limit so many are named. */
const NAMED = 3;
const REFUSED = 8;

/** @typedef {{ event: string, time: number, count?: number, [field: string]: any }} Event */
/** @typedef {{ code: string, limit: string | null, user: string | null, address: string, count: number, last: number }} Refused */

/** The newest last. @type {Event[]} */
let events = [];
/** @type {Map<string, Refused>} */
let refused = new Map();
/** @type {Record<string, any>} */
let limits = {};
/** Events until then are in what the server remembered. */
let known = 0;
let kind = "";

/** The hour before this page was opened. @param {{ events: Event[], refused: Refused[], limits: Record<string, any> }} recent */
export function recallEvents(recent) {
  known = recent.events.at(-1)?.time ?? 0;
  events = [...recent.events, ...events.filter((one) => one.time > known)];
  refused = new Map(recent.refused.map((one) => [keyOf(one), { ...one }]));
  limits = recent.limits;
  for (const one of events) if (one.time > known) countRefusal(one);
  showEvents();
  showLimits();
}

/** @param {any} event @param {number} time */
export function hearEvent(event, time) {
  if (time <= known) return;
  const one = { ...event, time };
  events.push(one);
  const old = events.findIndex((other) => time - other.time < KEEP);
  events.splice(0, Math.max(old, events.length - EVENTS, 0));
  countRefusal(one);
  showEvents();
  showLimits();
}

/** @param {any} one */
const keyOf = (one) => JSON.stringify([one.code, one.limit ?? null, one.user, one.address]);

/** @param {Event} event */
function countRefusal({ event, code, limit = null, user, address, count: times = 1, time }) {
  if (event !== "refusal") return;
  const key = keyOf({ code, limit, user, address });
  const one = refused.get(key) ?? { code, limit, user, address, count: 0, last: time };
  one.count += times;
  one.last = time;
  refused.set(key, one);
}

/** @param {Event} event */
function words(event) {
  const who = event.user ?? (event.event === "refusal" ? "guest" : "");
  if (event.event === "refusal") return [event.code, event.reason, [who, event.address, event.node].join(" · ")];
  const about = event.event === "banned" || event.event === "unbanned" ? `${who}${event.channels ? ` in ${event.channels}` : ""}` : "";
  return [event.event, about, [event.by ? `by ${event.by}` : "", event.node].filter(Boolean).join(" · ")];
}

/** @param {Event} event */
const kindOf = (event) => (event.event === "refusal" ? "refusals" : event.event === "repair" ? "repairs" : "bans");

export function showEvents() {
  const wanted = $("events-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = events.filter((event) => {
    if (kind && kindOf(event) !== kind) return false;
    const text = words(event).join(" ").toLowerCase();
    return wanted.every((/** @type {string} */ word) => text.includes(word));
  });
  const items = shown.toReversed().map((event) => {
    const [name, about, small] = words(event);
    const times = (event.count ?? 1) > 1 ? ` × ${count.format(event.count ?? 1)}` : "";
    const item = element("li", "", at(event.time), element("b", "", name), `${times} ${about}`, element("small", "", small));
    item.dataset.kind = kindOf(event);
    return item;
  });
  $("events").replaceChildren(...items);
  $("no-events").hidden = items.length > 0;
  $("no-events").textContent = events.length ? "None are like that." : "None within the hour.";
}

/** Those of the configuration that were met come first. */
function showLimits() {
  /** @type {Map<string, Refused[]>} */
  const met = new Map();
  for (const one of refused.values()) {
    if (one.limit) met.set(one.limit, [...(met.get(one.limit) ?? []), one]);
  }
  const names = [...new Set([...met.keys(), ...Object.keys(limits)])];
  const rows = names.map((name) => {
    const who = (met.get(name) ?? []).sort((one, other) => other.count - one.count);
    const times = who.reduce((sum, one) => sum + one.count, 0);
    return { name, who, times, last: Math.max(0, ...who.map((one) => one.last)) };
  });
  rows.sort((one, other) => other.times - one.times);
  $("limit-rows").replaceChildren(
    ...rows.map(({ name, who, times, last }) => {
      const title = element("th", "", element("code", "", name));
      title.scope = "row";
      const named = who.slice(0, NAMED).map((one) => `${one.user ?? one.address} × ${count.format(one.count)}`);
      const rest = who.length > NAMED ? `, ${who.length - NAMED} others` : "";
      const row = element(
        "tr", "", title, element("td", "number", allowed(limits[name])), element("td", "number", times ? count.format(times) : "–"),
        element("td", "who", named.join(", ") + rest), element("td", "number", last ? ago(last) : ""),
      ); // prettier-ignore
      row.classList.toggle("met", times > 0);
      return row;
    }),
  );
  $("limits-note").textContent = met.size ? "" : "Nobody has met a limit within the hour.";
  const most = [...refused.values()].sort((one, other) => other.count - one.count).slice(0, REFUSED);
  $("refused-most").replaceChildren(
    ...most.map((one) => element("li", "", element("b", "", one.code), ` ${one.user ?? one.address} × ${count.format(one.count)}`)),
  );
  $("refused-title").hidden = !most.length;
}

/** @param {any} value */
function allowed(value) {
  if (value === undefined) return "";
  if (value === null) return "as others";
  return value === 0 ? "no limit" : count.format(value);
}

/** @param {string} wanted  refusals, repairs, bans; "": all */
export function chooseKind(wanted) {
  kind = wanted;
  for (const button of $("event-kinds").children) button.setAttribute("aria-pressed", String(button.dataset.kind === wanted));
  showEvents();
}

export function forgetEvents() {
  events = [];
  refused.clear();
  known = 0;
  for (const id of ["events", "refused-most", "limit-rows"]) $(id).replaceChildren();
}
