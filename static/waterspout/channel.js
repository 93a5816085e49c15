/** A channel, as a client of it sees it. @module */

import { Members } from "./presence.js";
import { CLOSED, deferred, Emitter, handled, jitter, LOST, plain, randomKey, WaterspoutError } from "./tools.js";

const UNSUBSCRIBED = { code: "closed", reason: "unsubscribed" };

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {import("../waterspout.js").Message} Message */
/** @typedef {ReturnType<typeof deferred>} Deferred */

/**
 * A channel: what comes from it and what goes to it.
 *
 * Events: the server's pushes by their type, `message`, `gap {from, to, reason}` (these messages are gone for good),
 * `dropped {count}`, `join {user}`, `leave {user}`, `snapshot`, `progress`…; and `subscribed {cursor, head, recovered, resumed}`, `live {count, resumed}`
 * (caught up, after so many messages), `ended` (a WaterspoutError: the server ended the subscription or refuses it).
 */
export class Subscription extends Emitter {
  #client;
  /** @type {any} What to subscribe with, while the subscription is wanted. */
  #wanted = null;
  /** @type {"idle" | "joining" | "replaying" | "live"} */
  #state = "idle";
  /** @type {Deferred | null} */
  #first = null;
  /** @type {string | null} */
  #head = null;
  #count = 0;
  /** A snapshot is on its way. */
  #copying = false;
  #resumed = false;
  /** Where delivery starts behind a gap that is announced but not handed on yet. @type {string | null} */
  #behindGap = null;
  /** `subscribe` is under way. */
  #asking = false;
  /** `unsubscribe` is under way. @type {Promise<void> | null} */
  #leaving = null;
  /** Wanted again before that was done. @type {(Deferred & {options: object}) | null} */
  #again = null;
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Publish[]} in order; the front ones are under way */
  #outbox = [];
  /** While set, publishes wait: the server asked for it. @type {ReturnType<typeof setTimeout> | undefined} */
  #hold;
  #heldUntil = 0;
  /** @type {Members | null} */
  #members = null;

  /** @param {Waterspout} client @param {string} name */
  constructor(client, name) {
    super();
    this.#client = client;
    this.name = name;
    /** The position behind what was handed on: opaque, good on every transport. @type {string | null} */
    this.cursor = null;
  }

  get state() {
    return this.#state;
  }

  /**
   * Start delivery: after a cursor, with the newest `last` messages, or from now on; after an `unsubscribe`, and where
   * the client's `storage` knows a cursor, by default where it stopped. Resolves with the server's first reply, and
   * goes on through every loss until `unsubscribe`.
   *
   * @param {{after?: string, last?: number, where?: object, snapshot?: boolean, conflate?: number}} [options]  the
   *   latter three for documents, `docs:…`
   * @returns {Promise<{cursor?: string | null, head?: string, recovered?: boolean, snapshot?: boolean}>}
   */
  subscribe({ after, ...options } = {}) {
    if (this.#leaving) {
      this.#again ??= { options: { after, ...options }, ...deferred() };
      return handled(this.#again.promise);
    }
    if (this.#first) return this.#first.promise;
    if (after !== undefined) this.cursor = after;
    else if (!this.#client.options.storage) this.cursor = options.last === undefined ? this.cursor : null;
    // A copy of documents is not kept with its cursor, so it begins with a new one. Other tabs write what they have
    // handed on, so where this one stopped goes first.
    else if (!options.snapshot) this.cursor ??= this.#client._cursors.get(this.name);
    this.#wanted = plain(options);
    this.#state = "joining";
    const { promise } = (this.#first = deferred());
    this.#ask();
    return handled(promise);
  }

  /** Stop delivery; the cursor stays. Resolves when nothing more will come. @returns {Promise<void>} */
  async unsubscribe() {
    this.#again?.reject(new WaterspoutError(UNSUBSCRIBED));
    this.#again = null;
    if (this.#leaving || !this.#wanted) return this.#leaving ?? undefined;
    const link = this.#client._link;
    if (!link) return this.#end(new WaterspoutError(UNSUBSCRIBED));
    const { promise, resolve } = deferred();
    this.#leaving = promise;
    // Until the reply the last messages may still come, and count.
    link.send("unsubscribe", { channel: this.name }, () => {
      this.#leaving = null;
      this.#end(new WaterspoutError(UNSUBSCRIBED));
      const again = this.#again;
      this.#again = null;
      if (again) this.subscribe(again.options).then(again.resolve, again.reject);
      resolve();
    });
    return promise;
  }

  /**
   * Publish; resolves when the message is stored. Through losses and refusals that ask to try again it is sent once
   * more with the same key, so it is stored once; it is rejected only with what will not change by itself.
   *
   * With `ephemeral` (where the namespace allows it) it is passed on now and never stored, or, without a connection, not
   * at all: `disconnected`.
   *
   * @param {any} data  any JSON value
   * @param {{key?: string, tag?: string, echo?: boolean, ephemeral?: boolean}} [options]
   * @returns {Promise<{offset?: number, cursor?: string, duplicate?: boolean}>}
   */
  publish(data, { key = randomKey(), ...options } = {}) {
    if (options.ephemeral) return this.#client._once("publish", { channel: this.name, data, ...options });
    // Copied before anything else: the caller may change the object, and a retry with other data would be a conflict.
    const fields = plain({ channel: this.name, key, data, ...options });
    const { promise, resolve, reject } = deferred();
    if (this.#client.state === "closed") reject(new WaterspoutError(CLOSED));
    else if (this.#outbox.length >= this.#client.options.maxQueue) {
      reject(new WaterspoutError({ code: "limit_exceeded", reason: "too many publishes are waiting" }));
    } else {
      const refuse = (/** @type {Error} */ error) => {
        this.#outbox = this.#outbox.filter((one) => one !== entry);
        reject(error);
      };
      /** @type {Publish} */
      const entry = { fields, sent: false, attempt: 0, resolve, refuse };
      this.#outbox.push(entry);
      this.#flush();
    }
    return promise;
  }

  /**
   * A page of the past, oldest first, bounds exclusive; with neither bound the newest.
   *
   * @param {{before?: string, after?: string, limit?: number}} [bounds]
   * @returns {Promise<{messages: Message[], cursor: string, more: boolean, gap?: {from: number, to: number} | null}>}
   */
  history(bounds = {}) {
    return this.#client.request("history", { channel: this.name, ...bounds });
  }

  /**
   * Who is here now; `left`: and how many of those who have left, the latest first.
   *
   * @param {{left?: number}} [options]
   * @returns {Promise<{users: {user: string, sessions: number, info?: any}[], count: number, guests: number}>}
   */
  presence(options = {}) {
    return this.#client.request("presence", { channel: this.name, ...options });
  }

  /** Who is here, kept up to date while the channel is subscribed. */
  members() {
    return (this.#members ??= new Members(this));
  }

  #ask() {
    clearTimeout(this.#timer);
    const link = this.#client._link;
    if (!link || !this.#wanted || this.#leaving || this.#asking) return;
    this.#resumed = this.cursor !== null;
    const from = this.#resumed ? { ...this.#wanted, last: undefined, after: this.cursor } : this.#wanted;
    this.#state = "joining";
    this.#asking = true;
    link.send("subscribe", { channel: this.name, ...from }, (error, reply) => {
      this.#asking = false;
      if (error?.code === LOST.code || !this.#wanted) return; // asked again by `_opened`
      if (error?.retry) {
        const pause = error.retryAfter ?? jitter(this.#attempt++, 0.2, 5);
        this.#timer = setTimeout(() => this.#ask(), pause * 1000);
        return;
      }
      if (error) return this.#end(error, true);
      this.#attempt = 0;
      this.#state = "replaying";
      // What may be only a view of a log need not come to its head: live behind the snapshot, or at once.
      const view = this.name.startsWith("docs:");
      this.#head = view ? null : (reply.head ?? null);
      this.#copying = reply.snapshot === true;
      this.#count = 0;
      // Behind a gap the cursor may only move together with the gap, which is still to be handed on.
      if (reply.recovered === false) this.#behindGap = reply.cursor ?? null;
      else this.cursor = reply.cursor ?? this.cursor;
      this.#first?.resolve(reply);
      if (reply.recovered !== false) this.#keep();
      this.emit("subscribed", { ...reply, resumed: this.#resumed });
      this.#arrive();
    });
  }

  /** In the storage. Not that of a copy of documents, which itself is not kept. */
  #keep() {
    if (this.cursor !== null && !this.#wanted?.snapshot) this.#client._cursors.set(this.name, this.cursor);
  }

  /** Live from the moment the cursor has reached what was the head. */
  #arrive() {
    if (this.#state !== "replaying" || this.#copying || (this.#head !== null && this.cursor !== this.#head)) return;
    this.#state = "live";
    this.emit("live", { count: this.#count, resumed: this.#resumed });
    this.#client._settle(this.#resumed ? this.#count : 0);
  }

  /** @param {WaterspoutError} error @param {boolean} [told] */
  #end(error, told = false) {
    clearTimeout(this.#timer);
    this.#wanted = null;
    this.#state = "idle";
    this.#first?.reject(error);
    this.#first = null;
    if (told) this.emit("ended", error);
    this.#client._settle();
  }

  #flush() {
    const link = this.#client._link;
    if (!link || this.#hold !== undefined) return;
    let room = Math.min(this.#client.options.window, link._window) - this.#outbox.filter((entry) => entry.sent).length;
    for (const entry of this.#outbox) {
      if (entry.sent) continue;
      if (room-- <= 0) break;
      entry.sent = true;
      link.send("publish", entry.fields, (error, reply) => this.#settle(entry, error, reply));
    }
  }

  /** @param {Publish} entry @param {WaterspoutError | null} error @param {any} reply */
  #settle(entry, error, reply) {
    if (error?.code === LOST.code) return; // `_lost` has put it back
    if (!error) {
      this.#outbox = this.#outbox.filter((one) => one !== entry);
      entry.resolve(reply);
    } else if (error.retry && error.code !== "internal") {
      // Everything behind waits as well, so that the order holds.
      entry.sent = false;
      this.#holdFor(error.retryAfter ?? jitter(entry.attempt++, 0.2, 5));
      return;
    } else {
      entry.refuse(error);
    }
    this.#flush();
  }

  /** @param {number} seconds */
  #holdFor(seconds) {
    const until = performance.now() + seconds * 1000;
    if (this.#hold !== undefined && until <= this.#heldUntil) return;
    this.#letGo();
    this.#heldUntil = until;
    this.#hold = setTimeout(() => {
      this.#letGo();
      this.#flush();
    }, seconds * 1000);
  }

  #letGo() {
    clearTimeout(this.#hold);
    this.#hold = undefined;
  }

  // --- what the connection calls ------------------------------------------------------------------------------------

  /** @internal @param {any} push */
  _take(push) {
    if (!this.#wanted) return;
    if (push.type === "unsubscribed") return this.#end(new WaterspoutError(push), true);
    if (push.type === "message") this.#count++;
    this.emit(push.type, push);
    if (!this.#wanted) return; // a listener has ended it
    // Only now: a cursor stands for what was handed on, and a gap is a part of that.
    // A copy cannot go on behind a gap: it has no place until the snapshot that follows is complete.
    if (push.type === "gap") this.cursor = this.#wanted.snapshot ? null : (push.cursor ?? this.#behindGap ?? this.cursor);
    else if (typeof push.cursor === "string") this.cursor = push.cursor;
    if (push.type === "snapshot") this.#copying = push.more;
    this.#keep();
    this.#behindGap = null;
    this.#arrive();
  }

  /** @internal */
  _opened() {
    if (this.#state === "joining") this.#ask(); // a listener of `open` may have been quicker
    this.#flush();
  }

  /** @internal */
  _lost() {
    if (this.#wanted) this.#state = "joining";
    this.#behindGap = null;
    this.#letGo();
    for (const entry of this.#outbox) entry.sent = false;
  }

  /** @internal @param {WaterspoutError} error */
  _closed(error) {
    clearTimeout(this.#timer);
    this.#letGo();
    for (const entry of [...this.#outbox]) entry.refuse(error);
    if (!this.#wanted) return;
    this.#state = "joining";
    this.#first?.reject(error);
    this.#first = deferred(); // should somebody call `connect`
    handled(this.#first.promise);
  }

  /** @internal */
  get _behind() {
    return this.#state === "joining" || this.#state === "replaying";
  }

  /** Nobody has subscribed to it. @internal */
  get _free() {
    return this.#wanted === null;
  }
}

/**
 * @typedef {object} Publish
 * @property {object} fields
 * @property {boolean} sent     under way on the present link
 * @property {number} attempt
 * @property {(reply: any) => void} resolve
 * @property {(error: Error) => void} refuse
 */
