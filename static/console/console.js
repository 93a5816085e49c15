/**
 * The console: what the nodes tell of themselves in `$sys:nodes` and `$sys:events`, the channels, and a look into one.
 * A client of the public protocol like any other; its API key, which has to be `admin`, is kept for this tab only.
 *
 * @module
 */

import { $, element } from "../page.js";
import { Waterspout } from "../waterspout.js";

const KEY = "waterspout.console.key";
/** Seconds in the plots. */
const SPAN = 90;
/** Seconds after which a node that says nothing is said to be silent, and after which it is taken off the table. */
const SILENT = 4;
const GONE = 30;
const EVENTS = 100;
const PAGE = 50;
const HISTORY = 20;
const LOOK_EVERY = 5000;

const WORDS = new Map([
  ["connecting", "Connecting"],
  ["open", "Live"],
  ["waiting", "Reconnecting"],
  ["closed", "Signed out"],
]);

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const count = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

/** @param {number} value */
const rate = (value) => (value < 10 ? fine : count).format(value);
/** @param {number | null | undefined} seconds */
const millis = (seconds) => (seconds == null ? "–" : `≤ ${fine.format(seconds * 1000)} ms`);
/** @param {number} bytes */
const size = (bytes) => (bytes < 1e4 ? `${count.format(bytes)} B` : `${fine.format(bytes / 1e6)} MB`);
/** @param {number} seconds */
function duration(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}
/** @param {number} time */
const at = (time) => element("time", "", clock.format(time));

// --- the figures ----------------------------------------------------------------------------------------------------

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

/** @param {string} name @param {Record<string, string>} attributes */
function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
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

function showNodes() {
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
function showEvent(event, time) {
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

// --- requests -------------------------------------------------------------------------------------------------------

/** @type {Waterspout | null} */
let client = null;
let key = "";

/** @param {string} path @param {object} [body] */
async function call(path, body) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Bearer ${key}`, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const value = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw Object.assign(new Error(value?.reason ?? answer.statusText), { status: answer.status });
  return value;
}

// --- the channels ---------------------------------------------------------------------------------------------------

let shown = PAGE;

async function showChannels() {
  const query = new URLSearchParams({ prefix: $("prefix").value.trim(), limit: String(Math.min(shown, 1000)) });
  try {
    const { channels, next, missing } = await call(`/v1/channels?${query}`);
    $("channels").replaceChildren(
      ...channels.map((/** @type {any} */ row) => {
        const link = element("a", "", row.channel);
        link.href = `#${encodeURIComponent(row.channel)}`;
        const name = element("th", "", link);
        name.scope = "row";
        const users = row.users === undefined ? "–" : count.format(row.users);
        const numbers = [count.format(row.subscribers), users, rate(row.rate)];
        return element("tr", "", name, ...numbers.map((text) => element("td", "number", text)));
      }),
    );
    const silent = missing.length ? ` Without ${missing.join(", ")}, which did not answer.` : "";
    $("channels-note").textContent = (channels.length ? "" : "No channel has subscribers.") + silent;
    $("more").hidden = next === null || shown >= 1000;
  } catch (error) {
    $("channels-note").textContent = String(error.message);
  }
}

// --- one channel ----------------------------------------------------------------------------------------------------

let channel = "";

/** @param {string} text @param {boolean} [bad] */
function say(text, bad = false) {
  $("outcome").textContent = text;
  $("outcome").dataset.kind = bad ? "bad" : "";
}

function openChannel() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    // not one of ours
  }
  if (name === "main" || !client) return;
  channel = name;
  $("channel").hidden = !name;
  if (!name) return;
  $("channel-title").textContent = name;
  $("present").replaceChildren();
  $("history").replaceChildren();
  say("");
  lookInto();
  $("channel-title").focus();
  $("channel").scrollIntoView({ block: "nearest" });
}

async function lookInto() {
  const name = channel;
  const of = client?.channel(name);
  if (!name || !of) return;
  const [present, history] = await Promise.allSettled([of.presence(), of.history({ limit: HISTORY })]);
  if (name !== channel) return;
  showPresent(present);
  if (history.status === "fulfilled") {
    $("history-note").textContent = history.value.messages.length ? "" : "There are none.";
    const items = history.value.messages.reverse().map((message) =>
      element(
        "li", "", at(message.time), `${message.user ?? "guest"} · ${message.offset}`,
        element("pre", "", JSON.stringify(message.data)),
      ),
    ); // prettier-ignore
    // Nothing new, nothing moves: whoever reads or selects is left in peace.
    if (items.map((item) => item.textContent).join() !== [...$("history").children].map((item) => item.textContent).join())
      $("history").replaceChildren(...items);
  } else {
    $("history-note").textContent = history.reason.reason;
  }
}

