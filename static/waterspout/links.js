/**
 * The ways to the server: a WebSocket, or plain HTTP where that does not get through. Commands and pushes are the same.
 *
 * @module
 */

import { LOST, WaterspoutError } from "./tools.js";
import { matches } from "./where.js";

/**
 * `goodbye`: the server's `disconnect`, if it sent one; `delay`: after how many seconds to come back, if it said so.
 *
 * @typedef {{code: number, reason: string, goodbye: any, delay: number | null}} End
 */
/** @typedef {(error: WaterspoutError | null, reply: any) => void} Done */
/** @typedef {{sent: number, size: number, done: Done}} Command */
/** @typedef {{open: () => void, push: (push: any) => void, end: (end: End) => void}} Events */

/**
 * One connection, from its opening to its end, which is reported once. Nothing of an ended link is handed on, however
 * late it arrives: its successor resumes from the cursor, and would bring it again.
 */
class Link {
  _events;
  _patience;
  #nextId = 1;
  /** Oldest first. @type {Map<number, Command>} */
  #replies = new Map();
  _heard = 0;
  /** A longer frame would end a WebSocket, and the reason might get lost on the way. */
  _largest = Infinity;
  #quiet = Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #sweep;
  /** The server's `disconnect`; what is sent after it may not be read any more. @type {any} */
  goodbye = null;
  over = false;

  /** @param {number} patience @param {Events} events */
  constructor(patience, events) {
    this._events = events;
    this._patience = patience * 1000;
    this.#timer = setTimeout(() => this.end(1006, "no answer"), this._patience);
  }

  /** How it goes: "websocket", "sse" or "poll". @returns {string} */
  get transport() {
    throw new TypeError("a link has a transport");
  }

  /** How long a command may go without its reply, in ms: the server decides a publish within 10 s. */
  get _deadline() {
    return 20_000;
  }

  /** How many publishes of a channel may be under way at once. */
  get _window() {
    return Infinity;
  }

  /** The size of what was sent, where it matters. @protected @param {any} command @returns {number} */
  _transmit(command) {
    throw new TypeError(`a link transmits ${command.type}`);
  }

  /** @protected */
  _close() {}

  /**
   * Send a command. `done` is called in the very moment the reply is read: the pushes behind it may have arrived in the
   * same packet, and a promise would be too late for them.
   *
   * @param {string} type
   * @param {object} fields
   * @param {Done} done
   */
  send(type, fields, done) {
    if (this.over) return done(new WaterspoutError(LOST), null);
    const id = this.#nextId++;
    const command = { sent: performance.now(), size: 0, done };
    this.#replies.set(id, command);
    // For some MessagePack libraries, what is undefined is something nevertheless.
    const given = Object.entries(fields).filter(([, value]) => value !== undefined);
    try {
      command.size = this._transmit({ type, id, ...Object.fromEntries(given) });
    } catch (/** @type {any} */ error) {
      if (!this.#replies.delete(id)) throw error;
      done(error, null);
    }
  }

  /** From now on notice when the server has been silent for so many seconds. @param {number} quiet */
  watch(quiet) {
    clearTimeout(this.#timer);
    this.#quiet = quiet * 1000;
    this.#check();
    // Whoever does not answer at all is left, and asked again elsewhere.
    this.#sweep = setInterval(() => {
      const [oldest] = this.#replies.values();
      if (oldest && performance.now() - oldest.sent > this._deadline) this.end(1006, "a command was not answered");
    }, 5000);
  }

  #check() {
    const silence = performance.now() - this._heard;
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
      if (this._heard < asked) this.end(1006, "the server has gone silent");
      else this.#check();
    }, this._patience);
    this.send("ping", {}, () => {});
  }

  /** @protected @param {any} push */
  _take(push) {
    if (this.over) return;
    this._heard = performance.now();
    if (push.type === "reply" || push.type === "error") {
      const command = this.#replies.get(push.id);
      this.#replies.delete(push.id);
      command?.done(push.type === "error" ? new WaterspoutError(push) : null, push);
    } else if (push.type === "disconnect") {
      this.goodbye = push;
    } else {
      this._events.push(push);
    }
  }

  /** @param {number} code @param {string} reason @param {number | null} [delay] */
  end(code, reason, delay = null) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#sweep);
    this._close();
    // 1009: one frame was far too big. Sent again it would end every connection from now on.
    const largest = code === 1009 ? Math.max(...Array.from(this.#replies.values(), ({ size }) => size)) : Infinity;
    for (const { size, done } of this.#replies.values()) {
      done(new WaterspoutError(size < largest ? LOST : TOO_LARGE), null);
    }
    this._events.end({ code, reason, goodbye: this.goodbye, delay });
  }
}

