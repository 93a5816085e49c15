/**
 * The ways to the server: a WebSocket, or plain HTTP where that does not get through. Commands and pushes are the same.
 *
 * @module
 */

import { LOST, WaterspoutError } from "./tools.js";
import { matches } from "./where.js";

/** @typedef {{code: number, reason: string, goodbye: any}} End  `goodbye`: the server's `disconnect`, if it sent one */
/** @typedef {{open: () => void, push: (push: any) => void, end: (end: End) => void}} Events */

/**
 * One connection, from its opening to its end, which is reported once. Nothing of an ended link is handed on, however
 * late it arrives: its successor resumes from the cursor, and would bring it again.
 */
class Link {
  _events;
  _patience;
  #nextId = 1;
  /** Oldest first. @type {Map<number, {sent: number, done: (error: WaterspoutError | null, reply: any) => void}>} */
  #replies = new Map();
  _heard = 0;
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

  /** @protected @param {any} command */
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
   * @param {(error: WaterspoutError | null, reply: any) => void} done
   */
  send(type, fields, done) {
    if (this.over) return done(new WaterspoutError(LOST), null);
    const id = this.#nextId++;
    this.#replies.set(id, { sent: performance.now(), done });
    this._transmit({ type, id, ...fields });
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

  /** @param {number} code @param {string} reason */
  end(code, reason) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.#timer);
    clearInterval(this.#sweep);
    this._close();
    for (const { done } of this.#replies.values()) done(new WaterspoutError(LOST), null);
    this._events.end({ code, reason, goodbye: this.goodbye });
  }
}

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
    this.#socket.send(this.#msgpack ? this.#msgpack.encode(command) : JSON.stringify(command));
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

/**
 * Commands as requests; one event stream for all channels, or, where a proxy holds that back, long polls. The stream
 * is opened anew when a channel comes or goes: cursors make that exact. By `fetch`, not EventSource, since that can
 * send the token in a header, and tells why it was refused.
 */
export class HttpLink extends Link {
  #base;
  #polling;
  /** @type {string | undefined} */
  #token;
  /** Where each channel is; null: ephemeral. @type {Map<string, string | null>} */
  #cursors = new Map();
  /** What documents are wanted of a channel: an event stream brings the changes of all. @type {Map<string, object>} */
  #wheres = new Map();
  #requests = new AbortController();
  /** @type {AbortController | null} */
  #listening = null;
  /** The last publish of each channel: requests that are under way together have no order. @type {Map<string, Promise<any>>} */
  #lanes = new Map();

  /** @param {string} base  the address before `/v1/…` @param {boolean} polling @param {number} patience @param {Events} events */
  constructor(base, polling, patience, events) {
    super(patience, events);
    this.#base = base;
    this.#polling = polling;
    setTimeout(() => events.open());
  }

  get transport() {
    return this.#polling ? "poll" : "sse";
  }

  _close() {
    this.#requests.abort();
    this.#listening?.abort();
  }

  /** @param {any} command */
  async _transmit({ type, id, ...fields }) {
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
    const document = `/v1/documents/${collection}${id === undefined ? "" : `/${encodeURIComponent(id)}`}`;
    switch (type) {
      case "connect":
        this.#token = fields.token;
        return this.#request("GET", "/healthz");
      case "refresh":
        this.#token = fields.token;
        return {};
      case "ping":
        return this.#request("GET", "/healthz");
      case "subscribe":
        return this.#subscribe(fields, pushes);
      case "unsubscribe":
        this.#cursors.delete(channel);
        this.#listen();
        return {};
      case "publish": {
        const { key, data, tag, ephemeral } = fields;
        const before = this.#lanes.get(channel);
        const publish = (async () => {
          await before?.catch(() => {});
          return this.#request("POST", `${path}/messages`, { body: { key, data, tag, ephemeral } });
        })();
        this.#lanes.set(channel, publish);
        return publish;
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
        const { where, sort, limit, page } = fields;
        return this.#request("GET", document, { query: { where: asJson(where), sort, limit, page } });
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
    const query = { after, limit: after === undefined && last ? last : 1 };
    let page;
    try {
      page = await this.#request("GET", `/v1/channels/${encodeURIComponent(channel)}/messages`, { query });
    } catch (/** @type {any} */ error) {
      // It has no history to ask for, and can be listened to all the same: in a stream, not by asking now and then.
      if (this.#polling || !/ is ephemeral/.test(error.reason) || after !== undefined || last !== undefined)
        throw error;
      this.#follow(channel, null);
      return {};
    }
    const { head, gap, messages } = page;
    if (where) this.#wheres.set(channel, where);
    else this.#wheres.delete(channel);
    if (after !== undefined && !(snapshot && gap)) {
      this.#follow(channel, after); // the gap itself is the stream's to tell
      return { cursor: after, head, recovered: gap === null, snapshot: false };
    }
    if (snapshot) {
      pushes.push(...(await this.#snapshot(channel, where, head)));
      this.#follow(channel, head);
      return { cursor: null, head, recovered: true, snapshot: true };
    }
    if (last) pushes.push(...messages);
    this.#follow(channel, head);
    return { cursor: last && messages.length ? undefined : head, head, recovered: true };
  }

  /** What there is now. Changes that are in it already follow once more, which changes nothing in the end.
   *
   * @param {string} channel @param {any} where @param {string} head */
  async #snapshot(channel, where, head) {
    const [collection, id] = channel.slice("docs:".length).split(/\/(.*)/s);
    const pushes = [];
    let page;
    do {
      const query = { where: asJson(id === undefined ? where : { _id: id }), limit: 1000, page };
      const found = await this.#request("GET", `/v1/documents/${collection}`, { query });
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

  /** @param {string} channel @param {string | null} cursor */
  #follow(channel, cursor) {
    this.#cursors.set(channel, cursor);
    this.#listen();
  }

  async #listen() {
    this.#listening?.abort();
    const { signal } = (this.#listening = new AbortController());
    await pause(10); // several subscriptions that are made in one go share a stream
    while (!signal.aborted && this.#cursors.size) {
      try {
        await (this.#polling ? this.#poll(signal) : this.#stream(signal));
      } catch (/** @type {any} */ error) {
        if (signal.aborted) return;
        // A right that was lost meanwhile is told by the next subscription, channel by channel.
        return this.end(error.code === "token_expired" ? 4002 : 1006, error.reason ?? String(error));
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
        opened = true;
        this._heard = performance.now();
        wait(STREAM_QUIET);
        const events = (rest + value).split("\n\n");
        rest = /** @type {string} */ (events.pop());
        for (const event of events) this.#read(event);
      }
    } catch (error) {
      if (!attempt.signal.aborted) throw error;
      if (!opened && !signal.aborted) this.#polling = true; // something on the way keeps the stream to itself
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
    if (opened && !this.goodbye && !signal.aborted) await pause(Math.random() * 1000); // a proxy's time limit, perhaps
  }

  /** @param {string} event */
  #read(event) {
    const data = /^data: (.*)$/m.exec(event);
    if (data) this.#deliver(JSON.parse(data[1]));
  }

  /** @param {any} push */
  #deliver(push) {
    if (push.type === "unsubscribed") this.#cursors.delete(push.channel);
    else if (typeof push.cursor === "string" && this.#cursors.has(push.channel))
      this.#cursors.set(push.channel, push.cursor);
    const where = this.#wheres.get(push.channel);
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
      query.append("after", cursor);
    }
    if (!query.has("channel")) return pause(1000);
    const limit = AbortSignal.timeout(POLL_SECONDS * 1000 + this._patience);
    const response = await this.#fetch("GET", `/v1/poll?${query}`, { signal: AbortSignal.any([signal, limit]) });
    const { messages, gaps } = await response.json();
    for (const gap of gaps) this.#deliver({ type: "gap", ...gap });
    for (const message of messages) this.#deliver(message);
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
    let problem;
    try {
      problem = await response.json();
    } catch {
      // A proxy's own page: nothing is known of what became of the command.
      problem = { code: "unavailable", reason: `HTTP ${response.status}`, retry: response.status >= 500 };
    }
    throw new WaterspoutError(problem);
  }
}

/** @param {any} value */
const asJson = (value) => (value === undefined || value === null ? undefined : JSON.stringify(value));
/** @param {number} ms @returns {Promise<void>} */
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