/** @param {PromiseSettledResult<any>} present */
function showPresent(present) {
  if (present.status === "rejected") {
    $("present-note").textContent = present.reason.reason;
    return;
  }
  const { users, guests, count: number } = present.value;
  const names = `${count.format(number)} ${number === 1 ? "user" : "users"}`;
  const hidden = number > users.length ? " (too many for their names)" : "";
  $("present-note").textContent = `${names}${hidden}, ${count.format(guests)} ${guests === 1 ? "guest" : "guests"}`;
  const wanted = new Map(users.map((/** @type {any} */ user) => [user.user, user]));
  for (const item of [...$("present").children]) if (!wanted.has(item.dataset.user)) item.remove();
  const here = new Map([...$("present").children].map((item) => [item.dataset.user, item]));
  for (const { user, sessions } of users) {
    const item = here.get(user) ?? person(user);
    item.querySelector("small").textContent =
      sessions === 0 ? " has just lost the connection" : sessions === 1 ? "" : ` ${sessions} sessions`;
    if (!item.isConnected) $("present").append(item);
  }
}

/** @param {string} user */
function person(user) {
  const word = element("span", "", "Disconnect");
  const button = element("button", "quiet-button", word, element("span", "hidden-label", ` ${user}`));
  button.type = "button";
  let sure = false;
  const ask = (/** @type {boolean} */ asked) => {
    sure = asked;
    word.textContent = asked ? "Really disconnect?" : "Disconnect";
  };
  button.addEventListener("click", () => {
    if (sure) void disconnect(user);
    ask(!sure);
  });
  button.addEventListener("blur", () => ask(false));
  const item = element("li", "", element("span", "", user, element("small")), button);
  item.dataset.user = user;
  return item;
}

/** @param {string} user */
async function disconnect(user) {
  try {
    await call(`/v1/users/${encodeURIComponent(user)}/disconnect`, {});
    say(`${user} was disconnected.`);
  } catch (error) {
    say(error.status === 404 ? "This server cannot disconnect users." : `${user}: ${error.message}`, true);
  }
}

/** @param {Event} event */
async function publish(event) {
  event.preventDefault();
  let data;
  try {
    data = JSON.parse($("data").value);
  } catch (error) {
    return say(`This is not JSON: ${error.message}`, true);
  }
  try {
    const options = $("ephemeral").checked ? { ephemeral: true } : {};
    const reply = await client?.channel(channel).publish(data, options);
    say(reply?.offset ? `Stored as number ${reply.offset}.` : "Passed on; it is not stored.");
    await lookInto();
  } catch (error) {
    say(error.reason ?? String(error), true);
  }
}

// --- coming and going -----------------------------------------------------------------------------------------------

/** @type {ReturnType<typeof setInterval>[]} */
let timers = [];

/** @param {string} typed */
async function enter(typed) {
  key = typed;
  $("refused").hidden = true;
  try {
    await call("/v1/nodes");
  } catch (error) {
    const known = error.status === 403 ? "This key is not admin." : "This is not a key of this server.";
    return refuse(error.status === 401 || error.status === 403 ? known : `The server did not answer: ${error.message}`);
  }
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // it is asked for again after a reload
  }
  client = new Waterspout(undefined, { token: key });
  client.on("state", ({ state, reason }) => {
    document.body.dataset.state = state;
    $("state").querySelector(".word").textContent = WORDS.get(state) ?? state;
    if (state === "closed" && client) leave(reason);
  });
  client.channel("$sys:nodes").on("message", ({ data }) => nodes.set(data.node, { row: data, heard: performance.now() }));
  client.channel("$sys:events").on("message", ({ data, time }) => showEvent(data, time));
  for (const name of ["$sys:nodes", "$sys:events"]) {
    const system = client.channel(name);
    system.on("ended", (error) => leave(error.reason));
    system.subscribe();
  }
  $("enter").hidden = true;
  $("inside").hidden = $("leave").hidden = false;
  timers = [
    setInterval(showNodes, 1000),
    setInterval(() => document.hidden || void showChannels(), LOOK_EVERY),
    setInterval(() => document.hidden || void lookInto(), LOOK_EVERY),
  ];
  void showChannels();
  $("main").focus();
  openChannel();
}

/** @param {string} why */
function refuse(why) {
  $("refused").textContent = why;
  $("refused").hidden = false;
  $("key").focus();
}

/** @param {string} [why] */
function leave(why) {
  const left = client;
  client = null;
  key = channel = "";
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // nothing was kept
  }
  for (const timer of timers) clearInterval(timer);
  left?.close();
  nodes.clear();
  for (const figure of figures) figure.clear();
  for (const id of ["nodes", "channels", "events"]) $(id).replaceChildren();
  $("no-events").hidden = false;
  $("inside").hidden = $("leave").hidden = true;
  $("channel").hidden = true;
  $("enter").hidden = false;
  $("key").value = "";
  if (why) refuse(why);
  else $("key").focus();
}

$("enter").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  void enter($("key").value.trim());
});
$("leave").addEventListener("click", () => leave());
$("search").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  shown = PAGE;
  void showChannels();
});
$("more").addEventListener("click", () => {
  shown += 4 * PAGE;
  void showChannels();
});
$("close").addEventListener("click", () => {
  const name = channel;
  history.pushState(null, "", location.pathname);
  openChannel();
  const link = [...$("channels").querySelectorAll("a")].find((one) => one.textContent === name);
  (link ?? $("main")).focus();
});
$("publish").addEventListener("submit", publish);
addEventListener("hashchange", openChannel);

let kept = null;
try {
  kept = sessionStorage.getItem(KEY);
} catch {
  // a browser may refuse it
}
if (kept) void enter(kept);
else $("key").focus();
