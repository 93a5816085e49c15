/** A room, as this tab knows it. @module */

import { forget, recall, remember } from "../page.js";
import { Reactions } from "../waterspout/reacting.js";
import { amended } from "./amended.js";
import { Sender } from "./outgoing.js";
import { Typing } from "./typing.js";
import { offsetOf, readMessage } from "./words.js";

/** @typedef {import("./transcript.js").Entry} Entry */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("../waterspout.js").Channel} Channel */

const PAGE = 50;
/** Pages of the past that are read to come to a message. */
const DEEPEST = 40;
/** Entries of a room that nobody looks at; scrolling up brings older ones back from the server. */
const UNSEEN = 400;
/** How many entries a tab remembers of a room over a reload. */
const REMEMBERED = 100;

/**
 * What this tab knows of a room: its newest messages, the cursor behind them, and what it has still to send there. All
 * of that is kept in the session's storage in one piece, so that a reloaded tab continues exactly where it was.
 */
export class Room {
  /** @type {Entry[]} */
  entries = [];
  /** @type {string | null} */
  cursor = null;
  /** Whether older messages may be had; null until it is known. @type {boolean | null} */
  more = null;
  /** Messages that nobody has seen here yet. */
  unread = 0;
  /** Others' messages that came while it caught up. */
  caughtUp = 0;
  /** What one may do here, what the channel can do, and which role one has; empty until the server has said so. */
  may = new Set();
  has = new Set();
  /** @type {string | null} */
  role = null;
  /** Whether the server has said that. */
  known = false;
  /** @type {import("../waterspout.js").Receipts | null} */
  readers = null;
  /** It is to stay unread until it is entered again. */
  kept = false;
  /** @type {(() => void)[]} */
  #off;
  #entered = false;
  #marked = false;
  #loading = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #saving;