const TOO_LARGE = { code: "too_large", reason: "a frame has at most twice the server's message_bytes" };

/** @typedef {{encode: (value: any) => Uint8Array, decode: (bytes: Uint8Array) => any}} MessagePack */

export class WebSocketLink extends Link {
  #socket;
  #msgpack;

  /**
   * @param {any} WebSocket
   * @param {string} url
   * @param {MessagePack | undefined} msgpack  without it: JSON
   * @param {number} patience
   * @param {Events} events
   */
  constructor(WebSocket, url, msgpack, patience, events) {
    super(patience, events);
    this.#msgpack = msgpack;
    const socket = (this.#socket = new WebSocket(url, [msgpack ? "waterspout.msgpack" : "waterspout.json"]));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => events.open();
    socket.onmessage = (/** @type {{data: any}} */ event) => this.#read(event.data);
    socket.onclose = (/** @type {{code: number, reason: string}} */ event) => this.end(event.code, event.reason);
    // A close event follows in the same task, and says more; in Node 20 it does not come if there was no connection.
    socket.onerror = () => void setTimeout(() => this.end(1006, "no connection"));
  }

  get transport() {
    return "websocket";
  }

  /** @param {any} command */
  _transmit(command) {
    const data = this.#msgpack ? this.#msgpack.encode(command) : JSON.stringify(command);
    if (data.length > this._largest) throw new WaterspoutError(TOO_LARGE);
    this.#socket.send(data);
    return data.length;
  }

  /** @param {any} data */
  #read(data) {
    let push;
    try {
      push = this.#msgpack ? this.#msgpack.decode(new Uint8Array(data)) : JSON.parse(data);
    } catch {
      return this.end(1007, "not what was agreed on");
    }
    this._take(push);
  }

  _close() {
    this.#socket.close(); // may take long on a dead network; nobody waits for it
  }
}

/** A stream that says nothing for so long has lost its server, whose heartbeat comes every 25 s. In ms. */
const STREAM_QUIET = 60_000;
const POLL_SECONDS = 25;
const MAX_CHANNELS = 128;
/** What is carried out in order. @type {Record<string, string | undefined>} */
const LANES = {
  publish: "publish",
  subscribe: "subscribe",
  unsubscribe: "subscribe",
  get: "document",
  put: "document",
  patch: "document",
  delete: "document",
};

/**
 * Commands as requests; one event stream for all channels, or, where a proxy holds that back, long polls. The stream
 * is opened anew when a channel comes or goes: cursors make that exact. By `fetch`, not EventSource, since that can
 * send the token in a header, and tells why it was refused.
 */
export class HttpLink extends Link {
  #base;
  #transports;
  #polling;
  /** @type {string | undefined} */
  #token;
  /** Where each channel is; null: ephemeral. @type {Map<string, string | null>} */
  #cursors = new Map();
  /** Where all of them are that are polled, in the server's own words. It knows what views have passed over. */
  #place = "";
  /**
   * What was asked for: an event stream brings the changes of all documents, and no snapshots.
   *
   * @type {Map<string, {where?: object, snapshot?: boolean}>}
   */
  #views = new Map();
  #requests = new AbortController();
  /** @type {AbortController | null} */
  #listening = null;
  /**
   * The last of the commands that go one after the other: requests that are under way together have no order.
   *
   * @type {Map<string, Promise<void>>}
   */
  #lanes = new Map();

  /**
   * @param {string} base  the address before `/v1/…`
   * @param {string[]} transports  which of "sse" and "poll" may be used
   * @param {number} patience
   * @param {Events} events
   */
  constructor(base, transports, patience, events) {
    super(patience, events);
    this.#base = base;
    this.#transports = transports;
    this.#polling = !transports.includes("sse");
    setTimeout(() => events.open());
  }

  get transport() {
    return this.#polling ? "poll" : "sse";
  }

  /** Every request has a limit of its own, and some commands wait for others. */
  get _deadline() {
    return Infinity;
  }

  /** They have to wait for each other in any case, and so not even a refusal changes their order. */
  get _window() {
    return 1;
  }

  _close() {
    this.#requests.abort();
    this.#listening?.abort();
  }

