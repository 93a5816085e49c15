/**
 * Waterspout's client for browsers and Node: no dependency, no build step. Its parts are in `waterspout/`, its types for
 * TypeScript in `waterspout.d.ts`.
 *
 *     const client = new Waterspout();                      // this page's own server; elsewhere: its address
 *     const lobby = client.channel("chat:lobby");
 *     lobby.on("message", (message) => console.log(message.offset, message.data));
 *     await lobby.subscribe({ last: 50 });
 *     await lobby.publish({ name: "Ann", text: "Hello" });  // resolves once the message is stored for good
 *
 * It comes back by itself after every loss and continues each channel at its cursor. The server promises every message
 * once and in order, so nothing is filtered here: a cursor moves only over what the listeners were given, and resuming
 * from it is exact. A publish keeps its key through all its attempts, so trying again never stores it twice. Where a
 * WebSocket does not get through, the same goes over an event stream or long polls.
 *
 * @module
 */

import { Channel } from "./waterspout/channel.js";
import { Channels } from "./waterspout/channels.js";
import { Connection } from "./waterspout/connection.js";
import { Cursors } from "./waterspout/cursors.js";
import { directName } from "./waterspout/direct.js";
import { Collection, LiveCopy } from "./waterspout/documents.js";
import { consume } from "./waterspout/jobs.js";
import { ROOM_PUSHES, Rooms } from "./waterspout/rooms.js";
import { CLOSED, complain, deferred, Emitter, handled, jitter, LOST, plain, WaterspoutError } from "./waterspout/tools.js";

export { Channel } from "./waterspout/channel.js";
export { Collection, LiveCopy } from "./waterspout/documents.js";
export { Job } from "./waterspout/jobs.js";
export { Timeline } from "./waterspout/timeline.js";
export { Members } from "./waterspout/presence.js";
export { Rooms } from "./waterspout/rooms.js";
export { Receipts } from "./waterspout/receipts.js";
export { randomKey, WaterspoutError } from "./waterspout/tools.js";

/** @typedef {import("./waterspout/connection.js").Link} Link */
/** @typedef {"websocket" | "sse" | "poll"} Transport */
/** @typedef {import("./waterspout/documents.js").Document} Document */

/** What may be asked again by itself where the server says `unavailable`: what reads, and what does no harm twice. */
const HARMLESS = ["history", "presence", "get", "find", "call", "amend", "react", "join", "leave", "member", "members", "read", "fetch",
  "ack", "nack", "block", "blocks"];
/** Also where nobody knows whether it was done. */
const SURE = ["amend", "react"];

/**
 * One message of a channel. Those of ephemeral channels have neither offset, cursor nor key.
 *
 * @typedef {object} Message
 * @property {string} channel
 * @property {number} offset      1, 2, 3… without holes
 * @property {string} cursor      the position just behind this message
 * @property {string} key         the publisher's idempotency key
 * @property {string | null} user null for guests
 * @property {number} time        milliseconds since 1970, by the server's clock
 * @property {any} data           whatever was published: check it
 * @property {number} [version]   where messages can be amended: the offset of what has made it what it is
 * @property {boolean} [edited]
 * @property {{user?: string | null, time?: number}} [deleted]  it was erased: then `data` is null
 * @property {boolean} [pinned]
 * @property {string[]} [mentions]  members of the channel, or `*`
 * @property {{k: string, n: number, u: string[]}[]} [reactions]
 */

