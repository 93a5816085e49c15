/** The way to the server where a WebSocket does not get through: plain HTTP. @module */

import { me, myRooms, roomCommand } from "./http-rooms.js";
import { Link } from "./link.js";
import { Listening } from "./listening.js";
import { expiry, Requests, segment, subscriptions, Unanswered } from "./requests.js";
import { WaterspoutError } from "./tools.js";

const MAX_CHANNELS = 128;
/** What is carried out in order. @type {Record<string, string | undefined>} */
const LANES = {
  publish: "publish",
  amend: "publish",
  subscribe: "subscribe",
  unsubscribe: "subscribe",
  join: "subscribe",
  leave: "subscribe",
  member: "subscribe",
  get: "document",
  put: "document",
  patch: "document",
  delete: "document",
};

/** Commands as requests; what comes, by event stream or, where a proxy holds that back, by long polls. */
export class HttpLink extends Link {
  #requests;
  #listening;
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
   * @param {import("./link.js").Events} events
   */
  constructor(base, transports, patience, events) {
    super(patience, events);
    this.#requests = new Requests(base, this._patience);
    this.#listening = new Listening(this.#requests, transports, this._patience, {
      push: (push) => this._take(push),
      heard: () => void (this._heard = performance.now()),
      end: (code, reason, delay) => this.end(code, reason, delay),
    });
    setTimeout(() => events.open());
  }

  get transport() {
    return this.#listening.polling ? "poll" : "sse";
  }

  /** Every request has a limit of its own, and some commands wait for others. */
  get deadline() {
    return Infinity;
  }

  /** They have to wait for each other in any case, and so not even a refusal changes their order. */
  get window() {
    return 1;
  }

  _close() {
    this.#requests.close();
    this.#listening.close();
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
      if (type === "connect" || type === "refresh") void this.#serve(fields.token, fields.after ?? {});
    } catch (/** @type {any} */ error) {
      if (error.code === "token_expired") this.end(4002, error.reason);
      else if (error.code === "unauthenticated") this.end(4500, error.reason);
      else if (error instanceof Unanswered) this.end(1006, error.message);
      // Whatever else it is, it is this command's own, and no reason to leave.
      else if (!(error instanceof WaterspoutError))
        this._take({ type: "error", id, code: "bad_request", reason: String(error) });
      else {
        const { code, reason, retry, retryAfter, rev, details } = error;
        this._take({ type: "error", id, code, reason, retry, retry_after: retryAfter, rev, details });
      }
    }
  }

  /** @param {string} type @param {any} fields @param {any[]} pushes  to be handed on behind the reply @returns {Promise<any>} */
  async #carryOut(type, fields, pushes) {
    const { channel, collection, document_id: id } = fields;
    const requests = this.#requests;
    const path = channel === undefined ? "" : `/v1/channels/${segment("channel", channel)}`;
    const document = documents(collection) + (id === undefined ? "" : `/${segment("document_id", id)}`);
    switch (type) {
      case "connect":
        requests.token = fields.token;
        return { ...(await requests.json("GET", "/healthz")), user: me(requests), expires: expiry(fields.token) };
      case "refresh":
        requests.token = fields.token;
        void this.#listening.begin(); // a stream ends with the token that it was opened with
        return { expires: expiry(fields.token) };
      case "ping":
        return requests.json("GET", "/healthz");
      case "subscribe":
        return this.#subscribe(fields, pushes);
      case "unsubscribe":
        this.#listening.leave(channel);
        return {};
      case "publish": {
        const { key, data, tag, ephemeral, at, mentions, broadcast } = fields;
        const body = { key, data, tag, ephemeral, at, mentions, broadcast };
        const { id: scheduled, ...reply } = await requests.json("POST", `${path}/messages`, { body });
        return { scheduled, ...reply };
      }
      case "cancel":
        await requests.json("DELETE", `/v1/scheduled/${segment("scheduled", fields.scheduled)}`);
        return {};
      case "amend": {
        const { of, op, data, key } = fields;
        const one = `${path}/messages/${of}`;
        if (op === "delete") return requests.json("DELETE", one, { headers: { "Idempotency-Key": key } });
        const { part, done } = fields;
        const body = op === "edit" ? { data } : op === "pin" ? { pin: data } : { append: data, part, done };
        return requests.json("PATCH", one, { body: { key, ...body } });
      }
      case "react": {
        const one = `${path}/messages/${fields.of}/reactions/${segment("kind", fields.kind)}`;
        return requests.json(fields.on ? "PUT" : "DELETE", one);
      }
      case "call": {
        const { method, data, key } = fields;
        const path = `/v1/call/${segment("method", method)}`;
        return requests.json("POST", path, { body: { data, key }, patient: true });
      }
      case "fetch":
      case "ack":
      case "nack": {
        const { consumer, ...body } = fields;
        const path = `/v1/consumers/${segment("consumer", consumer)}/${type}`;
        return requests.json("POST", path, { body, patient: type === "fetch" });
      }
      case "history": {
        const { after, before, limit } = fields;
        return requests.json("GET", `${path}/messages`, { query: { after, before, limit } });
      }
      case "search": {
        const { q, channels: channel, after, limit } = fields;
        return requests.json("GET", "/v1/search", { query: { q, channel, after, limit } });
      }
      case "presence":
        return requests.json("GET", `${path}/presence`, { query: { left: fields.left } });
      case "get":
        return { document: await requests.json("GET", document) };
      case "find": {
        const { collection: _, where, ...query } = fields;
        return requests.json("GET", document, { query: { where: asJson(where), ...query } });
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
        return { document: await requests.json(method, document, { body, headers }) };
      }
      default: {
        const reply = roomCommand(requests, type, fields);
        if (reply === undefined) throw new WaterspoutError({ code: "bad_request", reason: `${type}: only over WebSocket` });
        return reply;
      }
    }
  }

  /** As over a WebSocket, what the token subscribes to needs no command.
   *
   * @param {string | undefined} token @param {Record<string, string>} after */
  async #serve(token, after) {
    for (const [channel, start] of Object.entries(subscriptions(token))) {
      if (this.over || this.#listening.has(channel)) continue;
      /** @type {any[]} */
      const pushes = [];
      try {
        const from = after[channel] ? { after: after[channel] } : { ...start };
        const reply = await this.#subscribe({ channel, ...from }, pushes);
        this._take({ ...reply, type: "subscribed", channel });
        for (const push of pushes) this._take(push);
      } catch (/** @type {any} */ error) {
        if (error instanceof Unanswered) return this.end(1006, error.message);
        this._take({ type: "unsubscribed", channel, code: error.code, reason: error.reason });
      }
    }
  }

  /** @param {any} fields @param {any[]} pushes */
  async #subscribe({ channel, after, last, where, snapshot, threads }, pushes) {
    const listening = this.#listening;
    if (listening.size >= MAX_CHANNELS && !listening.has(channel)) {
      throw new WaterspoutError({ code: "limit_exceeded", reason: `${MAX_CHANNELS} channels over plain HTTP` });
    }
    if (channel === "$rooms") {
      pushes.push(...(await myRooms(this.#requests, threads)));
      listening.followRooms(threads);
      return {};
    }
    const path = `/v1/channels/${segment("channel", channel)}/messages`;
    const query = { after, limit: after === undefined && last ? last : 1 };
    let page;
    try {
      page = await this.#requests.json("GET", path, { query });
    } catch (/** @type {any} */ error) {
      // It has no history to ask for, and can be listened to all the same: in a stream, not by asking now and then.
      if (listening.polling || !/ is ephemeral/.test(error.reason) || after !== undefined || last !== undefined)
        throw error;
      listening.follow(channel, null);
      return {};
    }
    const { head, gap, messages } = page;
    const view = { where, snapshot };
    // The changes are selected here, so nobody has looked yet whether this is a `where`.
    if (where && !snapshot) await this.#find(channel, where, { limit: 1 });
    if (after !== undefined && !(snapshot && gap)) {
      listening.follow(channel, after, view); // the gap itself is the stream's to tell
      return { cursor: gap && !messages.length ? head : after, head, recovered: gap === null, snapshot: false };
    }
    if (snapshot) {
      pushes.push(...(await this.#snapshot(channel, where, head)));
      listening.follow(channel, head, view);
      return { cursor: null, head, recovered: true, snapshot: true };
    }
    // A page may be shorter than what was asked for.
    while (last && messages.length && messages.length < last && page.more) {
      const rest = { before: messages[0].cursor, limit: last - messages.length };
      page = await this.#requests.json("GET", path, { query: rest });
      messages.unshift(...page.messages);
    }
    if (last) pushes.push(...messages);
    // Behind the last message there may be what has become of others; that is in them already.
    if (last && messages.length && messages.at(-1).cursor !== head)
      pushes.push({ type: "progress", channel, cursor: head });
    listening.follow(channel, head, view);
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
    return this.#requests.json("GET", documents(collection), { query: { where: asJson(selection), ...query } });
  }
}

/** @param {string | undefined} collection */
const documents = (collection) => `/v1/documents/${collection === undefined ? "" : segment("collection", collection)}`;
/** @param {any} value */
const asJson = (value) => (value === undefined || value === null ? undefined : JSON.stringify(value));
