/**
 * Waterspout's client for browsers and Node: one module, no dependency, no build step.
 *
 *     const client = new Waterspout();                      // this page's own server; elsewhere: its address
 *     const lobby = client.channel("chat:lobby");
 *     lobby.on("message", (message) => console.log(message.offset, message.data));
 *     await lobby.subscribe({ last: 50 });
 *     await lobby.publish({ name: "Ann", text: "Hello" });  // resolves once the message is stored for good
 *
 * It comes back by itself after every loss and continues each channel at its cursor. The server promises every message
 * once and in order, so nothing is filtered here: a cursor moves only over what the listeners were given, and resuming
 * from it is exact. A publish keeps its key through all its attempts, so trying again never stores it twice.
 *
 * @module
 */

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
 *   the client connects (so that an expired one is replaced)
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
 * The server's `error`, or the client's own: `disconnected` (no answer came, it is unknown whether the command was
 * carried out), `closed`, `limit_exceeded`, `too_large`.
 */
export class WaterspoutError extends Error {
  /** @param {{code?: any, reason?: any, retry?: any, retry_after?: any}} error */
  constructor({ code, reason, retry, retry_after: retryAfter }) {
    super(`${code}: ${reason}`);
    this.name = "WaterspoutError";
    this.code = String(code);
    this.reason = String(reason ?? "");
    /** Whether the same may succeed later. */
    this.retry = retry === true;
    /** Seconds; null if the server did not say. */
    this.retryAfter = Number.isFinite(retryAfter) ? Number(retryAfter) : null;
  }
}

/** Listeners by event name. */
class Emitter {
  /** @type {Map<string, Set<(event: any) => void>>} */
  #listeners = new Map();

  /**
   * Call `listener` at each event of this name; the returned function ends that.
   *
   * @param {string} name
   * @param {(event: any) => void} listener
   * @returns {() => void}
   */
  on(name, listener) {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }

  /** @protected @param {string} name @param {any} [event] */
  emit(name, event) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(event);
      } catch (error) {
        // A listener's bug is reported like any other, and must not stop the stream.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * One WebSocket, from its opening to its end, which is reported once. Nothing of an ended link is handed on, however
 * late it arrives: its successor resumes from the cursor, and would bring it again.
 */
class Link {
  #socket;
  #events;
  #patience;
  #nextId = 1;
  /** Oldest first. @type {Map<number, {sent: number, done: (error: WaterspoutError | null, reply: any) => void}>} */
  #replies = new Map();
  #heard = 0;
  #quiet = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #sweep;
  /** The server's `disconnect`; what is sent after it may not be read any more. @type {any} */
  goodbye = null;
  over = false;

  /**
   * @param {any} WebSocket
   * @param {string} url
   * @param {number} patience
   * @param {{open: () => void, push: (push: any) => void, end: (end: End) => void}} events
   *
   * @typedef {{code: number, reason: string, goodbye: any}} End  `goodbye`: the server's `disconnect`, if it sent one
   */
  constructor(WebSocket, url, patience, events) {
    this.#events = events;
    this.#patience = patience * 1000;
    this.#socket = new WebSocket(url, ["waterspout.json"]);
    this.#socket.onopen = () => events.open();
    this.#socket.onmessage = (/** @type {{data: any}} */ event) => this.#take(event.data);
    this.#socket.onclose = (/** @type {{code: number, reason: string}} */ event) => this.end(event.code, event.reason);
    // A close event follows in the same task, and says more; in Node 20 it does not come if there was no connection.
    this.#socket.onerror = () => void setTimeout(() => this.end(1006, "no connection"));
    this.#timer = setTimeout(() => this.end(1006, "no answer"), this.#patience);
  }

  /**
   * Send a command. `done` is called in the very moment the reply is read: the pushes behind it may have arrived in the
   * same packet, and a promise would be too late for them.
   *
   * @param {string} type
   * @param {object} fields
   * @param {(error: WaterspoutError | null, reply: any) => void} done
   */
  send(type, fields, done) {
    if (this.over) return done(new WaterspoutError(LOST), null);
    const id = this.#nextId++;
    this.#replies.set(id, { sent: performance.now(), done });
    this.#socket.send(JSON.stringify({ type, id, ...fields }));
  }

  /** From now on notice when the server has been silent for so many seconds. @param {number} quiet */
  watch(quiet) {
    clearTimeout(this.#timer);
    this.#quiet = quiet * 1000;
    this.#check();
    // The server decides a publish within 10 s. Whoever does not answer at all is left, and asked again elsewhere.
    this.#sweep = setInterval(() => {
      const [oldest] = this.#replies.values();
      if (oldest && performance.now() - oldest.sent > 20_000) this.end(1006, "a command was not answered");
    }, 5000);
  }

  #check() {
    const silence = performance.now() - this.#heard;
    if (silence >= this.#quiet) this.probe();
    else this.#timer = setTimeout(() => this.#check(), this.#quiet - silence);
  }

  /**
   * Ask for a sign of life, and end the link if none comes. A timer alone proves nothing: those of a background tab
   * come minutes late, and a laptop that slept has heard nothing either.
   */
  probe() {
    clearTimeout(this.#timer);
    const asked = performance.now();
    this.#timer = setTimeout(() => {
      if (this.#heard < asked) this.end(1006, "the server has gone silent");
      else this.#check();
    }, this.#patience);
    this.send("ping", {}, () => {});
  }

  /** @param {any} text */
  #take(text) {
    if (this.over) return;
    this.#heard = performance.now();
    let push;
    try {
      push = JSON.parse(text);
    } catch {
      return this.end(1007, "not JSON");
    }
    if (push.type === "reply" || push.type === "error") {
      const command = this.#replies.get(push.id);
      this.#replies.delete(push.id);
      command?.done(push.type === "error" ? new WaterspoutError(push) : null, push);
    } else if (push.type === "disconnect") {
      this.goodbye = push;
    } else {
      this.#events.push(push);
    }
  }

  /** @param {number} code @param {string} reason */
  end(code, reason) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#sweep);
    this.#socket.close(); // may take long on a dead network; nobody waits for it
    for (const { done } of this.#replies.values()) done(new WaterspoutError(LOST), null);
    this.#events.end({ code, reason, goodbye: this.goodbye });
  }
}

