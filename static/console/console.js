/**
 * The console: what the nodes tell of themselves in `$sys:nodes` and `$sys:events`, the channels, and a look into one.
 * A client of the public protocol like any other; its API key, which has to be `admin`, is kept for this tab only.
 *
 * @module
 */

import { enter as knock } from "../account/account.js";
import { request } from "../account/session.js";
import { $, element } from "../page.js";
import { Waterspout } from "../waterspout.js";
import { Consumers } from "./consumers.js";
import { Look } from "./look.js";
import { Documents } from "./documents.js";
import { chooseKind, forgetEvents, hearEvent, recallEvents, showEvents } from "./events.js";
import { fillFigures, showFigures } from "./figures.js";
import { forgetNodes, hearNode, showNodes } from "./nodes.js";
import { People } from "./people.js";
import { Stored } from "./stored.js";
import { Users } from "./users.js";
import { count, rate } from "./words.js";

const KEY = "waterspout.console.key";
const PAGE = 50;
const LOOK_EVERY = 5000;

const WORDS = new Map([
  ["connecting", "Connecting"],
  ["open", "Live"],
  ["waiting", "Reconnecting"],
  ["closed", "Signed out"],
]);

// --- requests -------------------------------------------------------------------------------------------------------

/** @type {Waterspout | null} */
let client = null;
let key = "";
/** Who signs in with an account has no key. @type {Users | null} */
let users = null;
/** @type {People | null} */
let people = null;
/** @type {Documents | null} */
let documents = null;
/** @type {Consumers | null} */
let consumers = null;
/** @type {Stored | null} */
let stored = null;
const account = await knock({ ask: false });

/** @param {string} path @param {object} [body] @param {string} [method] */
async function call(path, body, method) {
  const token = key || String(await account.token()); // who has signed out is refused, and not a guest
  return request(path, body, { token, method });
}

// --- the channels ---------------------------------------------------------------------------------------------------

let shown = PAGE;

async function showChannels() {
  if (stored?.shown) return;
  const query = new URLSearchParams({ prefix: $("prefix").value.trim(), limit: String(Math.min(shown, 1000)) });
  try {
    const { channels, next, missing } = await call(`/v1/channels?${query}`);
    if (stored?.shown) return;
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
    documents?.suggest(channels.map((/** @type {any} */ row) => row.channel));
    const named = $("prefix").value.trim();
    $("open").hidden = !/^[^:\s]+:\S+$/.test(named);
    $("open").href = `#${encodeURIComponent(named)}`;
    const silent = missing.length ? ` Without ${missing.join(", ")}, which did not answer.` : "";
    $("channels-note").textContent = (channels.length ? "" : "No channel has subscribers.") + silent;
    $("more").hidden = next === null || shown >= 1000;
  } catch (/** @type {any} */ error) {
    $("channels-note").textContent = String(error.message);
  }
}

// --- one channel ----------------------------------------------------------------------------------------------------

/** @type {Look | null} */
let look = null;

function openChannel() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    // not one of ours
  }
  if (name === "main" || !client) return;
  $("channel").hidden = !name;
  look?.close();
  look = name ? new Look(client, call, name, openPerson) : null;
  if (!look) return;
  void lookInto();
  $("channel-title").focus();
  $("channel").scrollIntoView({ block: "nearest" });
}

/** @param {string} user */
function openPerson(user) {
  void people?.open(user);
}

async function lookInto() {
  const one = look;
  await one?.refresh(() => look === one);
}

/** @param {Event} event */
async function publish(event) {
  event.preventDefault();
  await look?.publish();
  await lookInto();
}

// --- coming and going -----------------------------------------------------------------------------------------------

/** @type {ReturnType<typeof setInterval>[]} */
let timers = [];

