/** Changing messages that are there: editing, appending, erasing, pinning, reacting. @module */

import { Reacting } from "./reacting.js";
import { Membered } from "./rooms.js";
import { randomKey } from "./tools.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{offset: number, cursor: string, duplicate: boolean}} Amended */

/** Characters that may wait to be appended before a writer is held up. */
const ENOUGH = 16384;

/** What a channel has where its messages can be amended. Each is sent again through losses with its key, so it is done once. */
export class Amendable extends Membered {
  #client;
  #reacting;

  /** @param {Waterspout} client @param {string} name */
  constructor(client, name) {
    super(client, name);
    this.#client = client;
    this.#reacting = new Reacting(client, name);
  }

  /**
   * Change what a message says, where the namespace lets you; resolves when that is stored.
   *
   * @param {number} of  the message's offset
   * @param {any} data @param {{key?: string}} [options] @returns {Promise<Amended>}
   */
  edit(of, data, options) {
    return this.#amend({ of, op: "edit", data, ...options });
  }

  /**
   * Append a text to a message that is a string, or an object with a `text`; as `edit`. Who numbers the parts, from 1 on,
   * may send them again from anywhere: each is appended once, and in order. `done`: it is the last one.
   *
   * @param {number} of @param {string} text @param {{part?: number, done?: boolean, key?: string}} [options]
   * @returns {Promise<Amended>}
   */
  append(of, text, options) {
    return this.#amend({ of, op: "append", data: text, ...options });
  }

  /** Erase a message for everybody, for good; as `edit`. @param {number} of @param {{key?: string}} [options] */
  remove(of, options) {
    return this.#amend({ of, op: "delete", ...options });
  }

  /** @param {number} of @param {boolean} [pinned] @param {{key?: string}} [options] */
  pin(of, pinned = true, options) {
    return this.#amend({ of, op: "pin", data: pinned, ...options });
  }

  /**
   * React to a message, with an emoji or any word, where the namespace has reactions; resolves when that is stored. Once
   * is enough: the same again changes nothing. What is lost on the way is sent again, unless it was taken back meanwhile.
   *
   * @param {number} of  the message's offset @param {string} kind
   */
  react(of, kind) {
    return this.#reacting.set(of, kind, true);
  }

  /** Take a reaction back; as `react`. @param {number} of @param {string} kind */
  unreact(of, kind) {
    return this.#reacting.set(of, kind, false);
  }

  /** Who reacts here. @internal @returns {string | null} */
  get _user() {
    return this.#client.session?.user ?? null;
  }

  /**
   * The thread about a message, where the namespace has threads: a channel like others. `publish(data, {broadcast: true})`
   * there publishes in this one as well.
   *
   * @param {number} of  the message's offset @returns {import("./channel.js").Channel}
   */
  thread(of) {
    return this.#client.channel(`$thread:${of}:${this.name}`);
  }

  /** @param {{of: number, op: string, data?: any, key?: string}} fields @returns {Promise<Amended>} */
  #amend(fields) {
    return this.#client.request("amend", { channel: this.name, key: randomKey(), ...fields });
  }
}

/**
 * A stream of text into a message: what comes while something is on its way goes with the next. Closing it says that the
 * message is done; what the server refuses is the stream's error.
 *
 * @param {Amendable} channel @param {number} of @returns {WritableStream<string>}
 */
export function writing(channel, of) {
  let text = "";
  let closing = false;
  /** @type {Promise<void> | null} */
  let sending = null;
  /** @type {WritableStreamDefaultController} */
  let controller;

  async function send() {
    let last = false;
    while (text || (closing && !last)) {
      const now = text;
      last = closing;
      text = "";
      await channel.append(of, now, last ? { done: true } : {});
    }
    sending = null;
  }

  const begin = () => {
    sending ??= send();
    sending.catch((error) => controller.error(error));
    return sending;
  };

  return new WritableStream({
    start(own) {
      controller = own;
    },
    write(chunk) {
      text += chunk;
      const sent = begin();
      return text.length > ENOUGH ? sent : undefined;
    },
    close() {
      closing = true;
      return begin();
    },
    abort() {
      text = "";
    },
  });
}

/** The data of a message with a text behind it. @param {any} data @param {string} text */
export function appended(data, text) {
  if (typeof data === "string") return data + text;
  return typeof data?.text === "string" ? { ...data, text: data.text + text } : data;
}
