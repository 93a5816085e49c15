/** Which rooms there are for one, with what is unread: those that the server counts, and those that this tab does. @module */

import { Memberships, TEAM } from "./memberships.js";
import { DEFAULT_ROOM, Sidebar } from "./sidebar.js";
import { isDirect, nameOf, titleOf } from "./words.js";

/** @typedef {import("./chat.js").Page} Page */

export class RoomList {
  #page;
  /** @type {Memberships | null} */
  #mine = null;
  /** Rooms with members are made by name here. */
  #team = false;

  /** @param {Page} page @param {(room: string) => void} go @param {(room: string) => void} leave */
  constructor(page, go, leave) {
    this.#page = page;
    this.sidebar = new Sidebar((typed) => go(this.#team && typed[0] !== "/" && typed !== DEFAULT_ROOM ? `/${TEAM}:${typed}` : typed), leave);
  }

  /** For who is signed in. @param {(channel: string) => Promise<Set<string>>} may @param {() => void} onchange */
  async follow(may, onchange) {
    this.#mine = new Memberships(this.#page.client, this.#page.me ?? "", onchange);
    this.#team = (await may(`${TEAM}:new`)).has("join");
    if (this.#team) /** @type {HTMLElement} */ (document.querySelector("[for=go-room]")).textContent = "Find or make a room";
  }

  /** One's membership. @param {string} channel */
  of(channel) {
    return this.#mine?.of(channel) ?? null;
  }

  get #members() {
    return this.#mine?.list() ?? [];
  }

  show() {
    const members = this.#members.map((row) => ({ ...row, member: true }));
    const { visited } = this.sidebar;
    const others = (visited.includes(DEFAULT_ROOM) ? visited : [DEFAULT_ROOM, ...visited])
      .filter((name) => !members.some((row) => row.name === name))
      .map((name) => ({ name, title: titleOf(name, this.#page.me), direct: isDirect(name), unread: this.#page.rooms.get(name)?.unread ?? 0 }));
    this.sidebar.show(this.#page.room.name, [
      { title: "Your rooms", rooms: members.filter(({ direct }) => !direct) },
      { title: "Direct messages", rooms: members.filter(({ direct }) => direct) },
      { title: members.length ? "Other rooms" : "Rooms", rooms: others },
    ]);
  }

  /** What is unread stands in front of the title, too. */
  title() {
    const { room, rooms } = this.#page;
    const members = this.#members;
    const counted = members.filter(({ name }) => name !== room.name || document.hidden);
    const others = [...rooms.values()].filter(({ name }) => !members.some((row) => row.name === name));
    const loud = (/** @type {any} */ { mute, unread, mentions }) => (mute ? mentions : unread);
    const unread = [...counted, ...others].reduce((sum, one) => sum + loud(one), 0);
    document.title = `${unread ? `(${unread}) ` : ""}${nameOf(room.name, this.#page.me)} · Waterspout`;
  }
}
