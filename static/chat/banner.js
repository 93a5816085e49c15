/** What is said above the conversation: the connection, and what came of it. @module */

import { $ } from "../page.js";
import { some } from "./words.js";

const STATES = new Map([
  ["connecting", "Connecting"],
  ["open", "Connected"],
  ["waiting", "Reconnecting"],
  ["closed", "Disconnected"],
]);

export class Banner {
  /** @type {any} */
  #ticking;

  /** @param {() => void} connect  now, or again */
  constructor(connect) {
    $("banner").querySelector("button").addEventListener("click", connect);
  }

  get shown() {
    return !$("banner").hidden;
  }

  /** @param {any} event  of the client */
  showState({ state, at, reason }) {
    document.body.dataset.state = state;
    $("state").querySelector(".word").textContent = STATES.get(state);
    clearInterval(this.#ticking);
    if (state === "waiting") {
      this.say("warn", `${navigator.onLine ? "No connection" : "You are offline"}, your messages wait.`, "Try now");
      const countdown = $("banner").querySelector(".countdown");
      const tick = () => {
        const seconds = Math.max(0, Math.ceil((at - Date.now()) / 1000));
        countdown.textContent = `Next attempt in ${seconds} s`;
      };
      tick();
      this.#ticking = setInterval(tick, 250);
    } else if (state === "closed") {
      this.say("bad", `Disconnected: ${reason || "the server ended the connection"}.`, "Connect");
    } else if (state === "connecting" && this.shown) {
      $("banner").querySelector(".countdown").textContent = "Connecting…";
      $("banner").querySelector("button").hidden = true;
    } else if (state === "open" && $("banner").dataset.kind !== "good") {
      $("banner").hidden = true;
    }
  }

  /** @param {number} count  of others' messages */
  welcomeBack(count) {
    this.tell(count ? `Connected again, ${some(count, "message")} caught up.` : "Connected again, nothing missed.");
  }

  /** Something good, for a moment. @param {string} words */
  tell(words) {
    this.say("good", words);
    this.#ticking = setTimeout(() => ($("banner").hidden = true), 5000);
  }

  /** @param {"good" | "warn" | "bad"} kind @param {string} words @param {string} [action] */
  say(kind, words, action) {
    clearTimeout(this.#ticking);
    const banner = $("banner");
    banner.hidden = false;
    banner.dataset.kind = kind;
    const said = banner.querySelector(".words");
    if (said.textContent !== words) said.textContent = words; // not read out again at every attempt
    banner.querySelector(".countdown").textContent = "";
    const button = banner.querySelector("button");
    button.hidden = !action;
    button.textContent = action ?? "";
  }

  /** What was said of a room that is no longer shown. */
  clear() {
    if ($("banner").dataset.kind === "bad" && document.body.dataset.state === "open") $("banner").hidden = true;
  }
}
