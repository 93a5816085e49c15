/** A channel's messages as they are shown: merged, live, and changed by whoever may. @module */

import { appended, writing } from "./amending.js";
import { Reactions } from "./reacting.js";
import { Emitter, randomKey } from "./tools.js";

/** @typedef {import("./channel.js").Channel} Channel */
/** @typedef {import("../waterspout.js").Message} Message */
/**
 * A message with what has become of it, and with what this client wants of it but does not know to be stored yet: then
 * it is `pending`. What is being sent has no `offset`; what was refused has an `error`.
 *
 * @typedef {Partial<Message> & {key: string, data: any, pending?: boolean, error?: any}} Shown
 */

/** `stored`: where the amendment is, once that is known. @typedef {{changed: (message: any) => any, stored: number}} Wish */

/** Messages to begin with, and in a page of older ones. */
const PAGE = 50;
/** Milliseconds that the push of what is stored may take. */
const LATE = 3000;

/**
 * The list of a channel's messages, oldest first, and behind them what is being sent. It follows every push, and what
 * this client does shows at once: what the server refuses is taken back.
 *
 * Events: `change` after every change of `messages`; `refused` with {error, message} when an edit, an erasure, a pin
 * or a reaction was taken back.
 */
export class Timeline extends Emitter {
  #channel;
  /** By offset, as the server has them. @type {Map<number, any>} */
  #known = new Map();
  /** What is wanted of messages and not answered yet, by offset, in order. @type {Map<number, Wish[]>} */
  #wanted = new Map();
  /** By key. @type {Map<string, Shown>} */
  #sending = new Map();
  /** @type {Shown[] | null} */
  #shown = null;
  /** Where older messages begin to be missing. @type {string | null} */
  #oldest = null;
  #told = false;
  /** What becomes of messages while pages of them are on their way. @type {Set<any[]>} */
  #meanwhile = new Set();
  #reactions;
  /** Of messages that were answered, the `at` of what is shown of that. @type {Map<number, number>} */
  #counted = new Map();
  /** The newest offset that was pushed. */
  #seen = 0;
  /** @type {(() => boolean)[]} */
  #off;

  /** Whether there are older messages than those shown; null until it is known. @type {boolean | null} */
  more = null;

