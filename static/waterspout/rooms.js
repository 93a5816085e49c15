/** The channels that a user is a member of. @module */

import { Receipts } from "./receipts.js";
import { deferred, Emitter, offsetOf } from "./tools.js";

/** @typedef {import("../waterspout.js").Waterspout} Waterspout */
/** @typedef {{channel: string, role: string, read: string, head: string, count: number, unread: number, mentions: number,
 *   newest: string | null, time: number | null, mute?: boolean, pin?: boolean, thread?: {channel: string, of: number}}} Room */

/** Milliseconds between two markers of a channel that are sent. */
const MARK_EVERY = 2000;

/** The pushes that are about rooms. */
export const ROOM_PUSHES = ["rooms", "room", "activity", "read"];

/**
 * My rooms, live: with how many messages of each are unread. The server tells all members the same; what is unread for
 * this one is counted here. With `threads` those that this user follows are among them.
 *
 * Events: `change` with the Room that has changed, or null where all are new; `ended` with a WaterspoutError.
 */
export class Rooms extends Emitter {
  #client;
  #channel;
  /** How many messages of a room are not unread. @type {Map<string, number>} */
  #seen = new Map();
  /** The order: who had the last message has the greatest number. @type {Map<string, number>} */
  #order = new Map();
  #first = 0;
  #last = 0;
  #begun = false;
  #threads = false;
  /** By channel, threads too. @type {Map<string, Room>} */
  rooms = new Map();
  /** All pages have come. */
  ready = false;

  /** @param {Waterspout} client */
  constructor(client) {
    super();
    this.#client = client;
    this.#channel = client.channel("$rooms");
    this.#channel.on("ended", (error) => this.emit("ended", error));
    this._hear("change", (room) => this.#tell(room));
  }

  /** How many messages are unread, of all rooms together that are not muted. Those in threads count apart. */
  get unread() {
    return unread(this.list());
  }

  /** How many mention the user, also in rooms that are muted. */
  get mentions() {
    return mentions(this.list());
  }

  /** How many replies are unread, of all threads together that are followed and not muted. */
  get threadUnread() {
    return unread(this.threads());
  }

  /** How many of them mention the user. */
  get threadMentions() {
    return mentions(this.threads());
  }

  /** Those that are pinned first, and then the one with the newest message. @returns {Room[]} */
  list() {
    return this.#sorted((room) => !room.thread);
  }

  /** The threads that are followed, in that order: of one channel, or all. @param {string} [channel] @returns {Room[]} */
  threads(channel) {
    return this.#sorted(({ thread }) => thread !== undefined && (channel === undefined || thread.channel === channel));
  }

  /** @param {(room: Room) => boolean} wanted */
  #sorted(wanted) {
    const place = (/** @type {Room} */ room) => this.#order.get(room.channel) ?? 0;
    const pinned = (/** @type {Room} */ room) => Number(room.pin ?? false);
    const rooms = [...this.rooms.values()].filter(wanted);
    return rooms.sort((one, other) => pinned(other) - pinned(one) || place(other) - place(one));
  }