/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token]  a JWT, or a function that is asked for one each time
 *   the client connects, and shortly before the present one expires
 * @property {Transport[]} [transports]  what may be used; by default all: a WebSocket, an event stream where that does
 *   not get through, long polls where not even that does
 * @property {import("./waterspout/websocket.js").MessagePack} [msgpack]  a library's `encode` and `decode`: then the
 *   WebSocket speaks MessagePack
 * @property {import("./waterspout/cursors.js").Storage} [storage]  keeps the cursors (`localStorage`), so that a tab
 *   that was closed continues where it was. What was handed on in the last half second before a crash comes again
 * @property {string} [storagePrefix]  what the names in it begin with ("waterspout.cursor.")
 * @property {any} [WebSocket]      a constructor to use instead of the global one (Node has a stable one from 22 on)
 * @property {number} [minDelay]    seconds; the first pause between attempts is random below this (0.5)
 * @property {number} [maxDelay]    seconds; no pause is longer (30)
 * @property {number} [patience]    seconds to wait for a connection, or for a sign of life after asking for one (8)
 * @property {number} [ping]        seconds of silence after which a sign of life is asked for (as the server says, 25)
 * @property {number} [window]      publishes under way at once in a channel (32); with 1 not even a refusal that asks
 *   to try again can change their order
 * @property {number} [maxQueue]    publishes waiting in a channel (1000); more are refused with `limit_exceeded`
 * @property {string} [name]        of your program, and its version: what the server's `connect` hook is told
 * @property {string} [version]
 */

/**
 * `connecting` → `open` → `waiting` (for the next attempt) → `connecting` …, until `closed`.
 *
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 */

/**
 * A connection that comes back.
 *
 * Events: `state` with `{state, …}` at every change, and each state under its own name: `connecting`, `open`,
 * `waiting {delay, at, code, reason}` (seconds, and the time of the next attempt in ms), `closed {code, reason}`;
 * besides `resumed {count}` when after a loss every channel has caught up, with so many messages; `limited {delay,
 * waiting, reason}` when the server's rate limit makes commands wait, with `waiting: 0` when none does any more; and
 * `warning {about: "storage", reason, channel}` when a cursor cannot be kept or what was kept is none.
 */
export class Waterspout extends Emitter {
  #options;
  #connection;
  /** Messages caught up since the last loss; null when there is nothing to report. @type {number | null} */
  #caughtUp = null;
  /** @internal */
  _channels = new Channels();
  /** @internal @type {Rooms | null} */
  _rooms = null;

  /** The reply to `connect`: `session`, `user`, `node`… @type {any} */
  session = null;

