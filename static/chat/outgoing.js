/** What one says in a room, until it stands there. @module */

import { randomKey } from "../waterspout.js";
import { addOwn, own } from "./own.js";

/** How many keys of one's own messages a tab remembers over a reload. */
const REMEMBERED = 100;

/**
 * @typedef {object} Outgoing  an own message on its way
 * @property {string} key
 * @property {string} name
 * @property {string} text
 * @property {number} time
 * @property {true} mine
 * @property {"waiting" | "sent" | "failed"} state
 * @property {{mentions?: string[], broadcast?: boolean}} [options]
 * @property {number} [offset]  once it is stored
 * @property {string} [error]
 */

export class Sender {
  #channel;
  #ways;
  /** By key, as they were said. @type {Map<string, Outgoing>} */
  messages = new Map();
  /** @type {Set<string>} */
  #keys = new Set();

  /** @param {import("../waterspout.js").Channel} channel
   * @param {{changed: (message: Outgoing) => void, save: () => void}} ways  `save`: at once, it cannot be read again */
  constructor(channel, ways) {
    this.#channel = channel;
    this.#ways = ways;
  }

  /** What a reloaded tab had still to send is sent. @param {any} kept */
  restore({ keys, outgoing }) {
    this.#keys = new Set(keys);
    for (const message of outgoing) this.messages.set(message.key, message);
  }

  /** For `restore`. */
  get kept() {
    return { keys: [...this.#keys].slice(-REMEMBERED), outgoing: [...this.messages.values()] };
  }

  resume() {
    for (const message of this.messages.values()) if (message.state === "waiting") void this.#publish(message);
  }

  /** Said in this tab, or in another one of this browser. @param {string} key */
  isMine(key) {
    return this.#keys.has(key) || own().has(key);
  }

  /** @param {string} name @param {string} text @param {Outgoing["options"]} [options] */
  say(name, text, options = {}) {
    /** @type {Outgoing} */
    const message = { key: randomKey(), name, text, options, time: Date.now(), mine: true, state: "waiting" };
    this.#keys.add(message.key);
    addOwn(message.key);
    void this.#publish(message);
  }

  /** @param {string} key */
  again(key) {
    const message = this.messages.get(key);
    if (message) void this.#publish({ ...message, state: "waiting", error: undefined });
  }

  /** The same key each time, over reloads too: however often it is sent, it is stored once. @param {Outgoing} message */
  async #publish(message) {
    const { key, name, text, options = {} } = message;
    this.#update(message);
    this.#ways.save();
    try {
      const { offset } = await this.#channel.publish({ name, text }, { key, ...options });
      if (this.messages.has(key)) this.#update({ ...message, state: "sent", offset }); // else the message itself was faster
    } catch (/** @type {any} */ error) {
      if (this.messages.has(key)) this.#update({ ...message, state: "failed", error: error.reason ?? String(error) });
    }
  }

  /** @param {Outgoing} message */
  #update(message) {
    this.messages.set(message.key, message);
    this.#ways.changed(message);
  }
}