/** @param {string} typed  an API key; empty: with the account that is signed in */
async function enter(typed) {
  key = typed;
  $("refused").hidden = true;
  try {
    await call("/v1/nodes");
  } catch (/** @type {any} */ error) {
    if (!typed) return refuse(error.status === 403 ? `${account.user} is no operator.` : String(error.message));
    const known = error.status === 403 ? "This key is not admin." : "This is not a key of this server.";
    return refuse(error.status === 401 || error.status === 403 ? known : `The server did not answer: ${error.message}`);
  }
  try {
    if (key) sessionStorage.setItem(KEY, key);
  } catch {
    // it is asked for again after a reload
  }
  client = new Waterspout(undefined, { token: key || (async () => (await account.token()) ?? "") });
  client.on("state", ({ state, reason }) => {
    document.body.dataset.state = state;
    $("state").querySelector(".word").textContent = WORDS.get(state) ?? state;
    if (state === "closed" && client) leave(reason);
  });
  client.channel("$sys:nodes").on("message", ({ data }) => hearNode(data));
  client.channel("$sys:events").on("message", ({ data, time }) => hearEvent(data, time));
  client.on("open", () => void recall());
  for (const name of ["$sys:nodes", "$sys:events"]) {
    const system = client.channel(name);
    system.on("ended", (error) => leave(error.reason));
    system.subscribe();
  }
  $("enter").hidden = true;
  $("inside").hidden = false;
  $("leave").hidden = !key; // who is signed in with an account signs out by the account's menu
  timers = [
    setInterval(showNodes, 1000),
    setInterval(() => document.hidden || void showChannels(), LOOK_EVERY),
    setInterval(() => document.hidden || void consumers?.show(), LOOK_EVERY),
    setInterval(() => document.hidden || void lookInto(), LOOK_EVERY),
  ];
  people = new People(call);
  if (account.on) users = new Users(call, openPerson);
  documents = new Documents(call);
  consumers = new Consumers(call);
  stored = new Stored(call, () => void showChannels());
  showFigures();
  void showChannels();
  $("main").focus();
  openChannel();
}

/** The hour before, which the server remembers; again after every loss, as more has happened meanwhile. */
async function recall() {
  try {
    const recent = await call("/v1/nodes/recent");
    recallEvents(recent);
    fillFigures(recent.figures);
  } catch {
    // what comes from now on is shown all the same
  }
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
  key = "";
  look?.close();
  look = null;
  people?.close();
  people = null;
  users?.close();
  users = null;
  documents?.close();
  documents = null;
  consumers?.close();
  consumers = null;
  stored?.close();
  stored = null;
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // nothing was kept
  }
  for (const timer of timers) clearInterval(timer);
  left?.close();
  forgetNodes();
  forgetEvents();
  $("channels").replaceChildren();
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
  void (stored?.shown ? stored.show() : showChannels());
});
$("more").addEventListener("click", () => {
  if (stored?.shown) return void stored.show(true);
  shown += 4 * PAGE;
  void showChannels();
});
$("close").addEventListener("click", () => {
  const name = look?.name;
  history.pushState(null, "", location.pathname);
  openChannel();
  const link = [...$("channels").querySelectorAll("a")].find((one) => one.textContent === name);
  (link ?? $("main")).focus();
});
$("publish").addEventListener("submit", publish);
addEventListener("hashchange", openChannel);
$("events-filter").addEventListener("input", showEvents);
for (const button of $("event-kinds").children) button.addEventListener("click", () => chooseKind(button.dataset.kind));
for (const button of $("jump").children) {
  button.addEventListener("click", () => {
    const title = $(button.dataset.to);
    title.tabIndex = -1;
    title.focus({ preventScroll: true });
    title.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
  if (event.key === "Escape") document.querySelector(".panel.alone .panel-full")?.dispatchEvent(new MouseEvent("click"));
  if (typing || event.altKey || event.ctrlKey || event.metaKey || $("inside").hidden) return;
  if (event.key === "/") {
    event.preventDefault();
    $("prefix").focus();
  }
});

$("as-user").hidden = !account.on || account.user !== null;
$("account").addEventListener("click", () => void account.signIn());

let kept = null;
try {
  kept = sessionStorage.getItem(KEY);
} catch {
  // a browser may refuse it
}
if (kept) void enter(kept);
else if (account.user !== null) void enter("");
else $("key").focus();
