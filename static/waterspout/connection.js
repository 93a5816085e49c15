/** A connection that comes back. @module */

import { HttpLink } from "./http.js";
import { jitter, LOST } from "./tools.js";
import { WebSocketLink } from "./websocket.js";

/** @typedef {import("./link.js").End} End */
/** @typedef {import("./link.js").Events} LinkEvents */
/** @typedef {WebSocketLink | HttpLink} Link */
/** @typedef {import("../waterspout.js").State} State */
/** @typedef {import("../waterspout.js").Transport} Transport */
/**
 * What it tells. `greeted` and `closed` come before the states `open` and `closed`; `unasked`: it was not the client's user.
 *
 * @typedef {object} Events
 * @property {(state: State, details: object) => void} state
 * @property {(reply: any) => void} greeted
 * @property {(wasOpen: boolean) => void} lost
 * @property {(reason: string, unasked: boolean) => void} closed
 * @property {(push: any) => void} push
 * @property {() => object} greeting  what is said with the token
 * @property {(event: {delay: number, waiting: number, reason: string}) => void} limited
 * @property {() => void} hidden  the page may never be seen again
 */

/** Decides how to connect, and when to try again; and says who we are, again before the token expires. */
export class Connection {
  #url;
  #options;
  #events;
  /** @type {Link | null} */
  #link = null;
  #ready = false;
  #attempt = 0;
  #openedAt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #refreshing;
  /** The token of this attempt. @type {string | undefined} */
  #token;
  /** One that is on its way: who takes long is not asked again. @type {Promise<string> | null} */
  #asked = null;
  /** What is being tried; what comes too late belongs to another. @type {symbol | null} */
  #trying = null;
  /** @type {(() => void)[]} */
  #cleanUp = [];
  /** WebSockets in a row that did not open. */
  #unopened = 0;
  /** What was found out about that: the server answers otherwise ("reachable"), and even then there is no WebSocket
   * ("blocked"). @type {"" | "reachable" | "blocked"} */
  #finding = "";

  /** @type {State} */
  state = "closed";

  /** @param {string} url  of the WebSocket @param {any} options @param {Events} events */
  constructor(url, options, events) {
    this.#url = url;
    this.#options = options;
    this.#events = events;
  }

