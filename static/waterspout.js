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

import { Subscription } from "./waterspout/channel.js";
import { Collection, LiveCopy } from "./waterspout/documents.js";
import { HttpLink, WebSocketLink } from "./waterspout/links.js";
import { CLOSED, deferred, Emitter, handled, jitter, LOST, plain, WaterspoutError } from "./waterspout/tools.js";

export { Subscription } from "./waterspout/channel.js";
export { Collection, LiveCopy } from "./waterspout/documents.js";
export { Members } from "./waterspout/presence.js";
export { randomKey, WaterspoutError } from "./waterspout/tools.js";

/** @typedef {import("./waterspout/links.js").End} End */
/** @typedef {WebSocketLink | HttpLink} Link */
/** @typedef {"websocket" | "sse" | "poll"} Transport */
/** @typedef {import("./waterspout/documents.js").Document} Document */

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
 */

/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token]  a JWT, or a function that is asked for one each time
 *   the client connects, and shortly before the present one expires
 * @property {Transport[]} [transports]  what may be used; by default all: a WebSocket, an event stream where that does
 *   not get through, long polls where not even that does
 * @property {import("./waterspout/links.js").MessagePack} [msgpack]  a library's `encode` and `decode`: then the
 *   WebSocket speaks MessagePack
 * @property {{getItem: (name: string) => string | null, setItem: (name: string, value: string) => void}} [storage]
 *   keeps the cursors (`localStorage`), so that a tab that was closed continues where it was. What was handed on in the
 *   last half second before a crash comes again
 * @property {string} [storagePrefix]  what the names in it begin with ("waterspout.cursor.")
 * @property {any} [WebSocket]      a constructor to use instead of the global one (Node has a stable one from 22 on)
 * @property {number} [minDelay]    seconds; the first pause between attempts is random below this (0.5)
 * @property {number} [maxDelay]    seconds; no pause is longer (30)
 * @property {number} [patience]    seconds to wait for a connection, or for a sign of life after asking for one (8)
 * @property {number} [ping]        seconds of silence after which a sign of life is asked for (as the server says, 25)
 * @property {number} [window]      publishes under way at once in a channel (32); with 1 not even a refusal that asks
 *   to try again can change their order
 * @property {number} [maxQueue]    publishes waiting in a channel (1000); more are refused with `limit_exceeded`
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
 * besides `resumed {count}` when after a loss every channel has caught up, with so many messages.
 */
export class Waterspout extends Emitter {
  #url;
  #options;
  /** @type {Map<string, Subscription>} */
  #channels = new Map();
  /** @type {Link | null} */
  #link = null;
  #ready = false;
  #attempt = 0;
  #openedAt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** Messages caught up since the last loss; null when there is nothing to report. @type {number | null} */
  #caughtUp = null;
  /** @type {(() => void)[]} */
  #cleanUp = [];
  /** WebSockets in a row that did not open. */
  #unopened = 0;
  /** What was found out about that: the server answers otherwise ("reachable"), and even then there is no WebSocket
   * ("blocked"). @type {"" | "reachable" | "blocked"} */
  #finding = "";
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #refreshing;

  /** @type {State} */
  state = "closed";
  /** How it is connected at present. @type {Transport | null} */
  get transport() {
    return /** @type {Transport | null} */ (this.#ready ? (this.#link?.transport ?? null) : null);
  }

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
    this.#url = address.href;
    const transports = ["websocket", "sse", "poll"];
    this.#options = { minDelay: 0.5, maxDelay: 30, patience: 8, window: 32, maxQueue: 1000, transports, ...options };
    this._cursors = new Cursors(options.storage, options.storagePrefix);
    this.connect();
  }

  get options() {
    return this.#options;
  }

  /** The channel of this name, always the same object. @param {string} name @returns {Subscription} */
  channel(name) {
    let channel = this.#channels.get(name);
    if (!channel) this.#channels.set(name, (channel = new Subscription(this, name)));
    return channel;
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
    if (this.state === "open" || this.state === "connecting") return;
    if (this.state === "closed") this.#watchSurroundings();
    clearTimeout(this.#timer);
    this.#setState("connecting");
    try {
      const found = this.#mayFallBack && this.#finding === "" && this.#unopened >= 2;
      // Twice no WebSocket: is it the server that is away, or the WebSocket that is blocked?
      if (found && this.#WebSocket)
        this.#open((events) => new HttpLink(this.#base, ["sse"], this.#options.patience, events), true);
      else this.#open((events) => this.#makeLink(events));
    } catch (error) {
      this.#close(1006, String(error)); // no such constructor, no such address: trying again would not help
      throw error;
    }
  }

  get #WebSocket() {
    return this.#options.transports.includes("websocket") ? (this.#options.WebSocket ?? globalThis.WebSocket) : null;
  }

  get #mayFallBack() {
    return this.#options.transports.some((transport) => transport !== "websocket");
  }

