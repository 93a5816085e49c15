/**
 * The chat page. A room is a channel: `chat:<room>`, where guests may write as well, or any other whose member one is.
 * Guests have no user on the wire, so the name travels in the data: `{"name": "Ann", "text": "Hello"}`.
 *
 *     room.js, outgoing.js, typing.js, amended.js, own.js, words.js     a room: what is said in it, and what becomes of that
 *     transcript.js, message.js, format.js, deeds.js, edge.js           the conversation as it is seen
 *     roomlist.js, memberships.js, sidebar.js, address.js                the rooms there are, with what is unread in each
 *     beside.js, panel.js: members.js, thread.js, threads.js, pins.js, search.js, preferences.js   beside, when asked for
 *     palette.js, targets.js, shortcuts.js, picker.js, profile.js       jumping, keys, choosing, who somebody is
 *     composer.js, formatting.js, drafts.js, mentions.js, standing.js, whose.js    writing, and who may
 *     banner.js, notices.js, here.js, reading.js, readers.js, people.js, blocks.js   the connection; who calls, is there, has read
 *
 * @module
 */

import { enter } from "../account/account.js";
import { request } from "../account/session.js";
import { $ } from "../page.js";
import { addressOf, copyAddress, DEFAULT_ROOM, placeOfAddress } from "./address.js";
import { Banner } from "./banner.js";
import { Beside } from "./beside.js";
import { Composer } from "./composer.js";
import { deedsOf } from "./deeds.js";
import { edgeOf, followKeyboard } from "./edge.js";
import { plainly } from "./format.js";
import { showPresent, showTyping } from "./here.js";
import { People } from "./people.js";
import { showReaders } from "./readers.js";
import { NewReplies, noteRead, noteReadThread } from "./reading.js";
import { Room } from "./room.js";
import { RoomList } from "./roomlist.js";
import { bindShortcuts } from "./shortcuts.js";
import { Standing } from "./standing.js";
import { Transcript } from "./transcript.js";
import { forgetOthers } from "./whose.js";
import { channelOf, isDirect, nameOf, titleOf } from "./words.js";

/** @typedef {import("./transcript.js").Entry} Entry */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./outgoing.js").Outgoing} Outgoing */

/** Guests come and go unannounced, so now and then they are counted. Milliseconds. */
const COUNT_EVERY = 4000;

const account = await enter();
forgetOthers(account.user);
const signedIn = account.user === null ? null : await import("./signed-in.js");