  /** @returns {Transport | null} */
  get transport() {
    return /** @type {Transport | null} */ (this.#ready ? (this.#link?.transport ?? null) : null);
  }

  /** The link, if commands may be sent. @returns {Link | null} */
  get link() {
    return this.#ready && !this.#link?.goodbye ? this.#link : null;
  }

  connect() {
    if (this.state === "open" || this.state === "connecting") return;
    if (this.state === "closed") this.#watchSurroundings();
    clearTimeout(this.#timer);
    this.#setState("connecting");
    const trying = (this.#trying = Symbol());
    // The token first, however long it takes: neither the server nor our own patience waits for it then.
    const go = (/** @type {string | undefined} */ token) => {
      if (this.#trying !== trying) return;
      this.#token = token;
      this.#try();
    };
    const fail = (/** @type {any} */ error) => {
      if (this.#trying !== trying) return;
      this.#lost({ code: 4002, reason: `no token: ${error}`, goodbye: null, delay: null });
    };
    let token;
    try {
      token = this.#ask();
    } catch (error) {
      return fail(error);
    }
    if (token instanceof Promise) token.then(go, fail).catch(() => {}); // which `closed` has told
    else go(token);
  }

  close() {
    this.#close(1000, "closed by the client", false);
  }

  /** @returns {string | undefined | Promise<string>} */
  #ask() {
    const source = this.#options.token;
    if (typeof source !== "function") return source;
    if (this.#asked) return this.#asked;
    const token = source();
    if (typeof token?.then !== "function") return token;
    const asked = Promise.resolve(token).finally(() => (this.#asked = null));
    return (this.#asked = asked);
  }

  #try() {
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
    return this.#options.transports.some((/** @type {string} */ transport) => transport !== "websocket");
  }

  /** The address before `/v1/…`. */
  get #base() {
    return this.#url.replace(/^ws/, "http").replace(/\/v1\/ws$/, "");
  }

  /** @param {LinkEvents} events @returns {Link} */
  #makeLink(events) {
    const { transports, msgpack, patience } = this.#options;
    if (this.#WebSocket && this.#finding !== "blocked")
      return new WebSocketLink(this.#WebSocket, this.#url, msgpack, patience, events);
    if (!this.#mayFallBack) throw new TypeError("there is no WebSocket here: pass one in the options");
    return new HttpLink(this.#base, transports, patience, events);
  }

  /** @param {(events: LinkEvents) => Link} make @param {boolean} [onlyAsk]  whether anybody is there */
  #open(make, onlyAsk = false) {
    /** @type {Link} */
    const link = make({
      open: () => void (link.over || (onlyAsk ? this.#knock(link) : this.#greet(link))),
      push: (push) => this.#events.push(push),
      end: (end) => this.#link === link && this.#lost(end),
      limited: (event) => this.#events.limited(event),
    });
    this.#link = link;
  }

  /** The server answers: a WebSocket that does not open now is blocked. @param {Link} link */
  #knock(link) {
    link.send("ping", {}, (error) => {
      if (error) return;
      this.#finding = "reachable";
      this.#link = null;
      link.end(1000, "");
      this.#open((events) => this.#makeLink(events));
    });
  }

  /** @param {Link} link */
  #greet(link) {
    link.send("connect", { token: this.#token || undefined, ...this.#events.greeting() }, (error, reply) => {
      if (error?.code === LOST.code) return; // told by `end`
      // A server that refuses for now says `disconnect` next, with a delay that spreads a herd.
      if (error?.retry && link instanceof WebSocketLink) return;
      if (error?.retry || error?.code === "unavailable") return link.end(4004, error.reason, error.retryAfter);
      if (error?.code === "token_expired") return link.end(4002, error.reason);
      if (error) return this.#close(4500, error.reason);
      link.watch(this.#options.ping ?? (reply.ping > 0 ? reply.ping : 25));
      link.largest = 2 * reply.message_bytes || Infinity;
      this.#ready = true;
      this.#unopened = 0;
      this.#finding = "";
      this.#refreshBefore(reply.expires);
      this.#openedAt = performance.now();
      this.#events.greeted(reply);
      this.#setState("open");
    });
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
    const link = this.link;
    try {
      const token = await this.#ask();
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
    this.#trying = null;
    this.#events.lost(wasOpen);
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

  /** @param {number} code @param {string} reason @param {boolean} [unasked] */
  #close(code, reason, unasked = true) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
    clearTimeout(this.#refreshing);
    for (const undo of this.#cleanUp.splice(0)) undo();
    this.state = "closed";
    this.#trying = null;
    this.#attempt = 0;
    this.#link?.end(code, reason);
    this.#events.closed(reason, unasked);
    this.#setState("closed", { code, reason });
  }

  /** @param {State} state @param {object} [details] */
  #setState(state, details = {}) {
    this.state = state;
    this.#events.state(state, details);
  }

  /** What a browser knows about the network: a reason to try now, or to ask whether the line still stands. */
  #watchSurroundings() {
    const wake = () => {
      if (this.state === "waiting") this.connect();
      else this.link?.probe();
    };
    const shown = () => document.visibilityState === "visible" && wake();
    // `offline` is only a hint (a server on this machine stays reachable), so it asks as well.
    this.#listen(globalThis, "online", wake);
    this.#listen(globalThis, "offline", () => this.link?.probe());
    this.#listen(globalThis.document, "visibilitychange", shown);
    this.#listen(globalThis, "pagehide", () => this.#events.hidden());
  }

  /** @param {any} target @param {string} name @param {() => void} listener */
  #listen(target, name, listener) {
    if (!target?.addEventListener) return;
    target.addEventListener(name, listener);
    this.#cleanUp.push(() => target.removeEventListener(name, listener));
  }
}
