/** A channel, as a client of it sees it. @module */

import { Outbox } from "./outbox.js";
import { Members } from "./presence.js";
import { Timeline } from "./timeline.js";
import { Amendable } from "./amending.js";
import { complain, deferred, handled, jitter, LOST, plain, randomKey, WaterspoutError } from "./tools.js";

const UNSUBSCRIBED = { code: "closed", reason: "unsubscribed" };

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {import("../waterspout.js").Message} Message */
/** @typedef {ReturnType<typeof deferred>} Deferred */

/**
 * A channel: what comes from it and what goes to it.
 *
 * Events: the server's pushes by their type, `message`, `gap {from, to, reason}` (these messages are gone for good),
 * `dropped {count}`, `amend {of, op, data}`, `join {user}`, `leave {user}`, `snapshot`, `progress`…; and `subscribed {cursor, head, recovered, resumed}`, `live {count, resumed}`
 * (caught up, after so many messages), `ended` (a WaterspoutError: the server has ended the subscription or refuses it;
 * with the code `closed` the whole client, and `connect` goes on with it).
 */
export class Channel extends Amendable {
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
  /** The cursor is the storage's, and the server has not taken it yet. */
  #kept = false;
  /** Where delivery starts behind a gap that is announced but not handed on yet. @type {string | null} */
  #behindGap = null;
  /** `subscribe` is under way. */
  #asking = false;
  /** The server makes the subscription by itself, on each connection. */
  #served = false;
  /** `unsubscribe` is under way. @type {Promise<void> | null} */
  #leaving = null;
  /** Wanted again before that was done. @type {(Deferred & {options: object}) | null} */
  #again = null;
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #outbox;
  /** @type {Members | null} */
  #members = null;
  /** Whether somebody listens to it, and to its members. */
  #listenedTo = [false, false];

  /** @param {Waterspout} client @param {string} name */
  constructor(client, name) {
    super(client, name);
    this.#client = client;
    this.#outbox = new Outbox(client, () => this.#note());
    /** The position behind what was handed on: opaque, good on every transport. @type {string | null} */
    this.cursor = null;
  }

  get state() {
    return this.#state;
  }

