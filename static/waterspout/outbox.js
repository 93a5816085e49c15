/** What is to be published in a channel, while it waits and while it is under way. @module */

import { CLOSED, deferred, jitter, LOST, WaterspoutError } from "./tools.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/**
 * @typedef {object} Entry
 * @property {object} fields
 * @property {boolean} sent     under way on the present link
 * @property {number} attempt
 * @property {(reply: any) => void} resolve
 * @property {(error: Error) => void} refuse
 */

/**
 * Publishes in order, through losses and refusals that ask to try again, each with one key for all its attempts. Here,
 * in memory, is what is published without a connection.
 */
export class Outbox {
  #client;
  #changed;
  /** @type {Entry[]} in order; the front ones are under way */
  #entries = [];
  /** While set, publishes wait: the server asked for it. @type {ReturnType<typeof setTimeout> | undefined} */
  #hold;
  #heldUntil = 0;

  /** @param {Waterspout} client @param {() => void} changed  called when the last is done with */
  constructor(client, changed) {
    this.#client = client;
    this.#changed = changed;
  }

  get empty() {
    return !this.#entries.length;
  }

  /** @param {object} fields  no longer changed by anybody @returns {Promise<any>} */
  put(fields) {
    const { promise, resolve, reject } = deferred();
    if (this.#client.state === "closed") reject(new WaterspoutError(CLOSED));
    else if (this.#entries.length >= this.#client.options.maxQueue) {
      reject(new WaterspoutError({ code: "limit_exceeded", reason: "too many publishes are waiting" }));
    } else {
      const refuse = (/** @type {Error} */ error) => {
        this.#remove(entry);
        reject(error);
      };
      /** @type {Entry} */
      const entry = { fields, sent: false, attempt: 0, resolve, refuse };
      this.#entries.push(entry);
      this.flush();
    }
    return promise;
  }

  /** Send what may be sent. */
  flush() {
    const link = this.#client._link;
    if (!link || this.#hold !== undefined) return;
    let room = Math.min(this.#client.options.window, link.window) - this.#entries.filter((entry) => entry.sent).length;
    for (const entry of [...this.#entries]) {
      if (entry.sent) continue;
      if (room-- <= 0) break;
      entry.sent = true;
      link.send("publish", entry.fields, (error, reply) => this.#settle(entry, error, reply));
    }
  }

  /** The link is gone: everything has to be sent again. */
  lost() {
    this.#release();
    for (const entry of this.#entries) entry.sent = false;
  }

  /** @param {WaterspoutError} error */
  close(error) {
    this.#release();
    for (const entry of [...this.#entries]) entry.refuse(error);
  }

  /** @param {Entry} entry */
  #remove(entry) {
    this.#entries = this.#entries.filter((one) => one !== entry);
    if (this.empty) this.#changed();
  }

  /** @param {Entry} entry @param {WaterspoutError | null} error @param {any} reply */
  #settle(entry, error, reply) {
    if (error?.code === LOST.code) return; // `lost` has put it back
    if (!error) {
      this.#remove(entry);
      entry.resolve(reply);
    } else if (error.retry && error.code !== "internal") {
      // Everything behind waits as well, so that the order holds.
      entry.sent = false;
      this.#holdFor(error.retryAfter ?? jitter(entry.attempt++, 0.2, 5));
      return;
    } else {
      entry.refuse(error);
    }
    this.flush();
  }

  /** @param {number} seconds */
  #holdFor(seconds) {
    const until = performance.now() + seconds * 1000;
    if (this.#hold !== undefined && until <= this.#heldUntil) return;
    this.#release();
    this.#heldUntil = until;
    this.#hold = setTimeout(() => {
      this.#release();
      this.flush();
    }, seconds * 1000);
  }

  #release() {
    clearTimeout(this.#hold);
    this.#hold = undefined;
  }
}
