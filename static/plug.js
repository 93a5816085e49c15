/**
 * The start page's demonstration: two windows with a connection each. One writes; the other's link can really be cut,
 * and what it then lacks and has afterwards is counted.
 *
 * @module
 */

import { $, element } from "./page.js";
import { randomKey, Waterspout } from "./waterspout.js";

const EVERY = 500;
/** So much is written by itself, and again whenever the plug is pulled or somebody asks for it. */
const TURN = 12;
const LINES = 6;
const CHANNEL = `chat:plug-${randomKey().slice(0, 8)}`;

/** A WebSocket whose cable can be pulled: what is open ends without a farewell, and nothing new comes up. */
function cable() {
  /** @type {Set<WebSocket>} */
  const sockets = new Set();
  let pulled = false;
  class Cable extends WebSocket {
    /** @param {string} url @param {string[]} protocols */
    constructor(url, protocols) {
      super(url, protocols);
      sockets.add(this);
      this.addEventListener("close", () => sockets.delete(this));
      if (pulled) this.close();
    }
  }
  return {
    Cable,
    get pulled() {
      return pulled;
    },
    /** @param {boolean} out */
    pull(out) {
      pulled = out;
      if (out) for (const socket of sockets) socket.close();
    },
  };
}

export function demonstrate() {
  const link = cable();
  const ann = new Waterspout(undefined, { transports: ["websocket"] });
  const bob = new Waterspout(undefined, { transports: ["websocket"], WebSocket: link.Cable, minDelay: 0.5, maxDelay: 2 });
  const [written, read] = [ann.channel(CHANNEL), bob.channel(CHANNEL)];
  /** How often each number was read. @type {Map<number, number>} */
  const seen = new Map();
  let stored = 0;
  let next = 1;
  let left = TURN;

  const lost = () => {
    let missing = 0;
    for (let number = 1; number <= stored; number++) if (!seen.has(number)) missing++;
    return missing;
  };
  const twice = () => [...seen.values()].reduce((sum, times) => sum + times - 1, 0);

  function count() {
    const behind = lost();
    const away = bob.state !== "open" || read.state !== "live";
    $("plug-written").textContent = String(stored);
    $("plug-read").textContent = String(seen.size);
    // While he is away they are not lost but to come.
    $("plug-lost").textContent = String(away ? 0 : behind);
    $("plug-twice").textContent = String(twice());
    $("plug-behind").textContent = away && behind ? `${behind} behind` : "";
    $("write").hidden = left > 0;
  }

  /** @param {string} list @param {string} text */
  function say(list, text) {
    $(list).append(element("li", "", text));
    while ($(list).children.length > LINES) $(list).firstElementChild.remove();
  }

  async function write() {
    if (left <= 0 || document.hidden || ann.state !== "open") return;
    left--;
    const number = next++;
    try {
      await written.publish({ name: "Ann", text: `Message ${number}`, number });
    } catch {
      return hide(); // nobody may write here
    }
    stored = Math.max(stored, number);
    say("ann", `Message ${number}`);
    count();
  }

  function hide() {
    clearInterval(writing);
    $("plug").hidden = true;
    ann.close();
    bob.close();
  }

  /** @param {boolean} out */
  function pull(out) {
    link.pull(out);
    if (out) left = TURN;
    else bob.connect();
    $("pull").textContent = out ? "Plug it in again" : "Pull the plug";
    $("pull").setAttribute("aria-pressed", String(out));
    $("bob-pane").classList.toggle("cut", out);
  }

  read.on("message", ({ data }) => {
    seen.set(data.number, (seen.get(data.number) ?? 0) + 1);
    say("bob", data.text);
    count();
  });
  read.on("live", count);
  for (const channel of [read, written]) channel.on("ended", hide);
  bob.on("state", ({ state }) => {
    $("bob-state").textContent = state === "open" ? "Connected" : link.pulled ? "Cut off" : "Connecting";
    count();
  });
  for (const client of [ann, bob]) client.on("closed", hide);
  read.subscribe({ after: "0" });
  $("pull").addEventListener("click", () => pull(!link.pulled));
  $("write").addEventListener("click", () => {
    left = TURN;
    count();
  });
  const writing = setInterval(() => void write(), EVERY);
  $("plug").hidden = false;
  count();
}