  /** The address before `/v1/…`. */
  get #base() {
    return this.#url.replace(/^ws/, "http").replace(/\/v1\/ws$/, "");
  }

  /** @param {import("./waterspout/links.js").Events} events @returns {Link} */
  #makeLink(events) {
    const { transports, msgpack, patience } = this.#options;
    if (this.#WebSocket && this.#finding !== "blocked")
      return new WebSocketLink(this.#WebSocket, this.#url, msgpack, patience, events);
    if (!this.#mayFallBack) throw new TypeError("there is no WebSocket here: pass one in the options");
    return new HttpLink(this.#base, transports, patience, events);
  }

  /** @param {(events: import("./waterspout/links.js").Events) => Link} make @param {boolean} [onlyAsk]  whether anybody is there */
  #open(make, onlyAsk = false) {
    /** @type {Link} */
    const link = make({
      open: () => void (link.over || (onlyAsk ? this.#ask(link) : this.#greet(link))),
      push: (push) => this.#channels.get(push.channel)?._take(push),
      end: (end) => this.#link === link && this.#lost(end),
    });
    this.#link = link;
  }

  /** The server answers: a WebSocket that does not open now is blocked. @param {Link} link */
  #ask(link) {
    link.send("ping", {}, (error) => {
      if (error) return;
      this.#finding = "reachable";
      this.#link = null;
      link.end(1000, "");
      this.#open((events) => this.#makeLink(events));
    });
  }

  /** Leave, and do not come back. What was not acknowledged yet is rejected with `closed`, its outcome unknown. */
  close() {
    this.#close(1000, "closed by the client");
  }

  /**
   * Send one command and return its reply. After a loss it is sent again, so it has to be one that does no harm twice.
   *
   * @param {string} type
   * @param {object} [fields]
   * @returns {Promise<any>}
   */
  request(type, fields = {}) {
    return new Promise((resolve, reject) => {
      const copy = plain(fields); // what is sent again is what was sent
      const attempt = () => {
        if (this.state === "closed") return reject(new WaterspoutError(CLOSED));
        const link = this._link;
        if (!link) return void once();
        link.send(type, copy, (error, reply) => {
          if (!error) resolve(reply);
          else if (error.code === LOST.code) once();
          else reject(error);
        });
      };
      const once = () => {
        const off = this.on("state", () => {
          if (this.state !== "open" && this.state !== "closed") return;
          off();
          attempt();
        });
      };
      attempt();
    });
  }

  /** @param {Link} link */
  async #greet(link) {
    let token;
    try {
      token = await this.#token();
    } catch (error) {
      return link.end(4002, `no token: ${error}`);
    }
    link.send("connect", token ? { token } : {}, (error, reply) => {
      if (error?.code === LOST.code) return; // told by `end`
      // A server that refuses for now says `disconnect` next, with a delay that spreads a herd.
      if (error?.retry && link instanceof WebSocketLink) return;
      if (error?.retry || error?.code === "unavailable") return link.end(4004, error.reason, error.retryAfter);
      if (error?.code === "token_expired") return link.end(4002, error.reason);
      if (error) return this.#close(4500, error.reason);
      link.watch(this.#options.ping ?? (reply.ping > 0 ? reply.ping : 25));
      link._largest = 2 * reply.message_bytes || Infinity;
      this.session = reply;
      this.#ready = true;
      this.#unopened = 0;
      this.#finding = "";
      this.#refreshBefore(reply.expires);
      this.#openedAt = performance.now();
      this.#setState("open");
      for (const channel of this.#channels.values()) channel._opened();
      this._settle();
    });
  }

  async #token() {
    const source = this.#options.token;
    return typeof source === "function" ? source() : source;
  }

  /** A new token in time, on the same connection. @param {number | null | undefined} expires  seconds since 1970 */
  #refreshBefore(expires) {
    clearTimeout(this.#refreshing);
    if (!expires || typeof this.#options.token !== "function") return;
    const left = expires * 1000 - Date.now();
    if (left <= 0) return; // the server has just taken it: it is this clock that is wrong
    const wait = Math.max(left - 60_000, left / 2, 1000);
    // A longer timer would go off at once. By then the connection is another one in any case.
    this.#refreshing = setTimeout(() => void this.#refresh(), Math.min(wait, 0x7fffffff));
  }

  async #refresh() {
    const link = this._link;
    try {
      const token = await this.#token();
      // Refused, or no answer: the server ends the connection when the old one expires, and the next one asks again.
      link?.send("refresh", { token }, (error, reply) => error || this.#refreshBefore(reply.expires));
    } catch {
      // as above
    }
  }

  /** @param {End} end */
  #lost({ code, reason, goodbye, delay: asked }) {
    const wasOpen = this.#ready;
    const link = this.#link;
    clearTimeout(this.#refreshing);
    this.#link = null;
    this.#ready = false;
    if (this.state === "closed") return;
    if (goodbye ? goodbye.reconnect === false : code >= 4500 && code <= 4999) {
      return this.#close(goodbye?.code ?? code, goodbye?.reason ?? reason);
    }
    // A token that stays the same stays expired.
    if (code === 4002 && typeof this.#options.token !== "function") return this.#close(code, reason);
    // Codes of 4000 and more come from who was reached.
    if (!wasOpen && link instanceof WebSocketLink && code < 4000) {
      this.#unopened++;
      if (this.#finding === "reachable" && this.#mayFallBack) {
        this.#finding = "blocked";
        return this.#open((events) => this.#makeLink(events));
      }
    } else if (link instanceof HttpLink && this.#WebSocket) {
      this.#finding = ""; // the next attempt looks again whether there is a WebSocket by now
      this.#unopened = 2;
    }
    if (wasOpen) this.#caughtUp ??= 0;
    for (const channel of this.#channels.values()) channel._lost();
    // A server that lets in and throws out at once has not answered: only a connection that lasted starts afresh.
    if (wasOpen && performance.now() - this.#openedAt > 5000) this.#attempt = 0;
    // The server's delay spreads a whole herd and is kept exactly, unless we are sent away again and again.
    const told = [goodbye?.delay, asked].find((seconds) => Number.isFinite(seconds) && seconds >= 0) ?? null;
    const backoff = jitter(this.#attempt, this.#options.minDelay, this.#options.maxDelay);
    const delay = told === null ? backoff : this.#attempt === 0 ? told : Math.max(told, backoff);
    this.#attempt++;
    this.#timer = setTimeout(() => this.connect(), delay * 1000);
    this.#setState("waiting", { delay, at: Date.now() + delay * 1000, code, reason: goodbye?.reason ?? reason });
  }

  /** @param {number} code @param {string} reason */
  #close(code, reason) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    clearTimeout(this.#refreshing);
    this._cursors.save();
    for (const undo of this.#cleanUp.splice(0)) undo();
    this.state = "closed";
    this.#caughtUp = null;
    this.#attempt = 0;
    this.#link?.end(code, reason);
    for (const channel of this.#channels.values()) channel._closed(new WaterspoutError({ code: "closed", reason }));
    this.#setState("closed", { code, reason });
  }

  /** @param {State} state @param {object} [details] */
  #setState(state, details = {}) {
    this.state = state;
    const event = { state, ...details };
    this.emit("state", event);
    this.emit(state, event);
  }

  /** What a browser knows about the network: a reason to try now, or to ask whether the line still stands. */
  #watchSurroundings() {
    const wake = () => {
      if (this.state === "waiting") this.connect();
      else this._link?.probe();
    };
    const shown = () => document.visibilityState === "visible" && wake();
    // `offline` is only a hint (a server on this machine stays reachable), so it asks as well.
    this.#listen(globalThis, "online", wake);
    this.#listen(globalThis, "offline", () => this._link?.probe());
    this.#listen(globalThis.document, "visibilitychange", shown);
    this.#listen(globalThis, "pagehide", () => this._cursors.save());
  }

  /** @param {any} target @param {string} name @param {() => void} listener */
  #listen(target, name, listener) {
    if (!target?.addEventListener) return;
    target.addEventListener(name, listener);
    this.#cleanUp.push(() => target.removeEventListener(name, listener));
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
    return this.#ready && !this.#link?.goodbye ? this.#link : null;
  }

  /** Tell of the resumption once the last channel has caught up. @internal @param {number} [count] */
  _settle(count = 0) {
    if (this.#caughtUp === null) return;
    this.#caughtUp += count;
    if (!this.#ready || [...this.#channels.values()].some((channel) => channel._behind)) return;
    const total = this.#caughtUp;
    this.#caughtUp = null;
    this.emit("resumed", { count: total });
  }
}

/** The cursors that outlive the page. Without a storage nothing is kept here: each channel knows its own. */
class Cursors {
  #storage;
  #prefix;
  /** Not written yet. @type {Map<string, string>} */
  #new = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {Options["storage"]} [storage] @param {string} [prefix] */
  constructor(storage, prefix = "waterspout.cursor.") {
    this.#storage = storage;
    this.#prefix = prefix;
  }

  /** @param {string} channel @returns {string | null} */
  get(channel) {
    return this.#new.get(channel) ?? this.#storage?.getItem(this.#prefix + channel) ?? null;
  }

  /** @param {string} channel @param {string} cursor */
  set(channel, cursor) {
    if (!this.#storage) return;
    this.#new.set(channel, cursor);
    this.#timer ??= setTimeout(() => this.save(), 500);
  }

  save() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [channel, cursor] of this.#new) this.#write(channel, cursor);
    this.#new.clear();
  }

  /** @param {string} channel @param {string} cursor */
  #write(channel, cursor) {
    try {
      this.#storage?.setItem(this.#prefix + channel, cursor);
    } catch {
      // full or refused
    }
  }
}
