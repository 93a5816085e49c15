/**
 * The chat page. A room is a channel: `chat:<room>`, where guests may write as well, or any other whose member one is.
 * Guests have no user on the wire, so the name travels in the data: `{"name": "Ann", "text": "Hello"}`.
 *
 *     room.js, amended.js, own.js, words.js       a room: its messages, drafts, cursor; what becomes of them
 *     transcript.js, message.js, deeds.js         the conversation as it is seen; what one may do with a message
 *     roomlist.js, memberships.js, sidebar.js     the rooms there are, with what is unread in each
 *     panel.js: people.js, members.js, thread.js, search.js      what stands beside the conversation
 *     composer.js, mentions.js, picker.js, standing.js           writing, calling, reacting, and who may
 *     banner.js, here.js, readers.js, edge.js     the connection, who is there, who has read it, where it began
 *
 * @module
 */

import { enter } from "../account/account.js";
import { request } from "../account/session.js";
import { $ } from "../page.js";
import { Banner } from "./banner.js";
import { Composer } from "./composer.js";
import { deedsOf } from "./deeds.js";
import { edgeOf, followKeyboard } from "./edge.js";
import { showPresent, showTyping } from "./here.js";
import { Panel } from "./panel.js";
import { People } from "./people.js";
import { Picker } from "./picker.js";
import { Room } from "./room.js";
import { RoomList } from "./roomlist.js";
import { offerSearch, reach, SearchPanel } from "./search.js";
import { DEFAULT_ROOM, roomOfAddress } from "./sidebar.js";
import { showReaders } from "./readers.js";
import { Standing } from "./standing.js";
import { ThreadPanel } from "./thread.js";
import { Transcript } from "./transcript.js";
import { channelOf, isDirect, nameOf, titleOf } from "./words.js";

/** @typedef {import("./transcript.js").Entry} Entry */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./transcript.js").Draft} Draft */

/** Guests come and go unannounced, so now and then they are counted. Milliseconds. */
const COUNT_EVERY = 4000;

const account = await enter();