export class Page {
  client = account.client();
  /** Null: a guest. */
  me = account.user;
  #standing = new Standing({
    get: async (path) => request(path, undefined, { token: await account.token() }),
    join: (room) => this.#join(room),
    signIn: account.on ? () => account.signIn() : null,
  });
  /** A GET from the server, as this user. */
  get = this.#standing.get;
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** There was a loss, and not all rooms have caught up. */
  #away = false;
  #transcript;
  banner = new Banner(() => this.client.connect());
  people = new People(this, signedIn, (channel) => this.#standing.may(channel));
  blocks = signedIn && new signedIn.Blocks(this.client, () => this.#redrawAll());
  notices = signedIn && new signedIn.Notices((room) => this.go(room));
  list = new RoomList(this);
  beside = new Beside(this);
  #replies = new NewReplies(this.list);
  composer = new Composer(
    {
      say: (text) => this.#say(text),
      typing: (done) => void this.room.typing.say(this.composer.name, done),
      rename: () => this.list.sidebar.close(),
      drafted: () => this.list.show(),
      pick: (button, chosen) => void this.beside.pick(button, chosen),
    },
    account.user,
  );
  /** @type {Room} */
  room;
  constructor() {
    this.#transcript = new Transcript(
      { scroller: $("scroller"), log: $("log"), outbox: $("outbox"), edge: $("edge"), newest: $("newest") },
      {
        ...this.actionsOf(() => this.room),
        older: () => void this.room.older(),
        read: () => this.#noteRead(),
      },
    );
    this.#transcript.onTrim = (first) => this.room.trimmed(first);
    this.room = this.open(placeOfAddress().room);
    this.#bind();
    if (signedIn) {
      const mine = new signedIn.Memberships(this.client, account.user ?? "", () => this.counted());
      void this.list.follow(mine, (channel) => this.#standing.may(channel));
    }
    this.blocks?.load().catch(() => {}); // there are none here
    this.client.on("state", (event) => {
      if (event.state === "waiting" || event.state === "closed") this.#away = true;
      this.banner.showState(event);
    });
    this.client.on("resumed", () => {
      this.#away = false;
      this.banner.welcomeBack(this.#caughtUp());
    });
    this.banner.showState({ state: this.client.state });
  }

  /** What may be done with messages of a room. @param {() => Room} room @returns {import("./message.js").Actions} */
  actionsOf(room) {
    const change = (/** @type {Promise<any>} */ asked) => void this.change(asked);
    return {
      again: (key) => room().sender.again(key),
      discard: (key) => this.discard(room(), key),
      deeds: (message) =>
        deedsOf(room(), message, this.me, {
          change,
          answer: (one) => void this.beside.answer(room(), one),
          link: ({ offset }) => void copyAddress(room().name, offset, this.banner),
        }),
      newReplies: (message) => this.#replies.of(room(), message),
      pick: (button, chosen) => void this.beside.pick(button, chosen),
      author: (button, user) => void this.beside.profile(button, user),
      blocks: (user) => this.blocks?.has(user) ?? false,
      me: this.me,
    };
  }

  /** Where a room is seen; null: nowhere. @param {Room} room */
  #viewOf(room) {
    if (room === this.room) return this.#transcript;
    const { thread } = this.beside;
    return room === thread?.room ? thread.transcript : null;
  }

  #bind() {
    window.addEventListener("hashchange", () => {
      this.#goToAddress();
      this.composer.focus();
    });
    $("text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "ArrowUp" || event.altKey || $("text").value) return;
      event.preventDefault();
      this.#transcript.editLast();
    });
    window.addEventListener("pagehide", () => this.#saveAll());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#saveAll();
      else this.#seen();
    });
    setInterval(() => document.hidden || void this.room.channel.members().refresh(), COUNT_EVERY);
    setInterval(() => this.typing(this.room), 1000);
    bindShortcuts(this);
    followKeyboard();
    this.#goToAddress();
  }

  #goToAddress() {
    const { room, at } = placeOfAddress();
    this.open(room);
    if (at !== null) void this.beside.find(room, at);
  }

  /** @param {string} name */
  go(name) {
    if (name === this.room.name) this.composer.focus();
    location.hash = addressOf(name); // which opens it, if it is another
  }

  /** Show a room. @param {string} name */
  open(name) {
    let room = this.rooms.get(name);
    if (!room) {
      room = new Room(name, this.client.channel(channelOf(name)), this);
      this.rooms.set(name, room);
    }
    if (room === this.room) return room;
    this.room = room; // the others stay subscribed, and count what comes
    room.unread = 0;
    room.kept = false;
    this.beside.close();
    this.list.sidebar.visit(name);
    this.list.show();
    this.list.title();
    this.banner.clear();
    $("title").textContent = titleOf(name, this.me);
    $("title").classList.toggle("direct", isDirect(name));
    this.composer.enter(name, `Message ${nameOf(name, this.me)}`);
    this.redraw(room);
    this.present(room);
    this.typing(room);
    room.enter();
    this.looked(room);
    void room.look(this.get);
    this.list.sidebar.close();
    this.#noteRead();
    return room;
  }

  /** @param {string} name */
  leave(name) {
    this.list.sidebar.forget(name);
    const room = this.rooms.get(name);
    if (room === this.room) {
      history.replaceState(null, "", location.pathname); // coming back must not enter it again
      this.open(DEFAULT_ROOM);
    }
    room?.leave();
    this.rooms.delete(name);
    this.list.show();
    this.list.title();
    this.composer.focus();
  }

  /** What is unread in the rooms and threads one is a member of, or which these are. */
  counted() {
    const row = this.list.of(this.room.channel.name);
    if ((row?.role ?? null) !== this.room.role) void this.room.look(this.get);
    this.list.show();
    this.list.title();
    this.beside.threadsChanged();
    this.#replies.show(this);
    this.notices?.follow(this.list.members(), (name) => plainly(this.rooms.get(name)?.newest?.text ?? ""));
    this.#noteRead();
  }

  #noteRead() {
    noteRead(this, this.#transcript.atEnd);
    noteReadThread(this);
  }

  /** @param {Room} room */
  async #join(room) {
    try {
      await room.channel.join();
      await room.look(this.get);
      this.composer.focus();
    } catch (/** @type {any} */ error) {
      this.banner.say("bad", `Not joined: ${error.reason ?? error}.`);
    }
  }

  /** Show where a message is, if it is here. @param {Room} room @param {number} offset */
  point(room, offset) {
    return room !== this.room || this.#transcript.point(offset);
  }

  #saveAll() {
    for (const room of this.rooms.values()) room.save();
  }

  /** How many messages of others all rooms have caught up with. */
  #caughtUp() {
    const count = [...this.rooms.values()].reduce((sum, room) => sum + room.caughtUp, 0);
    for (const room of this.rooms.values()) room.caughtUp = 0;
    return count;
  }

  /** @param {string} text */
  #say(text) {
    this.#transcript.toEnd();
    this.room.sender.say(this.composer.name, text, this.people.called(this.room, text));
    void this.room.typing.say(this.composer.name, true);
  }

  /** An edit, or an erasure, that may be refused. @param {Promise<any>} change */
  async change(change) {
    try {
      await change;
    } catch (/** @type {any} */ error) {
      const words = error.code === "permission_denied" ? "messages are not changed in this room" : error.reason;
      this.banner.say("bad", `Not done: ${words}.`);
    }
  }

  /** Whom one does not want to hear has changed. */
  #redrawAll() {
    this.redraw(this.room);
    if (this.beside.thread) this.redraw(this.beside.thread.room);
  }

  // what a room tells

  /** @param {Room} room */
  redraw(room) {
    const view = this.#viewOf(room);
    if (!view) return;
    view.show(room.entries, [...room.sender.messages.values()]);
    this.edge(room);
    this.readers(room);
  }

  /** @param {Room} room @param {Entry} entry */
  append(room, entry) {
    this.#viewOf(room)?.append(entry, room.channel.state === "replaying");
    this.readers(room);
  }

  /** @param {Room} room @param {Entry[]} entries */
  prepend(room, entries) {
    this.#viewOf(room)?.prepend(entries);
  }

  /** @param {Room} room @param {Entry} entry */
  replace(room, entry) {
    this.#viewOf(room)?.replace(/** @type {Message} */ (entry));
    const { thread } = this.beside;
    if (room === thread?.parent && "offset" in entry && entry.offset === thread.offset) thread.changed(entry);
  }

  /** @param {Room} room @param {Outgoing} message */
  outgoing(room, message) {
    this.#viewOf(room)?.outgoing(message);
  }

  /** Whether somebody looks at this room. @param {Room} room */
  sees(room) {
    return this.#viewOf(room) !== null && !document.hidden;
  }

  #seen() {
    this.room.unread = 0;
    this.list.title();
    this.#noteRead();
    void this.room.channel.members().refresh();
  }

  /** @param {Room} room */
  heard(room) {
    if (this.sees(room) || room.name.startsWith("/$")) return;
    this.list.title();
    if (room !== this.room) this.list.show();
  }

  /** @param {Room} room */
  unmark(room) {
    this.#viewOf(room)?.unmark();
  }

  /** How many are here. @param {Room} room */
  present(room) {
    if (room === this.room) showPresent(room);
  }
  /** @param {Room} room */
  typing(room) {
    if (room === this.room) showTyping(room);
  }

  /** What one may do there is known. @param {Room} room */
  looked(room) {
    if (room !== this.room) return;
    this.#transcript.forgetTools();
    this.#standing.show(room, this.me);
    void this.people.follow(room);
    $("search").hidden = !room.searchable;
    $("pins").hidden = !room.pinning;
  }

  /** @param {Room} room */
  toLine(room) {
    if (room === this.room) this.#transcript.toLine();
  }

  /** @param {Room} room @param {string} key */
  discard(room, key) {
    room.discard(key);
    this.#viewOf(room)?.discard(key);
  }

  /** Who has read how far. @param {Room} room */
  readers(room) {
    if (room === this.room) showReaders(room, this.me);
  }

  /** The words above the first message. @param {Room} room */
  edge(room) {
    this.#viewOf(room)?.edge(...edgeOf(room, this.me, room !== this.room));
  }

  /** @param {Room} room @param {{resumed: boolean}} event */
  caughtUp(room, { resumed }) {
    this.edge(room);
    this.#noteRead();
    if (!resumed) room.caughtUp = 0; // the past, which nobody has missed
    // After a reload; a connection that came back tells by itself (`resumed`).
    else if (room.caughtUp && room === this.room && !this.#away) this.banner.welcomeBack(this.#caughtUp());
  }

  /** @param {Room} room @param {{code: string, reason: string}} error */
  ended(room, error) {
    if (error.code === "closed") return; // the connection's state says so
    if (room === this.room) this.banner.say("bad", `This room cannot be read: ${error.reason}.`);
  }
}

new Page();
