/** What comes over plain HTTP: one event stream for all channels, or long polls. @module */

import { myRooms } from "./http-rooms.js";
import { pause } from "./requests.js";
import { matches } from "./where.js";

/** A stream that says nothing for so long has lost its server, whose heartbeat comes every 25 s. In ms. */
const STREAM_QUIET = 60_000;
const POLL_SECONDS = 25;
/** Between two looks at my rooms, in ms. */
const ROOMS_EVERY = 5000;
/** Proxies take 8 KiB for a request's head, the token included. A longer list of channels goes into a body. */
const LONGEST_URL = 4000;

/** @typedef {import("./requests.js").Requests} Requests */
/** @typedef {{where?: object, snapshot?: boolean}} View  what was asked for of documents */
/**
 * @typedef {object} Events
 * @property {(push: any) => void} push
 * @property {() => void} heard  a sign of life
 * @property {(code: number, reason: string, delay?: number | null) => void} end
 */

/**
 * Listens to all channels at once. The stream is opened anew when a channel comes or goes: cursors make that exact. By
 * `fetch`, not EventSource, since that can send the token in a header and a list in a body, and tells why it was refused.
 */
export class Listening {
  #requests;
  #mayPoll;
  #patience;
  #events;
  /** @type {AbortController | null} */
  #running = null;
  /** Where each channel is; null: ephemeral. @type {Map<string, string | null>} */
  #cursors = new Map();
  /** An event stream brings the changes of all documents, and no snapshots. @type {Map<string, View>} */
  #views = new Map();
  /** Where all of them are that are polled, in the server's own words. It knows what views have passed over. */
  #place = "";
  /** The server's farewell was read: nothing follows it. @type {any} */
  #goodbye = null;
  polling;
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #rooms;

  /** @param {Requests} requests @param {string[]} transports @param {number} patience in ms @param {Events} events */
  constructor(requests, transports, patience, events) {
    this.#requests = requests;
    this.#patience = patience;
    this.#events = events;
    this.#mayPoll = transports.includes("poll");
    this.polling = !transports.includes("sse");
  }

  /** @param {string} channel */
  has(channel) {
    return this.#cursors.has(channel);
  }

  get size() {
    return this.#cursors.size;
  }