  /** What there is of a channel; null: it is none of these, undefined: nobody knows (yet). @internal @param {string} name */
  _of(name) {
    const known = this.ready && (this.#threads || !name.startsWith("$thread:"));
    return this.rooms.get(name) ?? (known ? null : undefined);
  }

  /** Begin, and anew when threads are wanted as well. @internal @param {boolean} threads */
  _with(threads) {
    if (this.#begun && (this.#threads || !threads)) return this;
    if (this.#begun) void this.#channel.unsubscribe();
    this.#begun = true;
    this.#threads = threads;
    this.ready = false;
    this.#channel.subscribe(threads ? { threads } : {}).catch(() => {});
    return this;
  }

  /** The channels that are concerned, all of them or that of one room. @param {Room | null} room */
  #tell(room) {
    const { _channels } = this.#client;
    for (const channel of room ? [_channels.get(room.channel)] : _channels) channel?.emit("room", this._of(channel.name));
  }

  /** No more of it. @returns {Promise<void>} */
  close() {
    return this.#channel.unsubscribe();
  }

  /** @internal @param {any} push */
  _take(push) {
    if (push.type === "rooms") {
      if (push.start) {
        for (const all of [this.rooms, this.#seen, this.#order]) all.clear();
        this.ready = false;
      }
      for (const row of push.rooms) this.#put(row, --this.#first);
      this.ready = !push.more;
      return this.emit("change", null);
    }
    if (push.type === "room") {
      const { type: _, ...row } = push;
      if (row.role !== null) return this.emit("change", this.#put(row, this.#order.get(row.channel) ?? ++this.#last));
      const room = this.rooms.get(row.channel);
      for (const all of [this.rooms, this.#seen, this.#order]) all.delete(row.channel);
      return room && this.emit("change", { ...room, role: null });
    }
    const room = this.rooms.get(push.channel);
    if (!room) return;
    let seen = this.#seen.get(room.channel) ?? 0;
    if (push.type === "read") {
      room.read = push.cursor;
      seen = push.seen ?? seen;
      room.mentions = push.mentions ?? room.mentions;
    } else {
      if (push.newest !== room.newest) this.#order.set(room.channel, ++this.#last);
      const unread = (/** @type {number} */ offset) => offset > offsetOf(room.read);
      seen += (push.deleted ?? []).filter(unread).length;
      room.mentions += this.#mine(push).filter(unread).length;
      Object.assign(room, { head: push.head, count: push.count, newest: push.newest });
    }
    this.#seen.set(room.channel, seen);
    room.unread = Math.max(0, room.count - seen);
    this.emit("change", room);
  }

  /** Messages of others that mention this user. @param {any} activity @returns {number[]} */
  #mine({ mentioned = {}, by = {} }) {
    const me = this.#client.session?.user;
    const own = new Set(by[me]);
    return [...new Set([...(mentioned[me] ?? []), ...(mentioned["*"] ?? [])])].filter((offset) => !own.has(offset));
  }

  /** @param {Room} row @param {number} place */
  #put(row, place) {
    const room = { ...row };
    this.rooms.set(room.channel, room);
    this.#seen.set(room.channel, room.count - room.unread);
    this.#order.set(room.channel, place);
    return room;
  }
}

/** @param {Room[]} rooms */
const unread = (rooms) => rooms.reduce((sum, room) => sum + (room.mute ? 0 : room.unread), 0);

/** @param {Room[]} rooms */
const mentions = (rooms) => rooms.reduce((sum, room) => sum + room.mentions, 0);

/** What a channel has where it has members, and a thread there, whose members follow it. */
export class Membered extends Emitter {
  #client;
  /** @type {Marker | null} */
  #marker = null;
  /** @type {Receipts | null} */
  #receipts = null;
  /** @type {string | null} */
  cursor = null;

  /** @param {Waterspout} client @param {string} name */
  constructor(client, name) {
    super();
    this.#client = client;
    this.name = name;
  }

  /** Become a member, where anyone may. @returns {Promise<{role: string}>} */
  join() {
    return this.#client.request("join", { channel: this.name });
  }

  /** Be a member no more. @returns {Promise<{role: null}>} */
  leave() {
    return this.#client.request("leave", { channel: this.name });
  }

  /** Give a user a role, or with null take the membership away. @param {string} user @param {string | null} role */
  setMember(user, role) {
    return this.#client.request("member", { channel: this.name, user, role });
  }

  /** How the user wants to see the room among its own: listed but not counted (`mute`), in front (`pin`).
   *
   * @param {{mute?: boolean, pin?: boolean}} wanted @returns {Promise<{mute: boolean, pin: boolean}>} */
  prefer(wanted) {
    return this.#client.request("member", { channel: this.name, ...wanted });
  }

  /** Who is a member, by name, the first `limit` (100) behind the name `after`. @param {{after?: string, limit?: number}} [page]
   * @returns {Promise<{members: {user: string, role: string, joined: number, read?: string}[], more: boolean}>} */
  memberships(page = {}) {
    return this.#client.request("members", { channel: this.name, ...page });
  }

  /** What the user's own list says of the channel: null: it is not there, undefined: there is no such list (yet).
   * @internal @returns {Room | null | undefined} */
  get _row() {
    return this.#client._rooms?._of(this.name);
  }

  /** How far each member has read, where the namespace has receipts: live while the channel is subscribed. */
  receipts() {
    return (this.#receipts ??= new Receipts(/** @type {any} */ (this)));
  }

  /** It is read up to the cursor, by default to where we are; with `set` also back. Sent every two seconds at most.
   *
   * @param {string | null} [cursor] @param {{set?: boolean}} [options] @returns {Promise<{cursor: string}>} */
  markRead(cursor = this.cursor, options = {}) {
    const send = (/** @type {object} */ fields) => this.#client.request("read", fields);
    return (this.#marker ??= new Marker(send)).move({ channel: this.name, cursor, ...options });
  }
}

/** How far a channel is read. It may be said at every scroll: of what is said within two seconds the last is sent. */
export class Marker {
  #send;
  /** @type {{promise: Promise<any>, resolve: (reply: any) => void, reject: (error: any) => void} | null} */
  #next = null;
  /** @type {object} */
  #fields = {};
  #sent = -Infinity;

  /** @param {(fields: object) => Promise<any>} send */
  constructor(send) {
    this.#send = send;
  }

  /** @param {object} fields @returns {Promise<{cursor: string}>} */
  move(fields) {
    this.#fields = fields;
    if (this.#next) return this.#next.promise;
    const { promise } = (this.#next = deferred());
    setTimeout(() => this.#go(), Math.max(0, this.#sent + MARK_EVERY - performance.now()));
    return promise;
  }

  #go() {
    const next = this.#next;
    this.#next = null;
    this.#sent = performance.now();
    this.#send(this.#fields).then(next?.resolve, next?.reject);
  }
}