  /**
   * Start delivery: after a cursor, with the newest `last` messages, or from now on; after an `unsubscribe`, and where
   * the client's `storage` knows a cursor, by default where it stopped. Resolves with the server's first reply, and
   * goes on through every loss until `unsubscribe`. A refusal is told by `ended` as well.
   *
   * @param {{after?: string, last?: number, where?: object, snapshot?: boolean, conflate?: number, threads?: boolean}}
   *   [options]  `where`, `snapshot` and `conflate` for documents, `docs:…`, `threads` for `$rooms`
   * @returns {Promise<{cursor?: string | null, head?: string, recovered?: boolean, snapshot?: boolean}>}
   */
  subscribe({ after, ...options } = {}) {
    if (this.#leaving) {
      this.#again ??= { options: { after, ...options }, ...deferred() };
      return handled(this.#again.promise);
    }
    if (this.#first) return this.#first.promise;
    try {
      const { after: _, ...wanted } = plain({ channel: this.name, after, ...options });
      this.#wanted = wanted;
    } catch (/** @type {any} */ error) {
      const first = deferred();
      queueMicrotask(() => this.#tell(error, first)); // who has called has not had time to listen
      return first.promise;
    }
    if (after !== undefined) this.cursor = after;
    else if (!this.#client.options.storage) this.cursor = options.last === undefined ? this.cursor : null;
    // A copy of documents is not kept with its cursor, so it begins with a new one. Other tabs write what they have
    // handed on, so where this one stopped goes first.
    else if (!options.snapshot && this.cursor === null) {
      this.cursor = this.#client._cursors.get(this.name);
      this.#kept = this.cursor !== null;
    }
    this.#state = "joining";
    const { promise } = (this.#first = deferred());
    this.#note();
    this.#ask();
    return promise;
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
   * With `at` (seconds since 1970, or a date and time with its zone) it is accepted now and published then: the answer has
   * `scheduled`, for `client.cancel`.
   *
   * @param {{key?: string, tag?: string, echo?: boolean, ephemeral?: boolean, at?: number | string, mentions?: string[],
   *   broadcast?: boolean}} [options]
   * @returns {Promise<{offset?: number, cursor?: string, duplicate?: boolean, scheduled?: string, at?: number}>}
   */
  async publish(data, { key = randomKey(), ...options } = {}) {
    if (options.ephemeral) return this.#client._once("publish", { channel: this.name, data, ...options });
    // Copied before anything else: the caller may change the object, and a retry with other data would be a conflict.
    const published = this.#outbox.put(plain({ channel: this.name, key, data, ...options }));
    this.#note();
    return published;
  }

  /** The messages as they are shown: merged, live, and edited at once. */
  timeline() {
    return new Timeline(this);
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
    const wanted = () => this.#wanted !== null && !this.#leaving;
    link.send("subscribe", from, (error, reply) => this.#answer(error, reply), wanted);
  }

  /** @param {WaterspoutError | null} error @param {any} reply */
  #answer(error, reply) {
    this.#asking = false;
    if (error?.code === LOST.code || !this.#wanted) return; // asked again by `_opened`
    if (error?.retry) {
      const pause = error.retryAfter ?? jitter(this.#attempt++, 0.2, 5);
      this.#timer = setTimeout(() => this.#ask(), pause * 1000);
      return;
    }
    if (error && this.#kept && error.code === "bad_request") {
      this.#client._cursors.refuse(this.name, error.reason);
      this.#kept = false;
      this.cursor = null;
      return this.#ask();
    }
    if (error) return this.#end(error, true);
    this.#attempt = 0;
    this.#begin(reply);
  }

  /** The subscription is there. @param {any} reply  of the server, or its push */
  #begin(reply) {
    this.#kept = false;
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

  /** @param {WaterspoutError} error @param {boolean} [unasked]  by the server */
  #end(error, unasked = false) {
    clearTimeout(this.#timer);
    const first = this.#first;
    this.#wanted = null;
    this.#served = false;
    this.#state = "idle";
    this.#first = null;
    if (unasked) this.#tell(error, first);
    else if (first) {
      handled(first.promise);
      first.reject(error);
    }
    this.#note();
    this.#client._settle();
  }

  /** By `ended`, by the promise of `subscribe`, or, where nobody has either, on the console.
   *
   * @param {WaterspoutError} error @param {Deferred | null} first */
  #tell(error, first) {
    const heard = this._heard("ended");
    if (heard && first) handled(first.promise);
    if (!heard && !first) complain(this.name, error.message);
    this.emit("ended", error);
    first?.reject(error);
  }

  /** To be held by the client, or to be forgotten by it. */
  #note() {
    const used = this.#wanted !== null || this.#leaving !== null || this.#listenedTo.includes(true);
    this.#client._channels.note(this, used || !this.#outbox.empty);
  }

  // --- what its parts and the connection call -----------------------------------------------------------------------

  /** @protected @param {boolean} now */
  _listenedTo(now) {
    this.#listenedTo[0] = now;
    this.#note();
  }

  /** @internal @param {boolean} now */
  _membersListenedTo(now) {
    this.#listenedTo[1] = now;
    this.#note();
  }

  /** @internal @param {any} push */
  _take(push) {
    // What comes before the reply is of a subscription of the server's, whose place ours takes.
    if (!this.#wanted || (this.#state === "joining" && !this.#served)) return;
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
    if (this.#state === "joining" && !this.#served) this.#ask(); // a listener of `open` may have been quicker
    this.#outbox.flush();
  }

  /** The server has subscribed us. That does not count if we want to do so ourselves.
   *
   * @internal @param {any} push @param {() => void} tell  who may want to listen */
  _serve({ type, channel, grant, ...reply }, tell) {
    if (this.#leaving || (this.#wanted && !this.#served)) return;
    // With a grant we come back by ourselves, else we are subscribed again as we connect.
    this.#served = grant === undefined;
    this.#resumed = this.#wanted !== null;
    this.#wanted = { channel: this.name, grant };
    if (!this.#first) handled((this.#first = deferred()).promise);
    this.#note();
    tell();
    this.#begin(reply);
  }

  /** Where we are in what the server subscribes us to as we connect; null: it does not. @internal */
  get _place() {
    return this.#served ? (this.cursor ?? "") : null;
  }

  /** @internal */
  _lost() {
    if (this.#wanted) this.#state = "joining";
    this.#behindGap = null;
    this.#outbox.lost();
  }

  /**
   * The client is closed: `unasked`, by the server; `heard`, and somebody listens to that. The subscription stays wanted,
   * should somebody call `connect`.
   *
   * @internal @param {WaterspoutError} error @param {boolean} unasked @param {boolean} heard
   */
  _closed(error, unasked, heard) {
    clearTimeout(this.#timer);
    this.#outbox.close(error);
    if (!this.#wanted) return;
    this.#state = "joining";
    const first = this.#first;
    this.#first = deferred();
    handled(this.#first.promise);
    if (!unasked || heard || this._heard("ended")) handled(first?.promise ?? Promise.resolve());
    first?.reject(error);
    if (unasked) this.emit("ended", error);
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