  /**
   * Connects at once.
   *
   * @param {string | URL} [url]  by default `/v1/ws` of the page's own server
   * @param {Options} [options]
   */
  constructor(url = "/v1/ws", options = {}) {
    super();
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    const transports = ["websocket", "sse", "poll"];
    this.#options = { minDelay: 0.5, maxDelay: 30, patience: 8, window: 32, maxQueue: 1000, transports, ...options };
    this._cursors = new Cursors(options.storage, options.storagePrefix, (warning) => this.emit("warning", warning));
    this.#connection = new Connection(address.href, this.#options, {
      state: (state, details) => this.#changed(state, details),
      greeted: (reply) => void (this.session = reply),
      lost: (wasOpen) => this.#lost(wasOpen),
      closed: (reason, unasked) => this.#closed(reason, unasked),
      push: (push) => this.#take(push),
      greeting: () => this.#greeting(),
      limited: (event) => this.emit("limited", event),
      hidden: () => this._cursors.save(),
    });
    this.connect();
  }

  get options() {
    return this.#options;
  }

  /** @returns {State} */
  get state() {
    return this.#connection.state;
  }

  /** How it is connected at present. @returns {Transport | null} */
  get transport() {
    return this.#connection.transport;
  }

  /**
   * The channel of this name: the same object as long as anybody holds it, listens to it, subscribes to it or publishes in it.
   *
   * @param {string} name @returns {Channel}
   */
  channel(name) {
    let channel = this._channels.get(name);
    if (!channel) this._channels.add((channel = new Channel(this, name)));
    return channel;
  }

  /** The channels that this user is a member of, live, with what is unread; with `threads` also those that it follows.
   * @param {{threads?: boolean}} [options] */
  rooms({ threads = false } = {}) {
    return (this._rooms ??= new Rooms(this))._with(threads);
  }

  /** The channel of this user and another one. @param {string} namespace @param {string} user */
  direct(namespace, user) {
    return this.channel(directName(namespace, this.session?.user ?? "", user));
  }

  /** Take no messages of a user in direct channels, or take them again. @param {string} user @param {boolean} [on]
   * @returns {Promise<{user: string, blocked: boolean}>} */
  block(user, on = true) {
    return this.request("block", { user, on });
  }

  /** Whom this user takes no messages of. @returns {Promise<string[]>} */
  async blocked() {
    return (await this.request("blocks")).blocked;
  }

  /** A collection of documents. @param {string} name @returns {Collection} */
  collection(name) {
    return new Collection(this, name);
  }

  /**
   * A copy of a collection, or of the documents that `where` selects, that follows every change. There may be any number
   * of them: the first comes from the channel `docs:orders`, others from `docs:orders#2`, `#3`…
   *
   * @param {string} collection @param {object} [where] @param {{conflate?: number}} [options]  `conflate`: seconds in
   *   which only the newest change of each document is sent
   */
  watch(collection, where, options = {}) {
    const name = `docs:${collection}`;
    let channel = this.channel(name);
    for (let label = 2; !channel._free; label++) channel = this.channel(`${name}#${label}`);
    return new LiveCopy(channel, where ? { where, ...options } : options);
  }

  /** Connect now: instead of at the end of the current pause, or again after `closed`; the subscriptions go on. */
  connect() {
    this.#connection.connect();
  }

  /** Leave, and do not come back. What was not acknowledged yet is rejected with `closed`, its outcome unknown. */
  close() {
    this.#connection.close();
  }

  /**
   * Send one command and return its reply. After a loss it is sent again, so it has to be one that does no harm twice;
   * one that only reads also when the server says `unavailable`.
   *
   * @param {string} type
   * @param {object} fields
   * @returns {Promise<any>}
   */
  request(type, fields = {}) {
    return this._ask(type, fields, () => true);
  }

  /**
   * Messages that have all these words, newest first; the last may be the beginning of one. In the `channels`, or in all
   * that this user is a member of. The next page: `after` the `cursor` of this one, while there is `more`.
   *
   * @param {string} q @param {{channels?: string[], after?: string, limit?: number}} [options]
   * @returns {Promise<{messages: import("./waterspout.js").Message[], cursor: string | null, more: boolean}>}
   */
  search(q, options = {}) {
    return this.request("search", { q, ...options });
  }

  /**
   * Have a message not published that was to be later. Sent once: `not_found` if it is published already, `disconnected`
   * after a loss.
   *
   * @param {string} scheduled  what `publish` has answered
   * @returns {Promise<void>}
   */
  async cancel(scheduled) {
    await this._once("cancel", { scheduled });
  }

  /**
   * Call a method of the product's own back end: what it answers. Rejected with `refused` (`reason`, `details`) where
   * it says no. With a `key` a retry gets the same answer: it is sent again by itself after a loss, and where the server
   * could not ask. Without one it is sent once, and a loss rejects with `disconnected`.
   *
   * @param {string} method @param {any} [data]
   * @param {{key?: string, timeout?: number}} [options]  `timeout`: seconds, after which it is rejected with
   *   `outcome_unknown`
   * @returns {Promise<any>}
   */
  async call(method, data = null, { key, timeout } = {}) {
    let late = false;
    const asked = handled(this._ask("call", { method, data, key }, () => key !== undefined && !late));
    if (timeout === undefined) return (await asked).data;
    const { promise, reject } = deferred();
    const timer = setTimeout(() => {
      late = true;
      reject(new WaterspoutError({ code: "outcome_unknown", reason: `no answer within ${timeout} s`, retry: true }));
    }, timeout * 1000);
    try {
      return (await Promise.race([asked, promise])).data;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Work for a consumer whose messages are handed out to workers: `for await (const job of client.consume("packing"))`.
   * A job is done when the loop asks for the next one; what it has when it is left is another worker's at once. For API
   * keys that may work for it.
   *
   * @param {string} consumer
   * @param {{limit?: number, onGap?: (gap: {channel: string, from: number | null, to: number | null, reason?: string}) => void}} [options]
   *   `limit`: messages that are fetched at once; `onGap` is told of those that were gone before anybody got them
   */
  consume(consumer, options = {}) {
    return consume(this, consumer, options);
  }

  /** `again`: whether it is sent once more after a loss; `wanted`: whether it is still to be sent at all, else it is rejected
   * with `disconnected`.
   *
   * @internal @param {string} type @param {object} fields @param {() => boolean} again @param {() => boolean} [wanted]
   * @returns {Promise<any>} */
  _ask(type, fields, again, wanted = () => true) {
    return new Promise((resolve, reject) => {
      const copy = plain(fields); // what is sent again is what was sent
      let attempts = 0;
      const attempt = () => {
        if (this.state === "closed") return reject(new WaterspoutError(CLOSED));
        if (!wanted()) return reject(new WaterspoutError(LOST));
        const link = this._link;
        if (!link) return this.#next(attempt);
        link.send(type, copy, (error, reply) => {
          if (!error) resolve(reply);
          else if (!again()) reject(error);
          else if (error.code === LOST.code) this.#next(attempt);
          else if (error.retry && HARMLESS.includes(type) && (error.code === "unavailable" || SURE.includes(type)))
            this.#next(attempt, error.retryAfter ?? jitter(attempts++, 0.2, 5));
          else reject(error);
        }, wanted);
      };
      attempt();
    });
  }

  /** At the next connection, or after so many seconds. @param {() => void} attempt @param {number} [seconds] */
  #next(attempt, seconds) {
    const go = () => {
      off();
      clearTimeout(timer);
      attempt();
    };
    const timer = seconds === undefined ? undefined : setTimeout(go, seconds * 1000);
    const off = this._hear("state", ({ state }) => void (["open", "closed"].includes(state) && go()));
  }

  /** @param {State} state @param {object} details */
  #changed(state, details) {
    const event = { state, ...details };
    this.emit("state", event);
    this.emit(state, event);
    if (state !== "open") return;
    for (const channel of this._channels) channel._opened();
    this._settle();
  }

  /** @param {any} push */
  #take(push) {
    // (A `read` with an offset is a receipt, for who is subscribed to the channel.)
    if (ROOM_PUSHES.includes(push.type) && push.offset === undefined) return this._rooms?._take(push);
    if (push.type !== "subscribed") return this._channels.get(push.pattern ?? push.channel)?._take(push);
    const channel = this.channel(push.channel);
    channel._serve(push, () => this.emit("subscribed", { channel }));
  }

  /** What is said with the token: who we are, and where we were in what the server subscribes us to. */
  #greeting() {
    const places = [...this._channels].map((channel) => [channel.name, channel._place]);
    const after = Object.fromEntries(places.filter(([, place]) => place !== null));
    const { name, version } = this.#options;
    return { name, version, after: Object.keys(after).length ? after : undefined };
  }

  /** @param {boolean} wasOpen */
  #lost(wasOpen) {
    if (wasOpen) this.#caughtUp ??= 0;
    for (const channel of this._channels) channel._lost();
  }

  /** @param {string} reason @param {boolean} unasked */
  #closed(reason, unasked) {
    this._cursors.save();
    this.#caughtUp = null;
    const heard = this._heard("closed") || this._heard("state");
    if (unasked && !heard) complain("closed", reason);
    const error = new WaterspoutError({ code: CLOSED.code, reason });
    for (const channel of this._channels) channel._closed(error, unasked, heard);
  }

  /** As `request`, but never sent again: a loss rejects with `disconnected`.
   *
   * @internal @param {string} type @param {object} fields @returns {Promise<any>} */
  _once(type, fields) {
    const { promise, resolve, reject } = deferred();
    const link = this._link;
    if (!link) reject(new WaterspoutError(LOST));
    else link.send(type, plain(fields), (error, reply) => (error ? reject(error) : resolve(reply)));
    return handled(promise);
  }

  /** The link, if commands may be sent. @internal @returns {Link | null} */
  get _link() {
    return this.#connection.link;
  }

  /** Tell of the resumption once the last channel has caught up. @internal @param {number} [count] */
  _settle(count = 0) {
    if (this.#caughtUp === null) return;
    this.#caughtUp += count;
    if (!this.transport || [...this._channels].some((channel) => channel._behind)) return;
    const total = this.#caughtUp;
    this.#caughtUp = null;
    this.emit("resumed", { count: total });
  }
}
