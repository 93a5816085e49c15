/**
 * The chat page. A room is a channel: `chat:<room>`, where guests may write as well, or any other whose member one is.
 * Guests have no user on the wire, so the name travels in the data: `{"name": "Ann", "text": "Hello"}`.
 *
 *     chat.js        the page: which room is shown, and what a room tells
 *     room.js        a room: its messages, drafts, cursor        transcript.js  the conversation as it is seen
 *     memberships.js the rooms one is a member of, with counts   message.js     one message, and what to do with it
 *     roomlist.js    the rooms there are, in sidebar.js          amended.js     what becomes of it; deeds.js: what may be done
 *     panel.js       what stands beside: members.js              composer.js    writing, and the name; picker.js: reactions
 *     banner.js      the connection                              here.js        who is there, who types
 *     standing.js    what one may do in the room                 words.js       names and texts from outside
 *
 * @module
 */

import { enter } from "../account/account.js";
import { request } from "../account/session.js";
import { $, element } from "../page.js";
import { Banner } from "./banner.js";
import { Composer } from "./composer.js";
import { deedsOf } from "./deeds.js";
import { showPresent, showTyping } from "./here.js";
import { MembersPanel } from "./members.js";
import { Panel } from "./panel.js";
import { Picker } from "./picker.js";
import { Room } from "./room.js";
import { RoomList } from "./roomlist.js";
import { DEFAULT_ROOM } from "./sidebar.js";
import { Standing } from "./standing.js";
import { Transcript } from "./transcript.js";
import { channelOf, cleanRoom, titleOf } from "./words.js";

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
  #picker = new Picker();
  #standing = new Standing({
    get: async (path) => request(path, undefined, { token: await account.token() }),
    join: (room) => this.#join(room),
  });
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** There was a loss, and not all rooms have caught up. */
  #away = false;
  #transcript;
  #banner = new Banner(() => this.client.connect());
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
        older: () => void this.room.older(),
        again: (key) => this.room.again(key),
        discard: (key) => this.discard(this.room, key),
        deeds: (message) => deedsOf(this.room, message, this.me, (change) => void this.#change(change)),
        pick: (button, chosen) => this.#picker.open(button, chosen),
        me: this.me,
        read: () => this.#noteRead(),
      },
    );
    this.#transcript.onTrim = (first) => this.room.trimmed(first);
    this.room = this.#open(this.#roomOfAddress());
    this.#bind();
    if (this.me !== null) {
      void this.#list.follow((channel) => this.#standing.may(channel), () => this.#counted());
    }
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

  #bind() {
    window.addEventListener("hashchange", () => {
      this.#open(this.#roomOfAddress());
      this.#composer.focus();
    });
    $("members").addEventListener("click", () => this.#showMembers());
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

    // iOS lays its keyboard over the page; pinching changes the same height, and is left alone.
    const viewport = window.visualViewport;
    viewport?.addEventListener("resize", () => {
      if (viewport.scale > 1.01) return;
      document.documentElement.style.setProperty("--height", `${viewport.height}px`);
      window.scrollTo(0, 0);
    });
  }

  // the rooms

  #roomOfAddress() {
    let room = location.hash.slice(1);
    try {
      room = decodeURIComponent(room);
    } catch {
      // a % that stands for itself
    }
    return cleanRoom(room) || DEFAULT_ROOM;
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
    $("title").textContent = titleOf(name);
    $("text").placeholder = `Message #${titleOf(name)}`;
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

  #showMembers() {
    const { room } = this;
    if (this.#panel.kind === "members") return this.#panel.close();
    const say = (/** @type {string} */ words) => this.#banner.say("bad", words);
    new MembersPanel(this.#panel, room, this.me ?? "", say, () => this.#leave(room.name));
  }

  #saveAll() {
    for (const room of this.rooms.values()) room.save();
  }

  /** How many messages of others all rooms have caught up with. */
  #caughtUp() {
    let count = 0;
    for (const room of this.rooms.values()) {
      count += room.caughtUp;
      room.caughtUp = 0;
    }
    return count;
  }

  /** @param {string} text */
  #say(text) {
    this.#transcript.toEnd();
    this.room.say(this.#composer.name, text);
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
    if (room !== this.room) return;
    this.#transcript.show(room.entries, [...room.drafts.values()]);
    this.edge(room);
  }

  /** @param {Room} room @param {Entry} entry */
  append(room, entry) {
    if (room === this.room) this.#transcript.append(entry, room.channel.state === "replaying");
  }

  /** @param {Room} room @param {Entry[]} entries */
  prepend(room, entries) {
    if (room === this.room) this.#transcript.prepend(entries);
  }

  /** @param {Room} room @param {Entry} entry */
  replace(room, entry) {
    if (room === this.room) this.#transcript.replace(/** @type {Message} */ (entry));
  }

  /** @param {Room} room @param {Draft} draft */
  draft(room, draft) {
    if (room === this.room) this.#transcript.draft(draft);
  }

  /** Whether somebody looks at this room. @param {Room} room */
  sees(room) {
    return room === this.room && !document.hidden;
  }

  #seen() {
    this.room.unread = 0;
    this.#list.title();
    this.#noteRead();
    void this.room.channel.members().refresh();
  }

  /** @param {Room} room */
  heard(room) {
    if (this.sees(room)) return;
    this.#list.title();
    if (room !== this.room) this.#list.show();
  }

  /** @param {Room} room */
  unmark(room) {
    if (room === this.room) this.#transcript.unmark();
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
    $("members").hidden = !room.has.has("members") || this.me === null || !room.may.has("subscribe");
  }

  /** @param {Room} room */
  toLine(room) {
    if (room === this.room) this.#transcript.toLine();
  }

  /** @param {Room} room @param {string} key */
  discard(room, key) {
    room.discard(key);
    if (room === this.room) this.#transcript.discard(key);
  }

  /** The words above the first message. @param {Room} room */
  edge(room) {
    if (room !== this.room) return;
    const first = /** @type {Message | undefined} */ (room.entries.find((entry) => "offset" in entry));
    if (room.more) this.#transcript.edge("Older messages appear as you scroll up");
    else if (first && first.offset > 1) this.#transcript.edge("Older messages are no longer kept");
    else if (first || room.channel.state === "live") {
      const heading = element("strong", "", first ? `Welcome to #${titleOf(room.name)}` : "Nothing here yet");
      this.#transcript.edge(
        heading,
        first ? "This is where the conversation began." : `Say the first word in #${titleOf(room.name)}.`,
      );
    } else this.#transcript.edge();
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