  /** @param {Channel} channel */
  constructor(channel) {
    super();
    this.#channel = channel;
    this.#reactions = new Reactions(channel, () => channel._user, () => this.#changed());
    this.#off = [
      channel._hear("message", (push) => push.offset !== undefined && this.#take(push)),
      channel._hear("amend", (push) => this.#amend(push)),
      channel._hear("gap", (gap) => this.#lose(gap)),
      channel._hear("room", () => this.#changed()),
    ];
  }

  get channel() {
    return this.#channel;
  }

  /** What there is, oldest first. The list is a new one after each change. @returns {Shown[]} */
  get messages() {
    this.#shown ??= [
      ...[...this.#known.values()].sort((one, other) => one.offset - other.offset).map((one) => this.#asWanted(one)),
      ...this.#sending.values(),
    ];
    return this.#shown;
  }

  /**
   * Begin, with the newest messages; the channel's `subscribe`.
   *
   * @param {{last?: number}} [options]
   */
  start({ last = PAGE } = {}) {
    return this.#channel.subscribe({ last });
  }

  /** What is shown no longer follows the channel, whose subscription stays as it is. */
  close() {
    for (const off of this.#off.splice(0)) off();
  }

  /** How many messages are unread, as `client.rooms` knows it (of a thread with `threads`); null where it does not. */
  get unread() {
    return this.#channel._row?.unread ?? null;
  }

  /** Whether the channel is among the user's own: of a thread, whether it is followed. null: nobody knows (yet). */
  get following() {
    const row = this.#channel._row;
    return row === undefined ? null : row !== null;
  }

  /** Follow the thread: it is among one's rooms then. Whoever answers does so anyway. */
  follow() {
    return this.#channel.join();
  }

  /** No more. */
  unfollow() {
    return this.#channel.leave();
  }

  /** It is read, by default up to where we are; as the channel's. Refused for who does not follow: to read is not to follow.
   *
   * @param {string | null} [cursor] @param {{set?: boolean}} [options] */
  markRead(cursor, options) {
    return this.#channel.markRead(cursor, options);
  }

  /** The page before the oldest message. Resolves with whether there are more. @param {number} [limit] @returns {Promise<boolean>} */
  async loadOlder(limit = PAGE) {
    const oldest = this.#oldest;
    /** @type {any[]} */
    const meanwhile = [];
    this.#meanwhile.add(meanwhile);
    const asked = this.#channel.history(oldest === null ? { limit } : { before: oldest, limit });
    const page = await asked.finally(() => this.#meanwhile.delete(meanwhile));
    if (oldest !== this.#oldest) return this.more ?? true; // begun anew meanwhile
    for (const message of page.messages) this.#put(message);
    this.#reactions.learn(page.mine, page.messages);
    for (const push of meanwhile) this.#apply(push);
    if (page.messages.length) this.#oldest = page.messages[0].cursor;
    this.more = page.more;
    this.#changed();
    return page.more;
  }

  /**
   * Publish; it is shown at once. As the channel's `publish`; what is refused stays in the list with its `error`, until
   * it is sent `again` or `discard`ed.
   *
   * @param {any} data @param {{key?: string, mentions?: string[], broadcast?: boolean}} [options]
   */
  async send(data, { key = randomKey(), ...options } = {}) {
    const message = { type: "message", channel: this.#channel.name, key, data, ...options };
    this.#sending.set(key, { ...message, pending: true });
    this.#changed();
    try {
      return await this.#channel.publish(data, { key, ...options });
    } catch (error) {
      if (this.#sending.has(key)) {
        this.#sending.set(key, { ...message, error });
        this.#changed();
      }
      throw error;
    }
  }

  /** @param {string} key  of a message that was refused */
  again(key) {
    const { data, mentions, broadcast } = this.#sending.get(key) ?? {};
    return this.send(data, { key, ...(mentions && { mentions }), ...(broadcast && { broadcast }) });
  }

  /** @param {string} key  of a message that was refused */
  discard(key) {
    if (this.#sending.delete(key)) this.#changed();
  }

  /** Shown at once, and taken back if it is refused. @param {number} offset @param {any} data */
  edit(offset, data) {
    return this.#want(offset, (message) => ({ ...message, data, edited: true }), this.#channel.edit(offset, data));
  }

  /**
   * Write on, piece by piece: a stream of text that goes behind the message, until it is closed. It is shown as it comes
   * back from the server. Nothing is told by `refused`: it is the stream's error.
   *
   * @param {number | {offset?: number}} message  or its offset @returns {WritableStream<string>}
   */
  append(message) {
    return writing(this.#channel, offsetOf(message));
  }

  /** Erase it for everybody, for good. @param {number} offset */
  remove(offset) {
    return this.#want(offset, (message) => ({ ...message, data: null, deleted: {} }), this.#channel.remove(offset));
  }

  /** @param {number} offset @param {boolean} [pinned] */
  pin(offset, pinned = true) {
    return this.#want(offset, (message) => ({ ...message, pinned }), this.#channel.pin(offset, pinned));
  }

  /** React to a message: shown at once, and taken back if it is refused. @param {number | {offset?: number}} message  or its offset
   * @param {string} kind */
  react(message, kind) {
    return this.#react(message, kind, true);
  }

  /** Take one's reaction back; as `react`. @param {number | {offset?: number}} message @param {string} kind */
  unreact(message, kind) {
    return this.#react(message, kind, false);
  }

  /**
   * What answers a message, as a timeline of its own: `start` it, and `close` it. A message that was published in a
   * thread as well has that one.
   *
   * @param {number | {offset?: number, thread?: string}} message  or its offset @returns {Timeline}
   */
  thread(message) {
    const thread = typeof message === "object" && message.thread;
    const [, offset, ...parent] = thread ? thread.split(":") : [];
    const own = thread && parent.join(":") === this.#channel.name;
    return this.#channel.thread(own ? Number(offset) : offsetOf(message)).timeline();
  }

  /** @param {number | {offset?: number}} message @param {string} kind @param {boolean} on */
  async #react(message, kind, on) {
    const offset = offsetOf(message);
    try {
      const asked = on ? this.#channel.react(offset, kind) : this.#channel.unreact(offset, kind);
      return await this.#reactions.want(offset, kind, on, asked);
    } catch (error) {
      this.emit("refused", { error, message: this.#known.get(offset) });
      throw error;
    }
  }

  /** @template T @param {number} offset @param {(message: any) => any} changed @param {Promise<T>} asked @returns {Promise<T>} */
  async #want(offset, changed, asked) {
    const wish = { changed, stored: Infinity };
    this.#wanted.set(offset, [...(this.#wanted.get(offset) ?? []), wish]);
    this.#changed();
    try {
      /** @type {any} */
      const reply = await asked;
      // The push that says so has come already, or comes next: until then it is shown as it was wanted.
      wish.stored = reply.offset;
      setTimeout(() => this.#settle(offset, reply.offset), LATE);
      this.#settle(offset, this.#seen);
      return reply;
    } catch (error) {
      wish.stored = 0;
      this.#settle(offset, 0);
      this.emit("refused", { error, message: this.#known.get(offset) });
      throw error;
    }
  }

  /** Of a message, what was wanted of it and is stored up to there. @param {number} offset @param {number} upto */
  #settle(offset, upto) {
    const wanted = this.#wanted.get(offset) ?? [];
    const left = wanted.filter(({ stored }) => stored > upto);
    if (left.length === wanted.length) return;
    if (left.length) this.#wanted.set(offset, left);
    else this.#wanted.delete(offset);
    this.#changed();
  }

  /** @param {any} message @returns {Shown} */
  #asWanted(message) {
    const wanted = this.#wanted.get(message.offset);
    const reacted = this.#reactions.shown(message);
    if (!wanted || message.deleted) return reacted;
    return { ...wanted.reduce((shown, { changed }) => changed(shown), reacted), pending: true };
  }

  /** @param {any} message */
  #take(message) {
    this.#seen = message.offset;
    if (this.#oldest === null) {
      this.#oldest = message.cursor;
      this.more = message.offset > 1;
    }
    this.#sending.delete(message.key);
    this.#put(message);
    this.#reactions.put(message);
    this.#changed();
  }

  /** The newer of the two. @param {any} message */
  #put(message) {
    const known = this.#known.get(message.offset);
    if (!known || (message.version ?? 0) >= (known.version ?? 0)) this.#known.set(message.offset, message);
  }

  /** @param {any} push */
  #amend(push) {
    this.#seen = push.offset;
    this.#settle(push.of, push.offset);
    for (const pushes of this.#meanwhile) pushes.push(push);
    this.#apply(push);
    this.#changed();
  }

  /** @param {any} push */
  #apply(push) {
    const { of, op, data, user, time, version, edited = true } = push;
    const message = this.#known.get(of);
    if (!message || message.deleted) return;
    if (op === "delete") {
      const { edited: _, pinned: __, mentions: ___, reactions: ____, replies: _____, ...rest } = message;
      this.#reactions.forget(of);
      this.#known.set(of, { ...rest, data: null, version, deleted: { user, time } });
    } else if (op === "pin") this.#known.set(of, { ...message, pinned: data });
    else if (op === "reactions") this.#known.set(of, this.#reactions.counted(message, push));
    else if (op === "replies") {
      if (push.at <= (this.#counted.get(of) ?? 0)) return;
      this.#counted.set(of, push.at);
      this.#known.set(of, { ...message, replies: push.replies.count ? push.replies : undefined });
    } else if (version <= (message.version ?? 0)) return;
    else if (op === "edit") this.#known.set(of, { ...message, data, version, ...(edited ? { edited } : {}) });
    else if (op === "append") this.#known.set(of, { ...message, data: appended(message.data, data), version });
  }

  /** Trimmed, or another history altogether. @param {any} gap */
  #lose({ from, to }) {
    for (const offset of this.#known.keys()) {
      if (from !== null && offset > to) continue;
      this.#known.delete(offset);
      this.#counted.delete(offset);
      this.#reactions.forget(offset);
    }
    if (from === null) {
      this.#oldest = this.more = null;
      this.#seen = 0;
    } else if (!this.#known.size) this.#oldest = null;
    this.#changed();
  }

  /** Told once, however much comes at once. */
  #changed() {
    this.#shown = null;
    if (this.#told) return;
    this.#told = true;
    queueMicrotask(() => {
      this.#told = false;
      this.emit("change");
    });
  }
}

/** @param {number | {offset?: number}} message  or its offset */
function offsetOf(message) {
  const offset = typeof message === "number" ? message : message.offset;
  if (offset === undefined) throw new TypeError("the message is not stored yet");
  return offset;
}