const CLOSED = { code: "closed", reason: "the client is closed" };
const LOST = { code: "disconnected", reason: "the connection was lost before the reply", retry: true };

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

  /** @type {State} */
  state = "closed";
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
    this.#options = { minDelay: 0.5, maxDelay: 30, patience: 8, window: 32, maxQueue: 1000, ...options };
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

  /** Connect now: instead of at the end of the current pause, or again after `closed`; the subscriptions go on. */
  connect() {
    if (this.state === "open" || this.state === "connecting") return;
    if (this.state === "closed") this.#watchSurroundings();
    clearTimeout(this.#timer);
    this.#setState("connecting");
    const constructor = this.#options.WebSocket ?? globalThis.WebSocket;
    /** @type {Link} */
    let link;
    try {
      if (!constructor) throw new TypeError("there is no WebSocket here: pass one in the options");
      link = new Link(constructor, this.#url, this.#options.patience, {
        open: () => void this.#greet(link),
        push: (push) => this.#channels.get(push.channel)?._take(push),
        end: (end) => this.#lost(end),
      });
    } catch (error) {
      this.#close(1006, String(error)); // no such constructor, no such address: trying again would not help
      throw error;
    }
    this.#link = link;
  }

  /** Leave, and do not come back. What was not acknowledged yet is rejected with `closed`, its outcome unknown. */
  close() {
    this.#close(1000, "closed by the client");
  }

  /**
   * Send one command and return its reply; a command that is only read from, so that it may be sent again after a loss.
   *
   * @param {string} type
   * @param {object} [fields]
   * @returns {Promise<any>}
   */
  request(type, fields = {}) {
    return new Promise((resolve, reject) => {
      const attempt = () => {
        if (this.state === "closed") return reject(new WaterspoutError(CLOSED));
        const link = this._link;
        if (!link) return void once();
        link.send(type, fields, (error, reply) => {
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
      const source = this.#options.token;
      token = typeof source === "function" ? await source() : source;
    } catch (error) {
      return link.end(1006, `no token: ${error}`);
    }
    link.send("connect", token ? { token } : {}, (error, reply) => {
      if (error?.code === LOST.code) return; // told by `end`
      if (error?.retry) return link.end(1006, error.reason);
      if (error) return this.#close(4500, error.reason);
      link.watch(this.#options.ping ?? (reply.ping > 0 ? reply.ping : 25));
      this.session = reply;
      this.#ready = true;
      this.#openedAt = performance.now();
      this.#setState("open");
      for (const channel of this.#channels.values()) channel._opened();
      this._settle();
    });
  }

  /** @param {End} end */
  #lost({ code, reason, goodbye }) {
    const wasOpen = this.#ready;
    this.#link = null;
    this.#ready = false;
    if (this.state === "closed") return;
    if (goodbye ? goodbye.reconnect === false : code >= 4500 && code <= 4999) {
      return this.#close(goodbye?.code ?? code, goodbye?.reason ?? reason);
    }
    if (wasOpen) this.#caughtUp ??= 0;
    if (code === 1009) this.#refuseLargest();
    for (const channel of this.#channels.values()) channel._lost();
    // A server that lets in and throws out at once has not answered: only a connection that lasted starts afresh.
    if (wasOpen && performance.now() - this.#openedAt > 5000) this.#attempt = 0;
    // The server's delay spreads a whole herd and is kept exactly, unless we are sent away again and again.
    const told = Number.isFinite(goodbye?.delay) && goodbye.delay >= 0 ? goodbye.delay : null;
    const backoff = jitter(this.#attempt, this.#options.minDelay, this.#options.maxDelay);
    const delay = told === null ? backoff : this.#attempt === 0 ? told : Math.max(told, backoff);
    this.#attempt++;
    this.#timer = setTimeout(() => this.connect(), delay * 1000);
    this.#setState("waiting", { delay, at: Date.now() + delay * 1000, code, reason: goodbye?.reason ?? reason });
  }

  /** 1009: one frame was far too big. Sent again it would end every connection from now on. */
  #refuseLargest() {
    const entries = [...this.#channels.values()].flatMap((channel) => channel._underWay);
    const largest = entries.reduce((most, entry) => (entry.size > most.size ? entry : most), entries[0]);
    largest?.refuse(new WaterspoutError({ code: "too_large", reason: "the server refused a frame of this size" }));
  }

  /** @param {number} code @param {string} reason */
  #close(code, reason) {
    if (this.state === "closed") return;
    clearTimeout(this.#timer);
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
  }

  /** @param {any} target @param {string} name @param {() => void} listener */
  #listen(target, name, listener) {
    if (!target?.addEventListener) return;
    target.addEventListener(name, listener);
    this.#cleanUp.push(() => target.removeEventListener(name, listener));
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

/**
 * A channel: what comes from it and what goes to it.
 *
 * Events: the server's pushes by their type, `message`, `gap {from, to, reason}` (these messages are gone for good),
 * `dropped {count}`, `join`, `leave`…; and `subscribed {cursor, head, recovered, resumed}`, `live {count, resumed}`
 * (caught up, after so many messages), `ended` (a WaterspoutError: the server ended the subscription or refuses it).
 */
export class Subscription extends Emitter {
  #client;
  /** @type {object | null} What to subscribe with, while the subscription is wanted. */
  #wanted = null;
  /** @type {"idle" | "joining" | "replaying" | "live"} */
  #state = "idle";
  /** @type {{promise: Promise<any>, resolve: (reply: any) => void, reject: (error: Error) => void} | null} */
  #first = null;
  /** @type {string | null} */
  #head = null;
  #count = 0;
  #resumed = false;
  /** Where delivery starts behind a gap that is announced but not handed on yet. @type {string | null} */
  #behindGap = null;
  /** @type {Promise<void> | null} */
  #leaving = null;
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {Publish[]} in order; the front ones are under way */
  #outbox = [];
  #held = false;

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
   * Start delivery: after a cursor, with the newest `last` messages, or from now on; after an `unsubscribe` by default
   * where it stopped. Resolves with the server's first reply, and goes on through every loss until `unsubscribe`.
   *
   * @param {{after?: string, last?: number, [option: string]: any}} [options]
   * @returns {Promise<{cursor?: string, head?: string, recovered?: boolean}>}
   */
  subscribe({ after, ...options } = {}) {
    if (this.#leaving) return handled(this.#leaving.then(() => this.subscribe({ after, ...options })));
    if (this.#first) return this.#first.promise;
    if (after !== undefined) this.cursor = after;
    else if (options.last !== undefined) this.cursor = null;
    this.#wanted = options;
    this.#state = "joining";
    const { promise } = (this.#first = deferred());
    this.#ask();
    return handled(promise);
  }

  /** Stop delivery; the cursor stays. Resolves when nothing more will come. @returns {Promise<void>} */
  async unsubscribe() {
    if (!this.#wanted) return;
    this.#leaving ??= new Promise((resolve) => {
      const left = () => {
        this.#leaving = null;
        this.#end(new WaterspoutError({ code: "closed", reason: "unsubscribed" }));
        resolve();
      };
      // Until the reply the last messages may still come, and count.
      const link = this.#client._link;
      if (link) link.send("unsubscribe", { channel: this.name }, left);
      else left();
    });
    return this.#leaving;
  }

  /**
   * Publish; resolves when the message is stored. Through losses and refusals that ask to try again it is sent once
   * more with the same key, so it is stored once; it is rejected only with what will not change by itself.
   *
   * @param {any} data  any JSON value
   * @param {{key?: string, [option: string]: any}} [options]
   * @returns {Promise<{offset?: number, cursor?: string, duplicate?: boolean}>}
   */
  publish(data, { key = randomKey(), ...options } = {}) {
    // Closed before anything else: the caller may change the object, and a retry with other data would be a conflict.
    const text = JSON.stringify(data);
    const fields = { channel: this.name, key, data: JSON.parse(text), ...options };
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
      const entry = { fields, size: text.length, sent: false, attempt: 0, resolve, refuse };
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

  /** Who is here now. @returns {Promise<{users: {user: string | null, sessions: number}[], count: number}>} */
  presence() {
    return this.#client.request("presence", { channel: this.name });
  }

  #ask() {
    clearTimeout(this.#timer);
    const link = this.#client._link;
    if (!link || !this.#wanted) return;
    this.#resumed = this.cursor !== null;
    const from = this.#resumed ? { ...this.#wanted, last: undefined, after: this.cursor } : this.#wanted;
    this.#state = "joining";
    link.send("subscribe", { channel: this.name, ...from }, (error, reply) => {
      if (error?.code === LOST.code) return; // asked again by `_opened`
      if (error?.retry) {
        const pause = error.retryAfter ?? jitter(this.#attempt++, 0.2, 5);
        this.#timer = setTimeout(() => this.#ask(), pause * 1000);
        return;
      }
      if (error) return this.#end(error, true);
      this.#attempt = 0;
      this.#state = "replaying";
      this.#head = reply.head ?? null;
      this.#count = 0;
      // Behind a gap the cursor may only move together with the gap, which is still to be handed on.
      if (reply.recovered === false) this.#behindGap = reply.cursor ?? null;
      else this.cursor = reply.cursor ?? this.cursor;
      this.#first?.resolve(reply);
      this.emit("subscribed", { ...reply, resumed: this.#resumed });
      this.#arrive();
    });
  }

  /** Live from the moment the cursor has reached what was the head. */
  #arrive() {
    if (this.#state !== "replaying" || (this.#head !== null && this.cursor !== this.#head)) return;
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
    if (!link || this.#held) return;
    let room = this.#client.options.window - this.#outbox.filter((entry) => entry.sent).length;
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
      this.#held = true;
      const pause = error.retryAfter ?? jitter(entry.attempt++, 0.2, 5);
      setTimeout(() => {
        this.#held = false;
        this.#flush();
      }, pause * 1000);
      return;
    } else {
      entry.refuse(error);
    }
    this.#flush();
  }

  // --- what the connection calls ------------------------------------------------------------------------------------

  /** @internal @param {any} push */
  _take(push) {
    if (!this.#wanted) return;
    if (push.type === "unsubscribed") return this.#end(new WaterspoutError(push), true);
    if (push.type === "message") this.#count++;
    this.emit(push.type, push);
    // Only now: a cursor stands for what was handed on, and a gap is a part of that.
    if (push.type === "gap") this.cursor = push.cursor ?? this.#behindGap ?? this.cursor;
    else if (typeof push.cursor === "string") this.cursor = push.cursor;
    this.#behindGap = null;
    this.#arrive();
  }

  /** @internal */
  _opened() {
    this.#held = false;
    this.#ask();
    this.#flush();
  }

  /** @internal */
  _lost() {
    if (this.#wanted) this.#state = "joining";
    this.#behindGap = null;
    for (const entry of this.#outbox) entry.sent = false;
  }

  /** @internal @param {WaterspoutError} error */
  _closed(error) {
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

  /** @internal */
  get _underWay() {
    return this.#outbox.filter((entry) => entry.sent);
  }
}

/**
 * @typedef {object} Publish
 * @property {object} fields
 * @property {number} size
 * @property {boolean} sent     under way on the present link
 * @property {number} attempt
 * @property {(reply: any) => void} resolve
 * @property {(error: Error) => void} refuse
 */

/** Full jitter: random below a doubling bound, so that a herd comes apart. In seconds.
 *
 * @param {number} attempt @param {number} least @param {number} most */
function jitter(attempt, least, most) {
  return Math.random() * Math.min(most, least * 2 ** Math.min(attempt, 16));
}

/** Not `randomUUID`: browsers keep that from pages served without TLS. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** `ended` tells of the failure as well: nobody has to wait for this promise.
 *
 * @template T @param {Promise<T>} promise @returns {Promise<T>} */
function handled(promise) {
  promise.catch(() => {});
  return promise;
}

/** @returns {{promise: Promise<any>, resolve: (value?: any) => void, reject: (error: Error) => void}} */
function deferred() {
  /** @type {any} */
  let parts;
  const promise = new Promise((resolve, reject) => (parts = { resolve, reject }));
  return { promise, ...parts };
}