export class Page {
  client = account.client();
  /** Null: a guest. */
  me = account.user;
  #panel = new Panel();
  /** @type {ThreadPanel | null} */
  #thread = null;
  #picker = new Picker();
  #standing = new Standing({
    get: async (path) => request(path, undefined, { token: await account.token() }),
    join: (room) => this.#join(room),
    signIn: account.on ? () => account.signIn() : null,
  });
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** There was a loss, and not all rooms have caught up. */
  #away = false;
  #transcript;
  #banner = new Banner(() => this.client.connect());
  #people = new People(this, (channel) => this.#standing.may(channel));
  #list = new RoomList(
    this,
    (room) => this.#go(room),
    (room) => this.#leave(room),
  );
  #composer = new Composer(
    {
      say: (text) => this.#say(text),
      typing: (done) => void this.room.sayTyping(this.#composer.name, done),
      rename: () => this.#list.sidebar.close(),
    },
    account.user,
  );
  /** @type {Room} */
  room;
  constructor() {
    this.#transcript = new Transcript(
      { scroller: $("scroller"), log: $("log"), outbox: $("outbox"), edge: $("edge"), newest: $("newest") },
      {
        ...this.#actionsOf(() => this.room),
        older: () => void this.room.older(),
        read: () => this.#noteRead(),
      },
    );
    this.#transcript.onTrim = (first) => this.room.trimmed(first);
    this.room = this.#open(roomOfAddress());
    this.#bind();
    if (this.me !== null) void this.#list.follow((channel) => this.#standing.may(channel), () => this.#counted());
    this.client.on("state", (event) => {
      if (event.state === "waiting" || event.state === "closed") this.#away = true;
      this.#banner.showState(event);
    });
    this.client.on("resumed", () => {
      this.#away = false;
      this.#banner.welcomeBack(this.#caughtUp());
    });
    this.#banner.showState({ state: this.client.state });
  }

  /** What may be done with messages of a room. @param {() => Room} room @returns {import("./message.js").Actions} */
  #actionsOf(room) {
    const change = (/** @type {Promise<any>} */ asked) => void this.#change(asked);
    return {
      again: (key) => room().again(key),
      discard: (key) => this.discard(room(), key),
      deeds: (message) => deedsOf(room(), message, this.me, change, (answered) => this.#answer(room(), answered)),
      pick: (button, chosen) => this.#picker.open(button, chosen),
      me: this.me,
    };
  }

  /** In the thread of a message; one that came out of a thread is answered there. @param {Room} room @param {Message} message */
  #answer(room, message) {
    const offset = message.thread ? Number(message.thread.split(":")[1]) : message.offset;
    const root = /** @type {Message} */ (room.entries.find((entry) => "offset" in entry && entry.offset === offset)) ?? message;
    this.#thread = new ThreadPanel(this, this.#panel, room, { ...root, offset }, {
      actionsOf: (made) => this.#actionsOf(() => made),
      author: () => this.#composer.name,
      onclose: () => (this.#thread = null),
    });
    this.edge(this.#thread.room);
  }

  /** Where a room is seen; null: nowhere. @param {Room} room */
  #viewOf(room) {
    if (room === this.room) return this.#transcript;
    return room === this.#thread?.room ? this.#thread.transcript : null;
  }

  #bind() {
    window.addEventListener("hashchange", () => {
      this.#open(roomOfAddress());
      this.#composer.focus();
    });
    $("members").addEventListener("click", () => this.#showMembers());
    $("search").addEventListener("click", () => {
      if (this.#panel.kind === "search") return this.#panel.close();
      new SearchPanel(this, this.#panel, this.room, (room, offset) => void this.#find(room, offset));
    });
    $("text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "ArrowUp" || $("text").value) return;
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

    followKeyboard();
  }

  /** @param {string} name */
  #go(name) {
    if (name === this.room.name) this.#composer.focus();
    location.hash = encodeURIComponent(name); // which opens it, if it is another
  }

  /** @param {string} name */
  #open(name) {
    let room = this.rooms.get(name);
    if (!room) {
      room = new Room(name, this.client.channel(channelOf(name)), this);
      this.rooms.set(name, room);
    }
    if (room === this.room) return room;
    this.room = room; // the others stay subscribed, and count what comes
    room.unread = 0;
    room.kept = false;
    this.#panel.close(false);
    this.#list.sidebar.visit(name);
    this.#list.show();
    this.#list.title();
    this.#banner.clear();
    $("title").textContent = titleOf(name, this.me);
    $("title").classList.toggle("direct", isDirect(name));
    $("text").placeholder = `Message ${nameOf(name, this.me)}`;
    this.redraw(room);
    this.present(room);
    this.typing(room);
    room.enter();
    this.looked(room);
    void room.look(this.#standing.get);
    this.#list.sidebar.close();
    this.#noteRead();
    return room;
  }

  /** @param {string} name */
  #leave(name) {
    this.#list.sidebar.forget(name);
    const room = this.rooms.get(name);
    if (room === this.room) {
      history.replaceState(null, "", location.pathname); // coming back must not enter it again
      this.#open(DEFAULT_ROOM);
    }
    room?.leave();
    this.rooms.delete(name);
    this.#list.show();
    this.#list.title();
    this.#composer.focus();
  }

  /** What is unread in the rooms one is a member of, or which these are. */
  #counted() {
    const row = this.#list.of(this.room.channel.name);
    if ((row?.role ?? null) !== this.room.role) void this.room.look(this.#standing.get);
    this.#list.show();
    this.#list.title();
    this.#noteRead();
  }

  /** Who sees the end of a room has read it. */
  #noteRead() {
    const { room } = this;
    const row = this.#list.of(room.channel.name);
    if (!row?.unread || room.kept || !this.sees(room) || room.channel.state !== "live") return;
    room.draw(row.read);
    if (this.#transcript.atEnd) room.channel.markRead().catch(() => {}); // it is said again with the next message
  }

  /** @param {Room} room */
  async #join(room) {
    try {
      await room.channel.join();
      await room.look(this.#standing.get);
      this.#composer.focus();
    } catch (/** @type {any} */ error) {
      this.#banner.say("bad", `Not joined: ${error.reason ?? error}.`);
    }
  }

  /** Show where a message is. @param {string} name @param {number} offset */
  async #find(name, offset) {
    if (name !== this.room.name) history.pushState(null, "", `#${encodeURIComponent(name)}`);
    const room = this.#open(name);
    if (matchMedia("(max-width: 1100px)").matches) this.#panel.close(false);
    await reach(room, offset);
    if (room === this.room && !this.#transcript.point(offset)) this.#banner.say("bad", "That is too far back to be shown here.");
  }

  #showMembers() {
    const { room } = this;
    this.#people.show(this.#panel, room, {
      say: (words) => this.#banner.say("bad", words),
      leave: () => this.#leave(room.name),
      go: (name) => this.#go(name),
      row: this.#list.of(room.channel.name),
    });
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
    this.room.say(this.#composer.name, text, this.#people.called(this.room, text));
    void this.room.sayTyping(this.#composer.name, true);
  }

  /** An edit, or an erasure, that may be refused. @param {Promise<any>} change */
  async #change(change) {
    try {
      await change;
    } catch (/** @type {any} */ error) {
      const words = error.code === "permission_denied" ? "messages are not changed in this room" : error.reason;
      this.#banner.say("bad", `Not done: ${words}.`);
    }
  }

  // what a room tells

  /** @param {Room} room */
  redraw(room) {
    const view = this.#viewOf(room);
    if (!view) return;
    view.show(room.entries, [...room.drafts.values()]);
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
    if (room === this.#thread?.parent && "offset" in entry && entry.offset === this.#thread.offset) this.#thread.changed(entry);
  }

  /** @param {Room} room @param {Draft} draft */
  draft(room, draft) {
    this.#viewOf(room)?.draft(draft);
  }

  /** Whether somebody looks at this room. @param {Room} room */
  sees(room) {
    return this.#viewOf(room) !== null && !document.hidden;
  }

  #seen() {
    this.room.unread = 0;
    this.#list.title();
    this.#noteRead();
    void this.room.channel.members().refresh();
  }

  /** @param {Room} room */
  heard(room) {
    if (this.sees(room) || room.name.startsWith("/$")) return;
    this.#list.title();
    if (room !== this.room) this.#list.show();
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
    void this.#people.follow(room);
    offerSearch(room, this.me);
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
    else if (room.caughtUp && room === this.room && !this.#away) this.#banner.welcomeBack(this.#caughtUp());
  }

  /** @param {Room} room @param {{code: string, reason: string}} error */
  ended(room, error) {
    if (error.code === "closed") return; // the connection's state says so
    if (room === this.room) this.#banner.say("bad", `This room cannot be read: ${error.reason}.`);
  }
}

new Page();