  /** As over a WebSocket: commands on one channel or document are carried out in order. @param {any} command */
  _transmit(command) {
    const { type, channel, collection, document_id: document } = command;
    const kind = LANES[type];
    const lane = kind && `${kind} ${channel ?? `${collection}/${document}`}`;
    if (!lane || (kind === "document" && document === undefined)) {
      void this.#perform(command);
      return 0;
    }
    const before = this.#lanes.get(lane) ?? Promise.resolve();
    const last = before.then(() => this.#perform(command));
    this.#lanes.set(lane, last);
    void last.then(() => this.#lanes.get(lane) === last && this.#lanes.delete(lane));
    return 0;
  }

  /** @param {any} command */
  async #perform({ type, id, ...fields }) {
    if (this.over) return;
    try {
      /** @type {any[]} */
      const pushes = [];
      const reply = await this.#carryOut(type, fields, pushes);
      this._take({ ...reply, type: "reply", id });
      for (const push of pushes) this._take(push);
    } catch (/** @type {any} */ error) {
      if (error.code === "token_expired") this.end(4002, error.reason);
      else if (error.code === "unauthenticated") this.end(4500, error.reason);
      else if (!(error instanceof WaterspoutError)) this.end(1006, String(error));
      else {
        const { code, reason, retry, retryAfter, rev } = error;
        this._take({ type: "error", id, code, reason, retry, retry_after: retryAfter, rev });
      }
    }
  }

  /** @param {string} type @param {any} fields @param {any[]} pushes  to be handed on behind the reply @returns {Promise<any>} */
  async #carryOut(type, fields, pushes) {
    const { channel, collection, document_id: id } = fields;
    const path = channel === undefined ? "" : `/v1/channels/${encodeURIComponent(channel)}`;
    const document = documents(collection) + (id === undefined ? "" : `/${encodeURIComponent(id)}`);
    switch (type) {
      case "connect":
        this.#token = fields.token;
        return { ...(await this.#request("GET", "/healthz")), expires: expiry(fields.token) };
      case "refresh":
        this.#token = fields.token;
        this.#listen(); // a stream ends with the token that it was opened with
        return { expires: expiry(fields.token) };
      case "ping":
        return this.#request("GET", "/healthz");
      case "subscribe":
        return this.#subscribe(fields, pushes);
      case "unsubscribe":
        this.#forget(channel);
        this.#listen();
        return {};
      case "publish": {
        const { key, data, tag, ephemeral } = fields;
        return this.#request("POST", `${path}/messages`, { body: { key, data, tag, ephemeral } });
      }
      case "history": {
        const { after, before, limit } = fields;
        return this.#request("GET", `${path}/messages`, { query: { after, before, limit } });
      }
      case "presence":
        return this.#request("GET", `${path}/presence`, { query: { left: fields.left } });
      case "get":
        return { document: await this.#request("GET", document) };
      case "find": {
        const { collection: _, where, ...query } = fields;
        return this.#request("GET", document, { query: { where: asJson(where), ...query } });
      }
      case "put":
      case "patch":
      case "delete": {
        const { document: body, if_rev: rev, if_absent: absent, key } = fields;
        /** @type {Record<string, string>} */
        const headers = {};
        if (rev !== undefined) headers["If-Match"] = rev === "*" ? rev : `"${rev}"`;
        if (absent) headers["If-None-Match"] = "*";
        if (key !== undefined) headers["Idempotency-Key"] = key;
        const method = type === "put" && id === undefined ? "POST" : type.toUpperCase();
        return { document: await this.#request(method, document, { body, headers }) };
      }
      default:
        throw new WaterspoutError({ code: "bad_request", reason: `${type}: only over WebSocket` });
    }
  }

  /** @param {any} fields @param {any[]} pushes */
  async #subscribe({ channel, after, last, where, snapshot }, pushes) {
    if (this.#cursors.size >= MAX_CHANNELS && !this.#cursors.has(channel)) {
      throw new WaterspoutError({ code: "limit_exceeded", reason: `${MAX_CHANNELS} channels over plain HTTP` });
    }
    const path = `/v1/channels/${encodeURIComponent(channel)}/messages`;
    const query = { after, limit: after === undefined && last ? last : 1 };
    let page;
    try {
      page = await this.#request("GET", path, { query });
    } catch (/** @type {any} */ error) {
      // It has no history to ask for, and can be listened to all the same: in a stream, not by asking now and then.
      if (this.#polling || !/ is ephemeral/.test(error.reason) || after !== undefined || last !== undefined)
        throw error;
      this.#follow(channel, null);
      return {};
    }
    const { head, gap, messages } = page;
    // The changes are selected here, so nobody has looked yet whether this is a `where`.
    if (where && !snapshot) await this.#find(channel, where, { limit: 1 });
    this.#views.set(channel, { where, snapshot });
    if (after !== undefined && !(snapshot && gap)) {
      this.#follow(channel, after); // the gap itself is the stream's to tell
      return { cursor: gap && !messages.length ? head : after, head, recovered: gap === null, snapshot: false };
    }
    if (snapshot) {
      pushes.push(...(await this.#snapshot(channel, where, head)));
      this.#follow(channel, head);
      return { cursor: null, head, recovered: true, snapshot: true };
    }
    // A page may be shorter than what was asked for.
    while (last && messages.length && messages.length < last && page.more) {
      page = await this.#request("GET", path, { query: { before: messages[0].cursor, limit: last - messages.length } });
      messages.unshift(...page.messages);
    }
    if (last) pushes.push(...messages);
    this.#follow(channel, head);
    return { cursor: last && messages.length ? undefined : head, head, recovered: true };
  }

  /** What there is now. Changes that are in it already follow once more, which changes nothing in the end.
   *
   * @param {string} channel @param {any} where @param {string} head */
  async #snapshot(channel, where, head) {
    const pushes = [];
    let page;
    do {
      const found = await this.#find(channel, where, { limit: 1000, page });
      page = found.page ?? undefined;
      const place = page === undefined ? { cursor: head } : {};
      pushes.push({
        type: "snapshot",
        channel,
        documents: found.documents,
        more: page !== undefined,
        start: !pushes.length,
        ...place,
      });
    } while (page !== undefined);
    return pushes;
  }

  /** The documents that a channel shows. @param {string} channel @param {any} where @param {object} query */
  #find(channel, where, query) {
    // `docs:orders`, `docs:orders#2`, `docs:orders/7`: behind a slash `#` is a part of the id.
    const [, collection, id] = /^docs:([^/#]*)(?:\/(.*))?/s.exec(channel) ?? [];
    const selection = id === undefined ? where : { ...where, _id: id };
    return this.#request("GET", documents(collection), { query: { where: asJson(selection), ...query } });
  }

  /** @param {string} channel @param {string | null} cursor */
  #follow(channel, cursor) {
    this.#cursors.set(channel, cursor);
    this.#listen();
  }

  /** @param {string} channel */
  #forget(channel) {
    this.#cursors.delete(channel);
    this.#views.delete(channel);
  }

  async #listen() {
    this.#listening?.abort();
    const { signal } = (this.#listening = new AbortController());
    this.#place = "";
    await pause(10); // several subscriptions that are made in one go share a stream
    while (!signal.aborted && this.#cursors.size) {
      try {
        await (this.#polling ? this.#poll(signal) : this.#stream(signal));
      } catch (/** @type {any} */ error) {
        if (signal.aborted) return;
        // A right that was lost meanwhile is told by the next subscription, channel by channel.
        return this.end(error.code === "token_expired" ? 4002 : 1006, error.reason ?? String(error), error.retryAfter);
      }
      if (this.goodbye) return this.end(this.goodbye.code ?? 1001, this.goodbye.reason ?? "");
    }
  }

  /** One event stream, up to its end. @param {AbortSignal} signal */
  async #stream(signal) {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    signal.addEventListener("abort", abort);
    let opened = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const wait = (/** @type {number} */ ms) => {
      clearTimeout(timer);
      timer = setTimeout(abort, ms);
    };
    wait(this._patience);
    try {
      const query = new URLSearchParams();
      for (const [channel, cursor] of this.#cursors) {
        query.append("channel", channel);
        query.append("after", cursor ?? "");
      }
      const response = await this.#fetch("GET", `/v1/events?${query}`, {
        signal: attempt.signal,
        headers: { Accept: "text/event-stream" },
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        // What is told in the moment (who comes and goes) was not heard until now.
        if (!opened) for (const channel of this.#cursors.keys()) this._take({ type: "listening", channel });
        opened = true;
        this._heard = performance.now();
        wait(STREAM_QUIET);
        const events = (rest + value).split("\n\n");
        rest = /** @type {string} */ (events.pop());
        for (const event of events) this.#read(event);
      }
    } catch (error) {
      if (!attempt.signal.aborted) throw error;
      // Something on the way keeps the stream to itself.
      if (!opened && !signal.aborted && !this.#transports.includes("poll")) throw error;
      if (!opened && !signal.aborted) this.#polling = true;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      abort(); // the body of a response that is read no further would be kept
    }
    if (opened && !this.goodbye && !signal.aborted) await pause(Math.random() * 1000); // a proxy's time limit, perhaps
  }

  /** @param {string} event */
  #read(event) {
    const data = event.split("\n").find((line) => line.startsWith("data: "));
    if (data) this.#deliver(JSON.parse(data.slice("data: ".length)));
  }

  /** @param {any} push */
  #deliver(push) {
    const { where, snapshot } = this.#views.get(push.channel) ?? {};
    if (push.type === "gap" && snapshot) return this.end(1006, "a copy has to begin anew"); // seen by `#subscribe`
    if (push.type === "unsubscribed") this.#forget(push.channel);
    else if (typeof push.cursor === "string" && this.#cursors.has(push.channel))
      this.#cursors.set(push.channel, push.cursor);
    const document = push.data?.document;
    if (push.type === "message" && where && document && !document._truncated && !matches(document, where)) {
      push = { ...push, data: { op: "delete", id: push.data.id, rev: null, document: null } };
    }
    this._take(push);
  }

  /** One long poll. @param {AbortSignal} signal */
  async #poll(signal) {
    const query = new URLSearchParams({ wait: String(POLL_SECONDS) });
    for (const [channel, cursor] of this.#cursors) {
      if (cursor === null) continue;
      query.append("channel", channel);
      if (!this.#place) query.append("after", cursor);
    }
    if (!query.has("channel")) return pause(1000);
    if (this.#place) query.append("after", this.#place);
    const limit = AbortSignal.timeout(POLL_SECONDS * 1000 + this._patience);
    const response = await this.#fetch("GET", `/v1/poll?${query}`, { signal: AbortSignal.any([signal, limit]) });
    const { messages, gaps, cursor: place } = await response.json();
    for (const gap of gaps) this.#deliver({ type: "gap", ...gap });
    for (const message of messages) this.#deliver(message);
    this.#place = place;
    this._heard = performance.now();
  }

  /**
   * @param {string} method @param {string} path
   * @param {{query?: Record<string, any>, body?: any, headers?: Record<string, string>}} [options]
   */
  async #request(method, path, { query = {}, body, headers = {} } = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
    const url = given.length ? `${path}?${new URLSearchParams(given)}` : path;
    const limit = AbortSignal.timeout(this._patience + 12_000); // the server decides a publish within 10 s
    const signal = AbortSignal.any([this.#requests.signal, limit]);
    if (body !== undefined) headers = { "Content-Type": "application/json", ...headers };
    const response = await this.#fetch(method, url, {
      signal,
      headers,
      body: body === undefined ? body : JSON.stringify(body),
    });
    return response.status === 204 ? null : response.json();
  }

  /** @param {string} method @param {string} url @param {any} options @returns {Promise<any>} */
  async #fetch(method, url, { headers, ...options }) {
    const authorization = this.#token === undefined ? {} : { Authorization: `Bearer ${this.#token}` };
    const response = await fetch(this.#base + url, {
      method,
      headers: { ...headers, ...authorization },
      cache: "no-store",
      ...options,
    });
    if (response.ok) return response;
    const problem = await response.json().catch(() => null);
    if (typeof problem?.code === "string") throw new WaterspoutError(problem);
    // A proxy's own page: nothing is known of what became of the command.
    const { status } = response;
    const after = Number.parseFloat(response.headers.get("Retry-After") ?? "");
    const retry = status >= 500 || status === 429 || status === 408;
    throw new WaterspoutError({ code: "unavailable", reason: `HTTP ${status}`, retry, retry_after: after });
  }
}

/** When a JSON Web Token expires, in seconds since 1970; null where it does not say.
 *
 * @param {string | undefined} token */
function expiry(token) {
  try {
    const claims = String(token).split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(claims));
    return Number.isFinite(exp) ? exp : null;
  } catch {
    return null; // an API key, or none at all
  }
}

/** @param {string} collection */
const documents = (collection) => `/v1/documents/${encodeURIComponent(collection)}`;
/** @param {any} value */
const asJson = (value) => (value === undefined || value === null ? undefined : JSON.stringify(value));
/** @param {number} ms @returns {Promise<void>} */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
