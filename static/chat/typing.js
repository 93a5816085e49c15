/** Who is writing in a room just now: said by ephemeral messages, which nobody keeps. @module */

import { cleanName } from "./words.js";

/** Who types says so this often, and is believed that long. Milliseconds. */
const SAY = 2500;
const BELIEVE = 4500;

export class Typing {
  #channel;
  #onchange;
  /** By name, until when. @type {Map<string, number>} */
  #believed = new Map();
  #said = 0;

  /** @param {import("../waterspout.js").Channel} channel @param {() => void} onchange */
  constructor(channel, onchange) {
    this.#channel = channel;
    this.#onchange = onchange;
  }

  /** Somebody types, or does no longer. @param {any} push */
  take({ data }) {
    const name = cleanName(data?.typing);
    if (!name) return;
    if (data.done) this.#believed.delete(name);
    else this.#believed.set(name, Date.now() + BELIEVE);
    this.#onchange();
  }

  /** What was being written has come. @param {string} name */
  ended(name) {
    if (this.#believed.delete(name)) this.#onchange();
  }

  /** Who is believed to type. */
  names() {
    const now = Date.now();
    for (const [name, until] of this.#believed) if (until < now) this.#believed.delete(name);
    return [...this.#believed.keys()];
  }

  /** Say that somebody types here, or no longer does; not too often. @param {string} name @param {boolean} [done] */
  async say(name, done = false) {
    if (done ? !this.#said : Date.now() - this.#said < SAY) return;
    this.#said = done ? 0 : Date.now();
    try {
      await this.#channel.publish({ typing: name, ...(done ? { done } : {}) }, { ephemeral: true, echo: false });
    } catch {
      // away, or not allowed here: it is of no importance
    }
  }
}
