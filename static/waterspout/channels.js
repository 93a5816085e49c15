/** The channels that a client knows. @module */

/** @typedef {import("./channel.js").Channel} Channel */

/** Of so many channels that were left is remembered where. */
const REMEMBERED = 1000;

/**
 * Channels by name. While one is subscribed to, published in or listened to, it is held here. Otherwise it is only known
 * as long as somebody else holds it: whoever walks through a million channels does not keep a million.
 */
export class Channels {
  /** @type {Map<string, Channel>} */
  #used = new Map();
  /** @type {Map<string, WeakRef<Channel>>} */
  #idle = new Map();
  /** The cursors of those that were left, the latest last. @type {Map<string, string>} */
  #left = new Map();
  #collected = new FinalizationRegistry((/** @type {string} */ name) => {
    if (!this.#idle.get(name)?.deref()) this.#idle.delete(name);
  });

  /** Those that are used. */
  [Symbol.iterator]() {
    return [...this.#used.values()][Symbol.iterator]();
  }

  /** @param {string} name @returns {Channel | undefined} */
  get(name) {
    return this.#used.get(name) ?? this.#idle.get(name)?.deref();
  }

  /** One that is new. @param {Channel} channel */
  add(channel) {
    channel.cursor = this.#left.get(channel.name) ?? null;
    this.#idle.set(channel.name, new WeakRef(channel));
    this.#collected.register(channel, channel.name);
  }

  /** @param {Channel} channel @param {boolean} used */
  note(channel, used) {
    const { name, cursor } = channel;
    if (used === this.#used.has(name)) return;
    this.#left.delete(name);
    if (used) {
      this.#used.set(name, channel);
      this.#idle.delete(name);
      return;
    }
    this.#used.delete(name);
    this.#idle.set(name, new WeakRef(channel));
    if (cursor === null) return;
    this.#left.set(name, cursor);
    if (this.#left.size > REMEMBERED) this.#left.delete(/** @type {string} */ (this.#left.keys().next().value));
  }
}
