/**
 * The chat page. Rooms are the channels `chat:<room>`. Guests have no user on the wire, so the name travels in the
 * data: `{"name": "Ann", "text": "Hello"}`.
 *
 *     chat.js        the page: which room is shown, and what a room tells
 *     room.js        a room: its messages, drafts, cursor        transcript.js  the conversation as it is seen
 *     sidebar.js     the rooms                                   composer.js    writing, and the name
 *     banner.js      the connection                              words.js       names and texts from outside
 *
 * @module
 */

import { enter } from "../account/account.js";
import { $, element } from "../page.js";
import { Banner } from "./banner.js";
import { Composer } from "./composer.js";
import { Room } from "./room.js";
import { DEFAULT_ROOM, Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";
import { cleanName, cleanRoom, some } from "./words.js";

/** @typedef {import("./transcript.js").Entry} Entry */
/** @typedef {import("./transcript.js").Message} Message */
/** @typedef {import("./transcript.js").Draft} Draft */

/** Guests come and go unannounced, so now and then they are counted. Milliseconds. */
const COUNT_EVERY = 4000;

const account = await enter();

export class Page {
  client = account.client();
  /** @type {Map<string, Room>} */
  rooms = new Map();
  /** There was a loss, and not all rooms have caught up. */
  #away = false;
  #transcript;
  #banner = new Banner(() => this.client.connect());
  #sidebar = new Sidebar(
    (room) => this.#go(room),
    (room) => this.#leave(room),
  );
  #composer = new Composer(
    {
      say: (text) => this.#say(text),
      typing: (done) => void this.room.sayTyping(this.#composer.name, done),
      rename: () => this.#sidebar.close(),
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
        mayChange: ({ user }) => account.user !== null && account.user !== undefined && user === account.user,
        edit: (message, text) => void this.#change(this.room.edit(message, text)),
        erase: (message) => void this.#change(this.room.erase(message)),
      },
    );
    this.#transcript.onTrim = (first) => this.room.trimmed(first);
    this.room = this.#open(this.#roomOfAddress());
    this.#bind();
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
      room = new Room(name, this.client.channel(`chat:${name}`), this);
      this.rooms.set(name, room);
    }
    if (room === this.room) return room;
    this.room = room; // the others stay subscribed, and count what comes
    room.unread = 0;
    this.#sidebar.visit(name);
    this.#showRooms();
    this.#title();
    this.#banner.clear();
    $("title").textContent = name;
    $("text").placeholder = `Message #${name}`;
    this.redraw(room);
    this.present(room);
    this.typing(room);
    room.enter();
    this.#sidebar.close();
    return room;
  }

  /** @param {string} name */
  #leave(name) {
    this.#sidebar.forget(name);
    const room = this.rooms.get(name);
    if (room === this.room) {
      history.replaceState(null, "", location.pathname); // coming back must not enter it again
      this.#open(DEFAULT_ROOM);
    }
    room?.leave();
    this.rooms.delete(name);
    this.#showRooms();
    this.#title();
    this.#composer.focus();
  }

  #showRooms() {
    this.#sidebar.show(this.room.name, (room) => this.rooms.get(room)?.unread ?? 0);
  }

  #title() {
    const unread = [...this.rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    document.title = `${unread ? `(${unread}) ` : ""}#${this.room.name} · Waterspout`;
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
    this.#title();
    void this.room.channel.members().refresh();
  }

  /** @param {Room} room */
  heard(room) {
    if (this.sees(room)) return;
    this.#title();
    if (room !== this.room) this.#showRooms();
  }

  /** @param {Room} room */
  unmark(room) {
    if (room === this.room) this.#transcript.unmark();
  }

  /** How many are here. @param {Room} room */
  present(room) {
    if (room !== this.room) return;
    const { users, count, guests } = room.channel.members();
    const here = count + guests;
    $("present").hidden = here === 0;
    $("present").querySelector("b").textContent = String(here);
    const names = [...users.keys()].map((user) => cleanName(user)).sort();
    if (count > names.length) names.push(some(count - names.length, "user")); // of many the names are not told
    if (guests) names.push(some(guests, "guest"));
    $("people").replaceChildren(...names.map((name) => element("li", "", name)));
  }

  /** Who types. @param {Room} room */
  typing(room) {
    if (room !== this.room) return;
    const now = Date.now();
    for (const [name, until] of room.typing) if (until < now) room.typing.delete(name);
    const names = [...room.typing.keys()];
    const [first, second] = names;
    const words =
      names.length === 0
        ? ""
        : names.length === 1
          ? `${first} is typing`
          : names.length === 2
            ? `${first} and ${second} are typing`
            : `${names.length} people are typing`;
    $("typing").classList.toggle("shown", words !== "");
    const said = $("typing").querySelector("span");
    if (words && said.textContent !== words) said.textContent = words;
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
      const heading = element("strong", "", first ? `Welcome to #${room.name}` : "Nothing here yet");
      this.#transcript.edge(
        heading,
        first ? "This is where the conversation began." : `Say the first word in #${room.name}.`,
      );
    } else this.#transcript.edge();
  }

  /** @param {Room} room @param {{resumed: boolean}} event */
  caughtUp(room, { resumed }) {
    this.edge(room);
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