  /** @param {string} name @param {Channel} channel @param {import("./chat.js").Page} page */
  constructor(name, channel, page) {
    this.name = name;
    this.channel = channel;
    this.page = page;
    this.reactions = new Reactions(channel, () => page.me, () => this.#dressAll());
    this.typing = new Typing(channel, () => page.typing(this));
    this.sender = new Sender(channel, {
      changed: (message) => {
        this.#saveSoon();
        page.outgoing(this, message);
      },
      save: () => this.save(),
    });
    this.#restore();
    this.#off = [
      channel.on("subscribed", ({ resumed }) => (this.#marked = !resumed)),
      channel.on("message", (push) => (push.offset === undefined ? this.typing.take(push) : this.#take(push))),
      channel.members().on("change", () => page.present(this)),
      channel.on("amend", (push) => this.#amend(push)),
      channel.on("gap", (gap) => this.#takeGap(gap)),
      channel.on("live", (event) => page.caughtUp(this, event)),
      channel.on("subscribed", () => this.#followReaders()),
      channel.on("ended", (error) => page.ended(this, error)),
    ];
    this.sender.resume();
  }

  #restore() {
    const kept = recall("sessionStorage", `room.${this.name}`);
    if (!kept || !Array.isArray(kept.entries) || !Array.isArray(kept.outgoing)) return;
    this.entries = kept.entries;
    this.cursor = kept.cursor;
    this.more = kept.more;
    this.sender.restore(kept);
  }

  save() {
    if (!this.#off.length) return; // left
    clearTimeout(this.#saving);
    this.#saving = undefined;
    const { entries, cursor, more } = this;
    const trimmed = entries.length > REMEMBERED;
    remember("sessionStorage", `room.${this.name}`, {
      entries: entries.slice(-REMEMBERED),
      cursor,
      more: more || trimmed,
      ...this.sender.kept,
    });
  }

  /** Messages come by the thousand while one catches up. What is not saved yet is only read again after a reload. */
  #saveSoon() {
    this.#saving ??= setTimeout(() => this.save(), 300);
  }

  enter() {
    if (this.#entered) return;
    this.#entered = true;
    this.channel.subscribe(this.cursor === null ? { last: PAGE } : { after: this.cursor });
  }

  /** For good: nothing of it is kept. */
  leave() {
    for (const off of this.#off.splice(0)) off();
    void this.channel.unsubscribe();
    clearTimeout(this.#saving);
    forget("sessionStorage", `room.${this.name}`);
  }

  /** @param {any} push */
  #take(push) {
    this.reactions.put(push);
    const message = this.#read(push);
    if (this.channel.state === "replaying" && !message.mine) this.caughtUp++;
    if (this.channel.state === "replaying" && !this.#marked && !message.mine) {
      this.#marked = true;
      this.#add({ line: "While you were away", kind: "away" });
    } else if (!message.mine && !this.unread && !this.page.sees(this)) {
      this.#mark();
    }
    if (!message.mine && !this.page.sees(this)) this.unread++;
    this.typing.ended(message.name);
    this.sender.messages.delete(message.key);
    this.cursor = message.cursor;
    if (this.more === null) this.more = message.offset > 1;
    this.#add(message);
    if (!message.mine) this.page.heard(this);
  }

  /** @param {any} push */
  #amend(push) {
    this.cursor = push.cursor;
    this.#saveSoon();
    const index = this.entries.findIndex((entry) => "offset" in entry && entry.offset === push.of);
    const entry = /** @type {Message | undefined} */ (this.entries[index]);
    const changed = entry && amended(entry, push, this.reactions, (change) => this.#read({ ...entry, ...change }));
    if (changed) this.#replace(index, this.#dress(changed));
  }

  /** @param {number} index @param {Message} message */
  #replace(index, message) {
    this.entries[index] = message;
    this.#saveSoon();
    this.page.replace(this, message);
  }

  /** @param {any} push */
  #read(push) {
    return this.#dress(readMessage(push, (key, user) => (user === null ? this.sender.isMine(key) : user === this.page.me)));
  }

  /** With its reactions as they are to be shown. @param {Message} message @returns {Message} */
  #dress(message) {
    const { offset, counted, erased } = message;
    if (erased) return { ...message, reactions: [] };
    const { reactions = [], mine = [] } = this.reactions.shown({ offset, reactions: counted });
    const shown = reactions.map((/** @type {any} */ one) => ({ ...one, mine: mine.includes(one.k) }));
    return { ...message, reactions: shown };
  }

  /** What one wants of them has changed, or which are one's own. */
  #dressAll() {
    for (const [index, entry] of this.entries.entries()) {
      if (!("offset" in entry)) continue;
      const dressed = this.#dress(entry);
      if (JSON.stringify(dressed.reactions) !== JSON.stringify(entry.reactions)) this.#replace(index, dressed);
    }
  }

  /** @param {Message} message @param {string} kind @param {boolean} on */
  react({ offset }, kind, on) {
    const asked = on ? this.channel.react(offset, kind) : this.channel.unreact(offset, kind);
    return this.reactions.want(offset, kind, on, asked);
  }

  /** @param {Message} message @param {string} text */
  edit({ offset, name }, text) {
    return this.channel.edit(offset, { name, text });
  }

  /** @param {Message} message */
  erase({ offset }) {
    return this.channel.remove(offset);
  }

  /** @param {Message} message */
  pin({ offset, pinned }) {
    return this.channel.pin(offset, !pinned);
  }

  /** What was said last. @returns {Message | undefined} */
  get newest() {
    return /** @type {Message | undefined} */ (this.entries.findLast((entry) => "offset" in entry));
  }

  /** The first of those that are here. @returns {Message | undefined} */
  get oldest() {
    return /** @type {Message | undefined} */ (this.entries.find((entry) => "offset" in entry));
  }

  /** The message there, if it has been read. @param {number} offset @returns {Message | undefined} */
  message(offset) {
    return /** @type {Message | undefined} */ (this.entries.find((entry) => "offset" in entry && entry.offset === offset));
  }

  /** Read back until the message is here, if it is not too far. @param {number} offset */
  async reach(offset) {
    const first = () => this.oldest?.offset ?? Infinity;
    for (let page = 0; page < DEEPEST && first() > offset; page++) {
      const before = first();
      await this.older();
      if (first() === before && this.channel.state === "live") return;
      if (this.channel.state !== "live") await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** From this message on it is unread again. @param {Message} message */
  keepUnread(message) {
    this.kept = true;
    const messages = /** @type {Message[]} */ (this.entries.filter((entry) => "offset" in entry));
    const before = messages[messages.indexOf(message) - 1];
    return this.channel.markRead(before?.cursor ?? "0", { set: true });
  }

  /** One may see who is a member. */
  get membered() {
    return this.page.me !== null && this.has.has("members") && this.may.has("subscribe");
  }

  /** One may look for words. */
  get searchable() {
    return this.page.me !== null && this.has.has("search") && this.may.has("subscribe");
  }

  /** There may be something that is pinned. */
  get pinning() {
    const { has, may } = this;
    return may.has("subscribe") && (has.has("members") || may.has("amend") || may.has("amend_own"));
  }

  /** A thread has the rights of the room that it is in. @param {Room} parent */
  inherit(parent) {
    this.may = new Set([...parent.may].filter((right) => right !== "join"));
    this.has = new Set([...parent.has].filter((option) => !["members", "threads", "receipts"].includes(option)));
    this.role = null;
    this.known = parent.known;
  }

  /** Ask what one may do here. @param {(path: string) => Promise<any>} get */
  async look(get) {
    try {
      const { role, may, has } = await get(`/v1/channels/${encodeURIComponent(this.channel.name)}`);
      this.role = role;
      this.may = new Set(may);
      this.has = new Set(has);
      this.known = true;
      if (this.channel.state !== "idle") this.#followReaders();
      this.page.looked(this);
    } catch {
      // the server is away, or too old to say: what is refused says so
    }
  }

  /** Who has read how far, where that is told. */
  #followReaders() {
    if (this.readers || !this.has.has("receipts")) return;
    this.readers = this.channel.receipts();
    this.readers.on("change", () => this.page.readers(this));
    this.readers.refresh().catch(() => {}); // told again at the next connection
  }

  /** The line above what is unread, as far as it is here. @param {string} read  the marker */
  draw(read) {
    const first = this.entries.findIndex((entry) => "offset" in entry && !entry.mine && entry.offset > offsetOf(read));
    if (first < 0 || this.entries.some((entry) => "line" in entry && entry.kind === "away")) return;
    this.entries.splice(first, 0, { line: "New", kind: "away" });
    this.page.redraw(this);
    this.page.toLine(this);
  }

  /** Here begins what nobody has seen; where it began the last time is of no interest any more. */
  #mark() {
    if ("line" in (this.entries.at(-1) ?? {})) return;
    this.entries = this.entries.filter((entry) => !("line" in entry) || entry.kind !== "away");
    this.page.unmark(this);
    this.#add({ line: "New", kind: "away" });
  }

  /** @param {any} gap */
  #takeGap({ from, to }) {
    // What was stored within it is never coming.
    for (const { key, state, offset = 0 } of [...this.sender.messages.values()]) {
      const comes = Number.isInteger(to) && offset > to;
      if (state === "sent" && !comes) this.page.discard(this, key);
    }
    if (Number.isInteger(from) && Number.isInteger(to)) {
      const count = to - from + 1;
      const were = count === 1 ? "message is" : "messages are";
      this.#add({ line: `${count} older ${were} no longer kept by the server`, kind: "gap" });
    } else {
      // Another history: what is shown is not a part of it, and its own messages follow.
      this.entries = [];
      this.more = null;
      this.page.redraw(this);
      this.#add({ line: "The history of this room was started anew", kind: "gap" });
    }
  }

  /** @param {Entry} entry */
  #add(entry) {
    this.entries.push(entry);
    if (this.entries.length > 1.2 * UNSEEN && this.page.room !== this) {
      this.entries.splice(0, this.entries.length - UNSEEN);
      this.more = true;
    }
    this.#saveSoon();
    this.page.append(this, entry);
    if (this.entries.length === 1) this.page.edge(this);
  }

  /** The newest part only is shown after all. @param {Message} first */
  trimmed(first) {
    this.entries.splice(0, this.entries.indexOf(first));
    this.more = true;
  }

  /** One's own that was not stored is not to be. @param {string} key */
  discard(key) {
    this.sender.messages.delete(key);
    this.save();
  }

  /** The page before the oldest message shown. */
  async older() {
    const first = this.oldest;
    if (!first || !this.more || this.#loading || this.channel.state !== "live") return;
    this.#loading = true;
    try {
      const { messages, more, mine } = await this.channel.history({
        before: first.cursor,
        limit: PAGE,
      });
      if (!this.entries.includes(first)) return; // trimmed or started anew meanwhile
      for (const push of messages) this.reactions.put(push);
      this.reactions.learn(mine, messages);
      const entries = messages.map((push) => this.#read(push));
      this.entries.unshift(...entries);
      this.more = more;
      this.page.prepend(this, entries);
    } catch {
      // told by the connection's state; the next scroll tries again
    } finally {
      this.#loading = false;
      this.page.edge(this);
    }
  }
}
