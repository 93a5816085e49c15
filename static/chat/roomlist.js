/** Which rooms there are for one, with what is unread: those that the server counts, and those that this tab does. @module */

import { $ } from "../page.js";
import { DEFAULT_ROOM } from "./address.js";
import { Sidebar } from "./sidebar.js";
import { cleanRoom, isDirect, nameOf, TEAM, titleOf } from "./words.js";

/** @typedef {import("./chat.js").Page} Page */

export class RoomList {
  #page;
  /** @type {import("./memberships.js").Memberships | null} */
  #mine = null;
  /** Rooms with members are made by name here. */
  #team = false;

  /** @param {Page} page */
  constructor(page) {
    this.#page = page;
    this.sidebar = new Sidebar(
      (typed) => page.go(this.roomOfName(typed)),
      (room) => page.leave(room),
    );
  }

  /** The room that somebody means who types its name. @param {string} typed */
  roomOfName(typed) {
    const room = cleanRoom(typed);
    return this.#team && room[0] !== "/" && room !== DEFAULT_ROOM ? `/${TEAM}:${room}` : room;
  }

  /** One's own, of who is signed in. @param {import("./memberships.js").Memberships} mine @param {(channel: string) => Promise<Set<string>>} may */
  async follow(mine, may) {
    this.#mine = mine;
    this.#team = (await may(`${TEAM}:new`)).has("join");
    if (this.#team) /** @type {HTMLElement} */ (document.querySelector("[for=go-room]")).textContent = "Find or make a room";
  }

  /** One's membership. @param {string} channel */
  of(channel) {
    return this.#mine?.of(channel) ?? null;
  }

  /** What one follows. Of the one that is shown nothing is unread: it is just being read. */
  threads() {
    const { thread } = this.#page.beside;
    const shown = thread && this.#page.sees(thread.room) ? thread.room.channel.name : null;
    return (this.#mine?.threads() ?? []).map((row) => (row.channel === shown ? { ...row, unread: 0, mentions: 0 } : row));
  }

  /** The rooms one is a member of. */
  members() {
    return this.#mine?.list() ?? [];
  }

  /** All rooms, one's own first. @returns {import("./sidebar.js").Shown[]} */
  all() {
    const { me, rooms, composer } = this.#page;
    const members = this.members().map((row) => ({ ...row, member: true, draft: composer.begun(row.name) }));
    const { visited } = this.sidebar;
    const others = (visited.includes(DEFAULT_ROOM) ? visited : [DEFAULT_ROOM, ...visited]).filter((name) => !members.some((row) => row.name === name));
    return [
      ...members,
      ...others.map((name) => {
        const unread = rooms.get(name)?.unread ?? 0;
        return { name, title: titleOf(name, me), direct: isDirect(name), unread, draft: composer.begun(name) };
      }),
    ];
  }

  show() {
    const all = this.all();
    const members = all.filter(({ member }) => member);
    this.sidebar.show(this.#page.room.name, [
      { title: "Your rooms", rooms: members.filter(({ direct }) => !direct) },
      { title: "Direct messages", rooms: members.filter(({ direct }) => direct) },
      { title: members.length ? "Other rooms" : "Rooms", rooms: all.filter(({ member }) => !member) },
    ]);
    const threads = this.threads().filter(({ mute, unread, mentions }) => (mute ? mentions : unread));
    $("threads").hidden = this.#page.me === null;
    this.sidebar.showThreads(threads.length, threads.some(({ mentions }) => mentions));
  }

  /** The room above or below the one that is shown. @param {number} step */
  beside(step) {
    const names = this.sidebar.names();
    return names[names.indexOf(this.#page.room.name) + step] ?? null;
  }

  /** What is unread stands in front of the title, too. */
  title() {
    const { room, rooms } = this.#page;
    const members = this.members();
    const counted = [...members.filter(({ name }) => name !== room.name || document.hidden), ...this.threads()];
    const others = [...rooms.values()].filter(({ name }) => !members.some((row) => row.name === name));
    const loud = (/** @type {any} */ { mute, unread, mentions }) => (mute ? mentions : unread);
    const unread = [...counted, ...others].reduce((sum, one) => sum + loud(one), 0);
    document.title = `${unread ? `(${unread}) ` : ""}${nameOf(room.name, this.#page.me)} · Waterspout`;
  }
}