  close() {
    clearInterval(this.#rooms);
    this.#running?.abort();
  }

  /** @param {string} channel @param {string | null} cursor @param {View} [view] */
  follow(channel, cursor, view = {}) {
    this.#cursors.set(channel, cursor);
    this.#views.set(channel, view);
    void this.begin();
  }

  /** My rooms are asked for again and again: nothing is pushed of them over plain HTTP. @param {boolean} [threads] */
  followRooms(threads) {
    clearInterval(this.#rooms);
    this.#rooms = setInterval(() => void this.#tellRooms(threads), ROOMS_EVERY);
  }

  /** @param {boolean} [threads] */
  async #tellRooms(threads) {
    try {
      for (const push of await myRooms(this.#requests, threads)) this.#events.push(push);
      this.#events.heard();
    } catch (/** @type {any} */ error) {
      // The next time, perhaps; what else fails says what is wrong.
      if (error.code === "permission_denied")
        this.#events.push({ type: "unsubscribed", channel: "$rooms", code: error.code, reason: error.reason });
    }
  }

  /** @param {string} channel */
  leave(channel) {
    if (channel === "$rooms") return clearInterval(this.#rooms);
    this.#forget(channel);
    void this.begin();
  }

  /** @param {string} channel */
  #forget(channel) {
    this.#cursors.delete(channel);
    this.#views.delete(channel);
  }

  /** Anew, with the channels and the token of the moment. */
  async begin() {
    this.#running?.abort();
    const { signal } = (this.#running = new AbortController());
    this.#place = "";
    await pause(10); // several subscriptions that are made in one go share a stream
    while (!signal.aborted && this.#cursors.size) {
      try {
        await (this.polling ? this.#poll(signal) : this.#stream(signal));
      } catch (/** @type {any} */ error) {
        if (signal.aborted) return;
        // A right that was lost meanwhile is told by the next subscription, channel by channel.
        const code = error.code === "token_expired" ? 4002 : 1006;
        return this.#events.end(code, error.reason ?? error.message ?? String(error), error.retryAfter);
      }
      const goodbye = this.#goodbye;
      if (goodbye && !signal.aborted) return this.#events.end(goodbye.code ?? 1001, goodbye.reason ?? "");
    }
  }

  /**
   * The channels in the URL, or where that would be too long for what is in between, in a body.
   *
   * @param {string} path @param {[string, string | null][]} channels @param {Record<string, any>} rest
   * @param {AbortSignal} signal @returns {Promise<any>}
   */
  #ask(path, channels, rest, signal) {
    const query = new URLSearchParams(rest);
    for (const [channel, cursor] of channels) {
      query.append("channel", channel);
      if (!rest.after) query.append("after", cursor ?? "");
    }
    const url = `${path}?${query}`;
    const headers = { Accept: this.polling ? "application/json" : "text/event-stream" };
    if (url.length <= LONGEST_URL) return this.#requests.fetch("GET", url, { signal, headers });
    const list = channels.map(([channel, after]) => (rest.after ? { channel } : { channel, after }));
    return this.#requests.fetch("POST", path, { signal, headers, body: { channels: list, ...rest } });
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
    wait(this.#patience);
    try {
      const response = await this.#ask("/v1/events", [...this.#cursors], {}, attempt.signal);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        // What still comes after the end is not heard: the next stream asks for it, from where we are now.
        if (done || attempt.signal.aborted) break;
        // What is told in the moment (who comes and goes) was not heard until now.
        if (!opened) for (const channel of this.#cursors.keys()) this.#events.push({ type: "listening", channel });
        opened = true;
        this.#events.heard();
        wait(STREAM_QUIET);
        const events = (rest + value).split("\n\n");
        rest = /** @type {string} */ (events.pop());
        for (const event of events) this.#read(event);
      }
    } catch (error) {
      if (!attempt.signal.aborted) throw error;
      // Something on the way keeps the stream to itself.
      if (!opened && !signal.aborted && !this.#mayPoll) throw error;
      if (!opened && !signal.aborted) this.polling = true;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      abort(); // the body of a response that is read no further would be kept
    }
    if (opened && !this.#goodbye && !signal.aborted) await pause(Math.random() * 1000); // a proxy's time limit, perhaps
  }

  /** @param {string} event */
  #read(event) {
    const data = event.split("\n").find((line) => line.startsWith("data: "));
    if (data) this.#deliver(JSON.parse(data.slice("data: ".length)));
  }

  /** One long poll. @param {AbortSignal} signal */
  async #poll(signal) {
    const channels = [...this.#cursors].filter(([, cursor]) => cursor !== null);
    if (!channels.length) return pause(1000);
    const rest = { wait: POLL_SECONDS, ...(this.#place ? { after: this.#place } : {}) };
    const limit = AbortSignal.timeout(POLL_SECONDS * 1000 + this.#patience);
    const response = await this.#ask("/v1/poll", channels, rest, AbortSignal.any([signal, limit]));
    const { messages, amends = [], gaps, cursor: place } = await response.json();
    if (signal.aborted) return; // the next one asks for them, from where we are now
    for (const gap of gaps) this.#deliver({ type: "gap", ...gap });
    const pushes = amends.length ? [...messages, ...amends].sort((one, other) => one.offset - other.offset) : messages;
    for (const push of pushes) this.#deliver(push);
    this.#place = place;
    this.#events.heard();
  }

  /** @param {any} push */
  #deliver(push) {
    const { where, snapshot } = this.#views.get(push.channel) ?? {};
    if (push.type === "disconnect") this.#goodbye = push;
    // Seen by `subscribe`.
    if (push.type === "gap" && snapshot) return this.#events.end(1006, "a copy has to begin anew");
    if (push.type === "unsubscribed") this.#forget(push.channel);
    else if (typeof push.cursor === "string" && this.#cursors.has(push.channel))
      this.#cursors.set(push.channel, push.cursor);
    const document = push.data?.document;
    if (push.type === "message" && where && document && !document._truncated && !matches(document, where)) {
      push = { ...push, data: { op: "delete", id: push.data.id, rev: null, document: null } };
    }
    this.#events.push(push);
  }
}
